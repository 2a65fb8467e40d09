"""Claims on cases, so that processes that predict one folder share the work and never clash."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from nnunet_partial.errors import PartialError

__all__ = ["claimed"]

_FOLDER = ".claims"
_ATTEMPTS = 1000
_VANISHED = (errno.ENOENT, errno.ESTALE)
"""What the system says of a file that somebody removed; the second one if it was on another machine."""


@contextlib.contextmanager
def claimed(output: Path, case: str) -> Iterator[bool]:
    """Claims a case while the block runs.

    A claim is a lock on a file in a hidden folder of the output: the system gives it to one process at a time, on
    one machine or several that share the folder, and takes it back when the process ends, however that happens.
    The file is removed at the end of the block, and the folder with the last file.

    Args:
        output: Output folder, which exists.
        case: The case.

    Yields:
        Whether the case is this process's; if not, another one is at work on it.

    Raises:
        PartialError: The file cannot be made or locked.
    """
    path = output / _FOLDER / f"{case}.lock"
    try:
        descriptor = _lock(path)
    except OSError as error:
        raise PartialError(
            f"{path}: the case cannot be claimed ({error.strerror}); expected an output folder with room, that may be "
            "written to, on a file system with locks"
        ) from error
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        # in this order: whoever opened the file before finds another one, or none, in its place once it has the lock
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)
        with contextlib.suppress(OSError):  # not empty, or somebody else was first
            path.parent.rmdir()


def _lock(path: Path) -> int | None:
    """A descriptor with the lock on the file that is at `path`; None if another process has that lock.

    Other processes remove the file and its folder at any moment, so that whatever vanishes in between is made again,
    and a lock counts only if it is on the file that others would find.
    """
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(FileExistsError):
            path.parent.mkdir()
        descriptor = None
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                locked, descriptor = descriptor, None
                return locked
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno not in _VANISHED:
                raise
        finally:
            if descriptor is not None:
                os.close(descriptor)
    raise OSError(errno.EBUSY, f"it vanished {_ATTEMPTS} times while it was made")
