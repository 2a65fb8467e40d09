"""The parts of the benchmark, what is measured in each, and carrying them out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nnunet_partial.errors import PartialError
from tests.bench.inference.bench import Bench
from tests.bench.inference.rounds import run_rounds

__all__ = ["PARTS", "ROWS", "carry_out", "chosen_parts"]

PARTS = ("export", "export_many", "input", "end_to_end", "sizes", "accuracy", "gpu")
_INTERVAL_S = 0.1
ROWS = {
    "1": "export",
    "2": "export_many",
    "3": "input",
    "4": "end_to_end",
    "5": "end_to_end",
    "6": "sizes",
    "7": "accuracy",
    "8": "gpu",
}
"""Rows of the table of goals to the part that measures them."""


def chosen_parts(names: Sequence[str] | None) -> list[str]:
    """Parts in their order.

    Args:
        names: Parts or rows; None for all.
    """
    wanted = set(PARTS) if names is None else {ROWS.get(name, name) for name in names}
    return [part for part in PARTS if part in wanted]


def carry_out(bench: Bench, parts: Sequence[str], iterations: int | None = None) -> list[str]:
    """Measures what is not finished of some parts; what a part needs is made first and not measured.

    Args:
        bench: The benchmark.
        parts: Some of `PARTS`.
        iterations: Of each phase of the training of the part `accuracy` at most; None for the preset's.

    Returns:
        One line a failure.
    """
    problems: list[str] = []
    for part in parts:
        print(f"part {part}", file=sys.stderr)
        try:
            problems += _PARTS[part](bench, iterations)
        except PartialError as error:  # the other parts may still be measured
            problems.append(f"{part}: {error}")
    return problems


def _export(bench: Bench, _: int | None) -> list[str]:
    from tests.bench.inference.export import export_tasks

    return run_rounds(bench.results, bench.chosen(export_tasks(bench)), bench.runs, bench.settings("export"))


def _export_many(bench: Bench, _: int | None) -> list[str]:
    from tests.bench.inference.export import many_tasks

    return run_rounds(bench.results, bench.chosen(many_tasks(bench)), bench.runs, bench.settings("export_many"))


def _input(bench: Bench, _: int | None) -> list[str]:
    from tests.bench.inference.input_resampling import input_tasks

    return run_rounds(bench.results, bench.chosen(input_tasks(bench)), bench.runs, bench.settings("input"))


def _end_to_end(bench: Bench, _: int | None) -> list[str]:
    from tests.bench.inference.end_to_end import end_to_end_tasks

    return run_rounds(bench.results, bench.chosen(end_to_end_tasks(bench)), bench.runs, bench.settings("end_to_end"))


def _sizes(bench: Bench, _: int | None) -> list[str]:
    from tests.bench.inference.end_to_end import sizes_tasks

    return run_rounds(bench.results, bench.chosen(sizes_tasks(bench)), bench.runs, bench.settings("sizes"))


def _accuracy(bench: Bench, iterations: int | None) -> list[str]:
    from tests.bench.inference.accuracy import accuracy_tasks
    from tests.bench.inference.real_patient import missing_data

    missing = missing_data()
    bench.results.write_notes("accuracy", [f"Skipped: {missing}."] if missing else [])
    if missing:
        return []
    # the same every time: one round
    return run_rounds(bench.results, bench.chosen(accuracy_tasks(bench, iterations)), 1, bench.settings("accuracy"))


def _gpu(bench: Bench, _: int | None) -> list[str]:
    from nnunet_partial.inference.efficiency.gpu_memory import open_gpu_reader
    from tests.bench.inference.gpu import find_gpu, gpu_tasks

    name = find_gpu()
    bench.results.write_notes("gpu", [] if name else ["Skipped: PyTorch finds no CUDA device."])
    if name is None:
        return []
    reader = open_gpu_reader(None, _INTERVAL_S)
    try:
        return run_rounds(
            bench.results, bench.chosen(gpu_tasks(bench, reader)), bench.runs, bench.settings("gpu"), {"gpu": name}
        )
    finally:
        if reader is not None:
            reader.close()


_PARTS = {
    "export": _export,
    "export_many": _export_many,
    "input": _input,
    "end_to_end": _end_to_end,
    "sizes": _sizes,
    "accuracy": _accuracy,
    "gpu": _gpu,
}
