"""Claims on cases, so that processes that predict one folder share the work and never clash."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["claimed"]

_FOLDER = ".claims"


@contextlib.contextmanager
def claimed(output: Path, case: str) -> Iterator[bool]:
    """Claims a case while the block runs.

    A claim is a lock on a file in a hidden folder of the output: the system gives it to one process at a time, on
    one machine or several that share the folder, and takes it back when the process ends, however that happens.

    Args:
        output: Output folder, which exists.
        case: The case.

    Yields:
        Whether the case is this process's; if not, another one is at work on it.
    """
    folder = output / _FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"{case}.lock"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
        # whoever opened the file in between finds the case done; removing it while locked is what makes that certain
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()
    finally:
        os.close(descriptor)
