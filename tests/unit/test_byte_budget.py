"""Memory that exports of the final validation share."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from nnunet_partial.training.final_validation import ByteBudget


def waits(budget: ByteBudget, size: int) -> tuple[threading.Thread, threading.Event]:
    """A thread that takes, once it may, and what it says then."""
    took = threading.Event()

    def take() -> None:
        budget.take(size)
        took.set()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    return thread, took


def test_what_fits_does_not_wait_and_the_next_one_does():
    budget = ByteBudget(10)
    budget.take(4)
    budget.take(6)
    thread, took = waits(budget, 1)
    assert not took.wait(0.05)
    budget.give_back(4)
    assert took.wait(10)
    thread.join()


def test_more_than_there_is_goes_alone():
    budget = ByteBudget(10)
    budget.take(3)
    thread, took = waits(budget, 11)
    assert not took.wait(0.05)
    budget.give_back(3)
    assert took.wait(10)
    thread.join()
    thread, took = waits(budget, 1)
    assert not took.wait(0.05)
    budget.give_back(11)
    assert took.wait(10)
    thread.join()


def test_never_more_than_the_limit():
    budget, guard = ByteBudget(7), threading.Lock()
    held = most = 0

    def work(size: int) -> None:
        nonlocal held, most
        budget.take(size)
        with guard:
            held += size
            most = max(most, held)
        with guard:
            held -= size
        budget.give_back(size)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [1, 2, 3, 4, 5, 6, 7] * 20))
    assert held == 0
    assert 0 < most <= 7
