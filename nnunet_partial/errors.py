"""Errors meant for users: each says what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["LabelError", "PartialError", "ProblemsError", "VolumeError"]


class PartialError(Exception):
    """An error a user can act on. Commands print its message without a traceback and exit with 1."""


class LabelError(PartialError):
    """A label table, merge file or `partial_labels` block contradicts itself or the data."""


class VolumeError(PartialError):
    """An image or label file cannot be read or written, or its geometry is wrong."""


class ProblemsError(PartialError):
    """Several problems found in one pass, so that a user can mend them all at once.

    Args:
        subject: What was checked, e.g. a dataset folder.
        problems: One line a problem.
    """

    def __init__(self, subject: str, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        super().__init__("\n".join([f"{subject}: {count}", *(f"  - {problem}" for problem in self.problems)]))
