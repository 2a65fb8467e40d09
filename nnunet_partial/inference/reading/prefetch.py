"""The next case is read while the current one is predicted."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import TracebackType
from typing import Generic, NoReturn, TypeVar

__all__ = ["Fetched", "Prefetcher"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Fetched(Generic[Item, Result]):
    """An item and what was read for it.

    Attributes:
        item: What was asked for.
    """

    def __init__(self, item: Item, read: Callable[[], Result], reservation: ExitStack) -> None:
        self.item = item
        self._reservation = reservation
        self._outcome: Callable[[], Result] | None
        try:
            result = read()
        except Exception as error:
            self._outcome = _raising(error)
        else:
            self._outcome = lambda: result

    def take(self) -> Result:
        """Hands the result over; it is not kept, so that its memory is the caller's to free.

        Raises:
            Exception: Whatever reading this item raised.
            RuntimeError: It was taken before.
        """
        outcome, self._outcome = self._outcome, None
        if outcome is None:
            raise RuntimeError("the result was taken before")
        return outcome()

    def close(self) -> None:
        """Does without the result, whatever it is, and gives the reservation back."""
        self._outcome = None
        self._reservation.close()


def _unreserved(_: object) -> AbstractContextManager[bool]:
    return nullcontext(True)


class Prefetcher(Generic[Item, Result]):
    """Reads items in a thread, at most one ahead of the one handed out last.

    The first item is begun at once, so that it is read while a model is loaded. An item that fails raises from its
    `Fetched.take` only; the items after it are read all the same.

    Args:
        items: What to read, in order.
        read: Reads an item; called in the thread.
        reserve: Reserves an item as long as a block runs, and says whether that could be done; called in the thread.
            Items that could not be reserved are not read but passed over. By default, all can be.

    Attributes:
        passed_over: The items that could not be reserved, complete after the last item was handed out.

    Example:
        >>> with Prefetcher([1, 0, 2], lambda n: 4 // n) as fetched_items:
        ...     for fetched in fetched_items:
        ...         try:
        ...             print(fetched.item, fetched.take())
        ...         except ZeroDivisionError:
        ...             print(fetched.item, "failed")
        1 4
        0 failed
        2 2
    """

    def __init__(
        self,
        items: Sequence[Item],
        read: Callable[[Item], Result],
        reserve: Callable[[Item], AbstractContextManager[bool]] = _unreserved,
    ) -> None:
        self._items = iter(items)
        self._read = read
        self._reserve = reserve
        self.passed_over: list[Item] = []
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._next: Future[Fetched[Item, Result] | None] | None = self._pool.submit(self._fetch)
        self._current: Fetched[Item, Result] | None = None

    def _fetch(self) -> Fetched[Item, Result] | None:
        """The next item that can be reserved, read; None where there is none."""
        for item in self._items:
            with ExitStack() as stack:
                try:
                    reserved = stack.enter_context(self._reserve(item))
                except Exception as error:
                    return Fetched(item, _raising(error), ExitStack())
                if reserved:
                    return Fetched(item, functools.partial(self._read, item), stack.pop_all())
            self.passed_over.append(item)
        return None

    def __iter__(self) -> Iterator[Fetched[Item, Result]]:
        """Hands out the items that could be reserved, in order; each is closed when the next one is asked for."""
        while self._next is not None:
            self._current = self._next.result()
            self._next = self._pool.submit(self._fetch) if self._current is not None else None
            if self._current is not None:
                yield self._current
                self._current.close()

    def __enter__(self) -> Prefetcher[Item, Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the read in progress, drops what was read and gives reservations back."""
        self._pool.shutdown(wait=True)
        ahead, self._next = self._next, None
        if self._current is not None:
            self._current.close()
        fetched = ahead.result() if ahead is not None else None
        if fetched is not None:
            fetched.close()


def _raising(error: Exception) -> Callable[[], NoReturn]:
    def read() -> NoReturn:
        raise error

    return read
