"""nnUNetv2_partial_evaluate: scores of the annotated structures, as tables and as nnU-Net's summary.json."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_partial.cli.command import add_processes, add_version, run_command

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from nnunet_partial.evaluation import Evaluation

__all__ = ["build_parser", "main"]

_SUMMARY_KEYS = ("foreground_mean", "mean", "classes", "per_source", "not_annotated", "never_present")


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_partial_evaluate",
        description="Scores predictions against references that annotate only some structures. What a case does not "
        "annotate gets no score and enters no mean. Writes summary.json and four tables.",
    )
    parser.add_argument("-ref", type=Path, required=True, metavar="FOLDER", help="reference label maps CASE.ending")
    parser.add_argument("-pred", type=Path, required=True, metavar="FOLDER", help="predicted label maps")
    parser.add_argument(
        "-djfile",
        type=Path,
        metavar="FILE",
        help="dataset.json of the references; by default the one in their folder or beside it",
    )
    parser.add_argument(
        "-pred_djfile",
        type=Path,
        metavar="FILE",
        help="dataset.json of the predictions; by default the one in their folder",
    )
    parser.add_argument("-o", type=Path, metavar="FOLDER", help="where results go; by default the prediction folder")
    parser.add_argument(
        "--nsd_tolerance_mm",
        type=float,
        default=2.0,
        metavar="MM",
        help="tolerance of the surface score, in mm (default: 2); a negative number leaves the surface score out",
    )
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="score these classes only")
    parser.add_argument(
        "--empty",
        choices=["skip", "one"],
        default="skip",
        help="annotated classes that are neither there nor predicted: leave them out of means (default), or count "
        "them as Dice and NSD 1, as the FLARE challenges do",
    )
    parser.add_argument("--chill", action="store_true", help="skip references that have no prediction")
    add_processes(parser)
    parser.add_argument("--json", action="store_true", help="print the means as JSON instead of tables")
    add_version(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    arguments = build_parser().parse_args(argv)
    return run_command(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from nnunet_partial.evaluation import evaluate_folder

    evaluation = evaluate_folder(
        arguments.ref,
        arguments.pred,
        dataset_json=arguments.djfile,
        prediction_json=arguments.pred_djfile,
        output=arguments.o,
        nsd_tolerance_mm=arguments.nsd_tolerance_mm if arguments.nsd_tolerance_mm >= 0 else None,
        classes=arguments.classes,
        empty=arguments.empty,
        chill=arguments.chill,
        processes=arguments.np,
    )
    if arguments.json:
        import json

        means = {key: evaluation.summary[key] for key in _SUMMARY_KEYS}
        print(json.dumps(means, indent=2, ensure_ascii=False, allow_nan=False))
        for note in evaluation.notes:
            print(f"note: {note}", file=sys.stderr)
    else:
        _print(evaluation)
    return 0


def _print(evaluation: Evaluation) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    tables = evaluation.tables
    per_class = _table("per class", tables.per_class)
    per_class.columns[0].footer = Text("mean")
    for column, metric in zip(per_class.columns[1:3], ("dice", "nsd"), strict=True):
        column.footer = _number(tables.overall[metric])
    per_class.show_footer = True
    console.print(per_class)
    annotated = tables.per_source["scored"] + tables.per_source["true_negative"] > 0
    console.print(_table("per source (classes it annotates)", tables.per_source[annotated]))
    for title, names in (("annotated nowhere", tables.not_annotated), ("never present", tables.never_present)):
        if names:
            console.print(Text(f"{title}: {', '.join(names)}"), soft_wrap=True)
    for note in evaluation.notes:
        console.print(Text(f"note: {note}"), soft_wrap=True)
    folder = evaluation.files[0].parent
    console.print(Text(f"written to {folder}: {', '.join(file.name for file in evaluation.files)}"), soft_wrap=True)


def _table(title: str, frame: pd.DataFrame) -> Table:
    """Names, means and counts; a dash where there is no mean."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    names = [column for column in ("source", "class") if column in frame]
    for column in names:
        table.add_column(column, no_wrap=True)
    for column in ("Dice", "NSD", "scored", "true negative", "not annotated"):
        table.add_column(column, justify="right")
    for row in frame.to_dict("records"):
        table.add_row(
            *(Text(str(row[column])) for column in names),
            _number(row["dice"]),
            _number(row["nsd"]),
            *(str(row[column]) for column in ("scored", "true_negative", "not_annotated")),
        )
    return table


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4f}"
