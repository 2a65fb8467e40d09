"""Measures round by round, all competitors in turn, so that a machine whose speed drifts slows all alike."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nnunet_partial.errors import PartialError
from tests.bench.inference.machine import describe_machine
from tests.bench.inference.results import Key, Results

__all__ = ["Task", "run_rounds"]


@dataclass(frozen=True)
class Task:
    """One competitor on one case.

    Attributes:
        part: See `Key`.
        case: See `Key`.
        who: See `Key`.
        measure: Measures once and returns numbers and texts for JSON.
    """

    part: str
    case: str
    who: str
    measure: Callable[[], Mapping[str, Any]] = field(compare=False)


def run_rounds(
    results: Results,
    tasks: Sequence[Task],
    runs: int,
    settings: Mapping[str, Any],
    more_machine: Mapping[str, Any] | None = None,
) -> list[str]:
    """Measures what is not finished yet.

    A competitor that fails is not tried again in later rounds; it is when the benchmark is started again.

    Args:
        results: Where measurements lie.
        tasks: In the order in which each round takes them.
        runs: Number of rounds.
        settings: Must be equal where measurements are compared.
        more_machine: Added to the description of the machine.

    Returns:
        One line a failure.

    Raises:
        PartialError: Measurements with other settings are there.
    """
    keys = [(Key(task.part, task.case, task.who, run), task) for run in range(runs) for task in tasks]
    waiting = [(key, task) for key, task in keys if not results.is_finished(key, settings)]
    print(f"{len(keys) - len(waiting)} measurements are finished, {len(waiting)} to go", file=sys.stderr)
    failed: dict[Task, str] = {}
    for number, (key, task) in enumerate(waiting, start=1):
        if task in failed:
            continue
        print(f"[{number}/{len(waiting)}] {key}", file=sys.stderr, flush=True)
        machine = {**describe_machine(), **(more_machine or {})}
        try:
            values = task.measure()
        except PartialError as error:
            failed[task] = f"{key}: {error}"
            results.save(key, settings, machine, {}, problem=str(error))
            print(f"  failed: {error}", file=sys.stderr)
            continue
        results.save(key, settings, machine, values)
        shown = (f"{name} {value:.4g}" for name, value in values.items() if isinstance(value, float))
        print(f"  {', '.join(shown)}", file=sys.stderr)
    return list(failed.values())
