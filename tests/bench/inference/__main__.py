"""Command line of the benchmark of prediction."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunet_partial.cli.command import run_command
from nnunet_partial.errors import PartialError, ProblemsError
from tests.bench.inference.parts import PARTS, ROWS
from tests.bench.inference.presets import PRESETS

__all__ = ["build_parser", "main"]

_CLASSES = (2, 14, 47, 117)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.inference",
        description="Measures prediction against nnU-Net and a pipeline as TotalSegmentator's, in turn, and writes "
        "report.md and inference.png. Finished measurements are skipped, so an interrupted run goes on.",
    )
    parser.add_argument("-o", type=Path, default=Path("bench_inference"), help="output folder (default: %(default)s)")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="full", help="sizes (default: %(default)s)")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=(*PARTS, *ROWS),
        metavar="ROW",
        help=f"parts ({', '.join(PARTS)}) or rows of the table of goals (1 to 8) (default: all)",
    )
    parser.add_argument("--sizes", nargs="+", metavar="SLICES", help="volumes of the part sizes (default: all)")
    parser.add_argument(
        "--classes", nargs="+", type=int, default=list(_CLASSES), metavar="N", help="of the part sizes (default: all)"
    )
    parser.add_argument(
        "--stock-classes",
        nargs="+",
        type=int,
        default=[14],
        metavar="N",
        help="classes for which the part sizes runs nnU-Net too, where it fits into memory (default: 14)",
    )
    parser.add_argument(
        "--competitors",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names as in the report's files, e.g. nnunet exact.openvino.fp32 (default: all)",
    )
    parser.add_argument(
        "--decoding", choices=("regions", "argmax"), default="regions", help="of the models (default: %(default)s)"
    )
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="rounds (default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of all competitors; nnU-Net's networks take all cores (default: all)"
    )
    parser.add_argument(
        "--iterations", type=int, metavar="N", help="of each phase of the training of the part accuracy, at most"
    )
    parser.add_argument("--report-only", action="store_true", help="only write the report of what is finished")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = build_parser().parse_args(argv)

    def run() -> int:
        from tests.bench.inference.bench import Bench
        from tests.bench.inference.machine import cores
        from tests.bench.inference.parts import carry_out, chosen_parts
        from tests.bench.inference.report import write_report

        preset = PRESETS[arguments.preset]
        bench = Bench(
            arguments.o.resolve(),
            preset,
            arguments.runs,
            cores() if arguments.threads is None else arguments.threads,
            tuple(arguments.sizes or preset.volumes),
            tuple(arguments.classes),
            arguments.decoding,
            tuple(arguments.stock_classes),
            tuple(arguments.competitors),
        )
        bench.check()
        if arguments.iterations is not None and arguments.iterations < 1:
            raise PartialError(f"--iterations: expected at least 1, found {arguments.iterations}")
        problems = []
        if not arguments.report_only:
            problems = carry_out(bench, chosen_parts(arguments.only), arguments.iterations)
        write_report(bench.results)
        print(f"report: {bench.folder / 'report.md'}")
        if problems:
            raise ProblemsError("benchmark of prediction", problems)
        return 0

    return run_command(run)


if __name__ == "__main__":
    raise SystemExit(main())
