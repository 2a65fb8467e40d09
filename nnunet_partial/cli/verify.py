"""`nnUNetv2_partial_verify`: checks a partly labelled dataset and shows who annotates what."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nnunet_partial.cli.command import add_processes, add_version, output_console, run_command

if TYPE_CHECKING:
    from nnunet_partial.labels.verify import Coverage, VerifyReport

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """The command line of `nnUNetv2_partial_verify`."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_partial_verify",
        description="Checks a partly labelled raw dataset: its table, its files, its folds, and the same image in two "
        "sources. Shows in how many cases every class is annotated. Exits with 1 when there are problems.",
    )
    parser.add_argument("-d", required=True, metavar="ID_OR_NAME_OR_FOLDER", help="dataset, e.g. 100 or a folder")
    add_processes(parser)
    parser.add_argument("--skip_duplicates", action="store_true", help="do not look for the same image twice")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    add_version(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = build_parser().parse_args(argv)
    return run_command(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from nnunet_partial.labels.raw_dataset import find_dataset_folder
    from nnunet_partial.labels.verify import verify_dataset

    folder = find_dataset_folder(arguments.d)
    processes = arguments.np
    report = verify_dataset(folder, processes=processes, find_duplicates=not arguments.skip_duplicates)
    if arguments.json:
        print(json.dumps(_as_json(folder, report), indent=2, ensure_ascii=False))
    else:
        _print_report(output_console(), folder, report)
    return 1 if report.problems else 0


def _as_json(folder: Path, report: VerifyReport) -> dict[str, Any]:
    return {
        "dataset": str(folder),
        "problems": report.problems,
        "notes": report.notes,
        "duplicates": [list(group) for group in report.duplicates],
        "coverage": _coverage_as_json(report.coverage) if report.coverage is not None else None,
    }


def _coverage_as_json(coverage: Coverage) -> dict[str, Any]:
    return {
        source: {
            "cases": int(coverage.total[row]),
            "classes": {
                name: {
                    "annotated": int(coverage.cases[row, column]),
                    "present": int(coverage.present[row, column]),
                    "voxels": int(coverage.voxels[row, column]),
                }
                for column, name in enumerate(coverage.classes)
            },
        }
        for row, source in enumerate(coverage.sources)
    }


def _print_report(console: Console, folder: Path, report: VerifyReport) -> None:
    if report.coverage is not None:
        console.print(_coverage_table(report.coverage))
    for note in report.notes:
        console.print(Text(f"note: {note}"), soft_wrap=True)
    for problem in report.problems:
        console.print(Text(f"problem: {problem}"), soft_wrap=True)
    count = len(report.problems)
    verdict = "no problems" if count == 0 else f"{count} problem{'s' if count > 1 else ''}"
    console.print(Text(f"{folder}: {verdict}"), soft_wrap=True)


def _coverage_table(coverage: Coverage) -> Table:
    """Classes as rows, since there are more of them than sources."""
    table = Table(title="annotated cases (present in), voxels")
    table.add_column(Text("class"))
    for source, total in zip(coverage.sources, coverage.total, strict=True):
        table.add_column(Text(f"{source}\n{total} cases"), justify="right")
    for column, name in enumerate(coverage.classes):
        cells = [
            f"{coverage.cases[row, column]} ({coverage.present[row, column]}), {coverage.voxels[row, column]}"
            if coverage.cases[row, column]
            else "-"
            for row in range(len(coverage.sources))
        ]
        table.add_row(*map(Text, (name, *cells)))
    return table
