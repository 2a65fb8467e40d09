"""Memory of a command and of everything it started, read from Linux's /proc."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from nnunet_partial.errors import PartialError

__all__ = ["HOST_MEASURES", "HostMeasure", "HostMemory", "host_measure", "members", "memory_bytes"]

HostMeasure = Literal["pss", "rss"]
HOST_MEASURES: tuple[HostMeasure, ...] = ("pss", "rss")
"""'pss' shares pages out over the processes that map them, so that a sum over processes counts none twice; 'rss' counts
a page once for every process that maps it."""

_PROC = Path("/proc")
_CHANGE = 0.01
_PARENT, _SESSION = 1, 3  # fields of /proc/PID/stat, counted from the one behind the name
_GONE = (FileNotFoundError, ProcessLookupError)


def host_measure() -> HostMeasure:
    """The better measure that this system has.

    Raises:
        PartialError: The system has no /proc.
    """
    own = _PROC / "self"
    if not (own / "statm").is_file():
        raise PartialError(f"{own}: no such folder; memory is read from Linux's /proc, and this system has none")
    return "pss" if (own / "smaps_rollup").is_file() else "rss"


def members(root: int) -> list[int]:
    """The processes that belong to a command.

    Args:
        root: Its first process, which must lead a session of its own.

    Returns:
        Process numbers: those of its session, also where their parents have ended, and all descendants of these, also
        in sessions of their own. What has ended but is not collected yet may be among them.
    """
    parents: dict[int, int] = {}
    found: set[int] = set()
    for folder in _PROC.iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            text = (folder / "stat").read_text("utf-8", "replace")
        except (*_GONE, PermissionError):
            continue
        # the name, in brackets, may hold anything
        fields = text.rpartition(")")[2].split()
        process = int(folder.name)
        parents[process] = int(fields[_PARENT])
        if process == root or int(fields[_SESSION]) == root:
            found.add(process)
    return sorted(process for process in parents if _descends(process, found, parents))


def _descends(process: int, found: set[int], parents: dict[int, int]) -> bool:
    """Whether a process or one of its ancestors is among those found; adds it to them then."""
    line = []
    while process not in found:
        line.append(process)
        if process not in parents or len(line) > len(parents):
            return False
        process = parents[process]
    found.update(line)
    return True


class HostMemory:
    """Memory of a command while it runs.

    For its PSS the kernel walks over all pages of a process, which takes 50 ms for 8 GB and holds the process up
    meanwhile. It is read where the RSS, which costs nothing, has changed by a hundredth; in between the two are taken
    to change alike.

    Args:
        root: See `members`.
        measure: What is wanted.
    """

    def __init__(self, root: int, measure: HostMeasure) -> None:
        self._root, self._measure = root, measure
        self._rss = self._pss = 0

    def used_bytes(self) -> int:
        """What is used now."""
        processes = members(self._root)
        rss = memory_bytes(processes, "rss")
        if self._measure == "rss":
            return rss
        if abs(rss - self._rss) > _CHANGE * self._rss:
            self._rss, self._pss = rss, memory_bytes(processes, "pss")
        return round(self._pss * rss / self._rss) if self._rss else 0


def memory_bytes(processes: list[int], measure: HostMeasure) -> int:
    """Memory of processes, in bytes; one that has ended counts 0, one whose PSS is secret counts with its RSS."""
    return sum(_memory(_PROC / str(process), measure) for process in processes)


def _memory(folder: Path, measure: HostMeasure) -> int:
    try:
        if measure == "pss":
            try:
                return _pss(folder)
            except PermissionError:  # of another user
                pass
        return int((folder / "statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except _GONE:
        return 0


def _pss(folder: Path) -> int:
    for line in (folder / "smaps_rollup").read_text("ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
