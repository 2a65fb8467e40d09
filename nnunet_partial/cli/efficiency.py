"""`nnUNetv2_partial_efficiency`: what a prediction command costs, case by case."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nnunet_partial.cli.command import add_version, output_console, run_command

if TYPE_CHECKING:
    from nnunet_partial.inference.efficiency.results import CaseCost

__all__ = ["build_parser", "main"]

_COLUMNS = {
    "wall_s": "time s",
    "cpu_s": "CPU s",
    "peak_host_mb": "host MB",
    "host_area_mb_s": "host MB·s",
    "peak_gpu_mb": "GPU MB",
    "gpu_area_mb_s": "GPU MB·s",
}


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_partial_efficiency",
        usage="%(prog)s [options] -i IMAGES -o FOLDER -- COMMAND ... {input} ... {output} ...",
        description="Runs a prediction command once for each case of a folder, as the FLARE challenges do, and measures"
        " time, memory of the host and memory of the GPU. Cases that were measured before are skipped.",
    )
    parser.add_argument("-i", type=Path, required=True, metavar="IMAGES", help="images CASE_0000.ending")
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="where tables, picture and logs go")
    parser.add_argument(
        "--interval", type=float, default=0.1, metavar="S", help="seconds between samples (default: %(default)s)"
    )
    parser.add_argument(
        "--gpu",
        type=int,
        metavar="N",
        help="device to read, as nvidia-smi counts (default: the first, if there is one)",
    )
    parser.add_argument("--file_ending", default=".nii.gz", metavar="ENDING", help="of images (default: %(default)s)")
    parser.add_argument("--no_plot", action="store_true", help="draw no picture")
    parser.add_argument(
        "command",
        nargs="+",
        metavar="COMMAND",
        help="program and arguments, after --; {input} and {output} stand for the folders of a case",
    )
    add_version(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 1 where a case failed."""
    arguments = build_parser().parse_args(argv)
    return run_command(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from contextlib import ExitStack, closing

    from nnunet_partial.inference.efficiency.folder_measurement import ResultFolder, measure_folder
    from nnunet_partial.inference.efficiency.gpu_memory import open_gpu_reader
    from nnunet_partial.inference.efficiency.process_tree import host_measure

    errors = Console(stderr=True, highlight=False)

    def report(cost: CaseCost) -> None:
        state = cost.problem.partition(";")[0] if cost.problem else f"{cost.wall_s:.1f} s"
        errors.print(Text(f"{cost.case}: {state}"), soft_wrap=True)

    with ExitStack() as stack:
        gpu = open_gpu_reader(arguments.gpu, arguments.interval)
        if gpu is not None:
            stack.enter_context(closing(gpu))
        costs = measure_folder(
            arguments.i,
            arguments.o,
            arguments.command,
            interval_s=arguments.interval,
            gpu=gpu,
            file_ending=arguments.file_ending,
            report=report,
        )
    results = ResultFolder(arguments.o)
    written = [results.table.name]
    if not arguments.no_plot:
        from nnunet_partial.inference.efficiency.plot import plot_costs
        from nnunet_partial.inference.efficiency.results import read_trace

        traces = {cost.case: read_trace(results.trace(cost.case), arguments.interval) for cost in costs}
        plot_costs(results.plot, costs, traces, host_measure())
        written.append(results.plot.name)
    _print(costs, host_measure())
    for cost in costs:
        if cost.problem:
            errors.print(Text(f"error: {cost.case}: {cost.problem}"), soft_wrap=True)
    output_console().print(Text(f"written to {arguments.o}: {', '.join(written)}"), soft_wrap=True)
    return 1 if any(cost.problem for cost in costs) else 0


def _print(costs: Sequence[CaseCost], measure: str) -> None:
    """Median, mean and largest value over the cases that did not fail."""
    done = [cost for cost in costs if not cost.problem]
    table = Table(
        title=f"{len(done)} of {len(costs)} cases; host memory is {measure.upper()}; MB are 2^20 bytes",
        title_justify="left",
    )
    for column in ("", *_COLUMNS.values()):
        table.add_column(column, justify="right")
    for name, summary in (("median", statistics.median), ("mean", statistics.fmean), ("largest", max)):
        columns = ([v for cost in done if (v := getattr(cost, key)) is not None] for key in _COLUMNS)
        table.add_row(name, *(f"{summary(values):.1f}" if values else "–" for values in columns))
    output_console().print(table)
