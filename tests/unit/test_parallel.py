"""Work over many cases."""

from __future__ import annotations

import os
import signal

import pytest

from nnunet_partial.errors import PartialError, VolumeError
from nnunet_partial.parallel import default_processes, for_each_case


def square(number: int) -> int:
    if number == 3:
        raise VolumeError("three is broken")
    if number == 1:
        raise VolumeError("one is broken")
    if number == -1:
        raise KeyError("a defect")
    if number == -2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


@pytest.mark.parametrize("processes", [1, 2])
def test_results_and_problems_keep_the_order_of_the_items(processes: int) -> None:
    results, problems = for_each_case(square, [5, 3, 4, 1], processes=processes, description="squares")
    assert results == [25, None, 16, None]
    assert problems == ["three is broken", "one is broken"]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_defect_is_raised(processes: int) -> None:
    with pytest.raises(KeyError, match=r"a defect"):
        for_each_case(square, [5, -1, 4], processes=processes, description="squares")


def test_a_killed_worker_is_explained() -> None:
    with pytest.raises(PartialError, match=r"squares: a worker process was killed.*use fewer processes"):
        for_each_case(square, [5, -2, 4], processes=2, description="squares")


def test_nothing_to_do() -> None:
    assert for_each_case(square, [], processes=4, description="squares") == ([], [])


def test_default_is_moderate() -> None:
    assert 1 <= default_processes() <= 8
