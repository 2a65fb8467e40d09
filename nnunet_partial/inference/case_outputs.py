"""The outputs of the cases of a folder: which were there before, which are new, and what a killed run left half."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from nnunet_partial.atomic import leftovers, remove_leftover

__all__ = ["CaseOutputs"]

_HEADER = ".one.nii"
"""What the writer of NIfTI files adds to the name of a temporary file for one that holds its header."""

_Identity = tuple[int, int, int]


class CaseOutputs:
    """What there is of each case, now and at the time this was made.

    Whether an output is new is told by the file itself, not by its age: clocks of file servers and machines differ.

    Args:
        cases: The cases.
        paths: Gives the files and folders that make up the output of a case: any one of several lists, as the file
            ending depends on the image.
    """

    def __init__(self, cases: Iterable[str], paths: Callable[[str], Sequence[Sequence[Path]]]) -> None:
        self._paths = paths
        files = {path for case in cases for alternative in paths(case) for path in alternative}
        self._before = {path: _identity(path) for path in files}
        self._leftovers = {folder: leftovers(folder) for folder in {path.parent for path in files}}

    def is_done(self, case: str) -> bool:
        """Whether the output of a case is there."""
        return any(all(path.exists() for path in alternative) for alternative in self._paths(case))

    def is_new(self, case: str) -> bool:
        """Whether the output of a case is there, and all of it is new or was replaced since."""
        return any(
            all(_identity(path) not in (None, self._before[path]) for path in alternative)
            for alternative in self._paths(case)
        )

    def remove_leftovers(self, case: str) -> None:
        """Removes what was left half of a case before. The caller holds the claim on the case."""
        for path in {path for alternative in self._paths(case) for path in alternative}:
            for name in (path.name, path.name + _HEADER):
                for leftover in self._leftovers[path.parent].get(name, []):
                    remove_leftover(leftover)


def _identity(path: Path) -> _Identity | None:
    """Differs between two files that ever had this path; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
