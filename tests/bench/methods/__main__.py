"""Command line of the benchmark of training methods."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_partial.cli.command import run_command
from nnunet_partial.errors import PartialError
from tests.bench.methods.presets import COLLECTIONS, PRESETS

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.methods",
        description="Trains methods for partly labelled data alike, on phantoms, on real CT where it is there, and on "
        "frames, and writes report.md, methods.csv and pictures. Finished trainings are skipped, so an interrupted run "
        "goes on.",
    )
    parser.add_argument("-o", type=Path, default=Path("bench_methods"), help="output folder (default: %(default)s)")
    parser.add_argument("--preset", choices=tuple(PRESETS), help="sizes (default: gpu where there is one)")
    parser.add_argument("--collection", nargs="+", choices=COLLECTIONS, default=list(COLLECTIONS), metavar="NAME")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="methods (default: all)")
    parser.add_argument(
        "--sampling",
        nargs="+",
        metavar="NAME",
        help="samplings of these methods (default: cmd_anywhere; of shared and ambiguity on phantoms and real all)",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="seeds (default: 0 1 2)")
    parser.add_argument("--iterations", type=int, help="iterations a training (default: the preset's)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes of one thread (default: 1)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where to train (default: cuda for preset gpu)")
    parser.add_argument("--report-only", action="store_true", help="only write the report of what is finished")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = build_parser().parse_args(argv)

    def run() -> int:
        import torch

        from tests.bench.methods.plan import execute_all, planned
        from tests.bench.methods.report import write_report
        from tests.bench.methods.results import Results

        if min(arguments.seeds) < 0 or arguments.jobs < 1 or (arguments.iterations or 1) < 1:
            raise PartialError("expected seeds of 0 or more, and at least 1 job and 1 iteration")
        name = arguments.preset or ("gpu" if torch.cuda.is_available() else "cpu")
        presets = PRESETS[name]
        if arguments.iterations is not None:
            presets = {c: replace(preset, iterations=arguments.iterations) for c, preset in presets.items()}
        if not arguments.report_only:
            keys = planned(arguments.collection, arguments.methods, arguments.sampling, arguments.seeds)
            device = arguments.device or ("cuda" if name == "gpu" else "cpu")
            execute_all(keys, presets, arguments.o, device, arguments.jobs)
        write_report(Results(arguments.o), COLLECTIONS)
        print(f"report: {arguments.o / 'report.md'}")
        return 0

    return run_command(run)


if __name__ == "__main__":
    raise SystemExit(main())
