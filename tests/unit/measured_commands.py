"""Commands of known cost, for the tests that measure them."""

from __future__ import annotations

import sys
from collections.abc import Callable

ALLOCATE = "import time; b = bytearray(2**20 * {mb}); b[::4096] = b'x' * (256 * {mb}); time.sleep({seconds})"


def python(code: str, *arguments: str) -> list[str]:
    # without site-packages, which take time to find
    return [sys.executable, "-S", "-c", code, *arguments]


def allocating(mb: int, seconds: float = 0.6) -> str:
    return ALLOCATE.format(mb=mb, seconds=seconds)


class FakeGpu:
    """A device whose memory is a function of the number of the reading."""

    name = "fake"

    def __init__(self, memory_mb: Callable[[int], float]) -> None:
        self.memory_mb, self.readings, self.closed = memory_mb, 0, False

    def used_mb(self) -> float:
        self.readings += 1
        return self.memory_mb(self.readings - 1)

    def close(self) -> None:
        self.closed = True
