"""Work over many cases: in processes, with a progress bar, and with every failure collected."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nnunet_partial.errors import PartialError
from nnunet_partial.process_limits import processors

__all__ = ["default_processes", "for_each_case"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_processes() -> int:
    """At most eight, and no more than this process may use."""
    return min(8, processors())


def for_each_case(
    function: Callable[[Item], Result], items: Sequence[Item], *, processes: int, description: str
) -> tuple[list[Result | None], list[str]]:
    """Applies a function to every item; one bad case does not stop the others.

    Args:
        function: Called once an item; must be picklable where `processes` is above 1.
        items: What to work on.
        processes: Worker processes; 1 works in this process.
        description: Label of the progress bar (on standard error).

    Returns:
        Results in the order of `items` (None where it failed), and the messages of all `PartialError`s, in the same
        order. Any other exception is a defect of ours and is raised at once.

    Raises:
        PartialError: A worker process was killed from outside.
    """
    results: list[Result | None] = [None] * len(items)
    problems: dict[int, str] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=len(items))

        def collect(index: int, produce: Callable[[], Result]) -> None:
            try:
                results[index] = produce()
            except PartialError as error:
                problems[index] = str(error)
            progress.advance(task)

        if processes <= 1 or len(items) <= 1:
            for index, item in enumerate(items):
                collect(index, lambda item=item: function(item))  # type: ignore[misc]
            return results, list(problems.values())
        # spawn: forking a process that has running threads (the progress bar's) can dead-lock
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(processes, len(items)), mp_context=context) as pool:
            futures: dict[Future[Result], int] = {pool.submit(function, item): i for i, item in enumerate(items)}
            try:
                for future in as_completed(futures):
                    collect(futures[future], future.result)
            except BrokenProcessPool as error:
                raise PartialError(
                    f"{description}: a worker process was killed, most likely for want of memory; use fewer processes"
                ) from error
            except BaseException:  # also Ctrl+C: what is queued must not be worked off first
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return results, [problems[index] for index in sorted(problems)]
