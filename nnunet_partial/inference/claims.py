"""Claims on cases, so that processes that predict one folder share the work and never clash."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from nnunet_partial.errors import PartialError

__all__ = ["claimed", "has_locks", "reserved"]

_FOLDER = ".claims"
_CLAIM, _RESERVATION = ".lock", ".reading"
_ATTEMPTS = 1000
_VANISHED = (errno.ENOENT, errno.ESTALE)
"""What the system says of a file that somebody removed; the second one if it was on another machine."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
"""What a file system says that knows no locks, such as some network ones."""

_lockless: set[Path] = set()
"""Output folders that turned out to be on such a file system."""


@contextlib.contextmanager
def claimed(output: Path, case: str) -> Iterator[bool]:
    """Claims a case while the block runs.

    A claim is a lock on a file in a hidden folder of the output: the system gives it to one process at a time, on
    one machine or several that share the folder, and takes it back when the process ends, however that happens.
    The file is removed at the end of the block, and the folder with the last file.

    On a file system without locks each process gets every claim, and the first one warns.

    Args:
        output: Output folder, which exists.
        case: The case.

    Yields:
        Whether the case is this process's; if not, another one is at work on it.

    Raises:
        PartialError: The file cannot be made or locked.
    """
    with _held(output, f"{case}{_CLAIM}") as is_mine:
        yield is_mine


@contextlib.contextmanager
def reserved(output: Path, case: str) -> Iterator[bool]:
    """Reserves a case that is to be read ahead while the block runs.

    A reservation tells other processes that they need not read the case, too. It is no claim: a process with nothing
    else to do may claim the case all the same.

    Args:
        output: Output folder, which exists.
        case: The case.

    Yields:
        Whether it is this process's; if not, another one has reserved or claimed the case.

    Raises:
        PartialError: The file cannot be made or locked.
    """
    with _held(output, f"{case}{_RESERVATION}") as is_mine:
        yield is_mine and _is_free(output, case)


def _is_free(output: Path, case: str) -> bool:
    with claimed(output, case) as is_mine:
        return is_mine


def has_locks(output: Path) -> bool:
    """Whether claims keep processes apart, as far as is known: the first claim shows."""
    return output not in _lockless


@contextlib.contextmanager
def _held(output: Path, name: str) -> Iterator[bool]:
    if not has_locks(output):
        yield True
        return
    path = output / _FOLDER / name
    try:
        descriptor = _lock(path)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise PartialError(
                f"{path}: the case cannot be claimed ({error.strerror}); expected an output folder with room, that may "
                "be written to"
            ) from error
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()
        _go_without_locks(output, error)
        yield True
        return
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


def _go_without_locks(output: Path, error: OSError) -> None:
    if has_locks(output):  # only the first of several threads warns
        _lockless.add(output)
        warnings.warn(
            f"{output}: its file system has no locks ({error.strerror}): processes that predict this folder at the "
            "same time would predict the same cases, unless each has its share by -num_parts and -part_id",
            stacklevel=2,
        )


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
