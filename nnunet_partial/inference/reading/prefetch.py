"""The next case is read while the current one is predicted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

__all__ = ["Fetched", "Prefetcher"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Fetched(Generic[Item, Result]):
    """An item and, once it is there, what was read for it.

    Attributes:
        item: What was asked for.
    """

    def __init__(self, item: Item, future: Future[Result]) -> None:
        self.item = item
        self._future: Future[Result] | None = future

    def take(self) -> Result:
        """Waits for the result and hands it over; it is not kept, so that its memory is the caller's to free.

        Raises:
            Exception: Whatever reading this item raised.
            RuntimeError: It was taken before.
        """
        future, self._future = self._future, None
        if future is None:
            raise RuntimeError("the result was taken before")
        return future.result()

    def discard(self) -> None:
        """Does without the result, whatever it is."""
        self._future = None


class Prefetcher(Generic[Item, Result]):
    """Reads items in a thread, at most one ahead of the one handed out last.

    The first item is begun at once, so that it is read while a model is loaded. An item that fails raises from its
    `Fetched.take` only; the items after it are read all the same.

    Args:
        items: What to read, in order.
        read: Reads an item; called in the thread.

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

    def __init__(self, items: Sequence[Item], read: Callable[[Item], Result]) -> None:
        self._items = iter(items)
        self._read = read
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._next = self._begin()

    def _begin(self) -> Fetched[Item, Result] | None:
        for item in self._items:
            return Fetched(item, self._pool.submit(self._read, item))
        return None

    def __iter__(self) -> Iterator[Fetched[Item, Result]]:
        while self._next is not None:
            current, self._next = self._next, None
            self._next = self._begin()  # waits in the pool's queue until the current one is read
            yield current

    def __enter__(self) -> Prefetcher[Item, Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the read in progress and drops what is queued."""
        self._next = None
        self._pool.shutdown(wait=True, cancel_futures=True)
