"""What was drawn in an epoch, next to what should have been."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnunet_partial.atomic import write_text
from nnunet_partial.sampling.draws import Draws, Level

__all__ = ["FrequencyLog", "FrequencyRow"]

_LEVELS: tuple[Level, ...] = ("class", "modality", "source")


@dataclass(frozen=True)
class FrequencyRow:
    """One line of the table.

    Attributes:
        epoch: Epoch.
        level: 'class', 'modality' or 'source'.
        name: What was drawn at that level.
        declared: Its probability.
        realised: Its share of the patches drawn; NaN where there were none.
        draws: How often it was drawn.
    """

    epoch: int
    level: str
    name: str
    declared: float
    realised: float
    draws: int


class FrequencyLog:
    """Collects the drawn cases and classes of an epoch.

    Args:
        draws: The declared distribution.
    """

    def __init__(self, draws: Draws) -> None:
        self._draws = draws
        self._case_index = {case: index for index, case in enumerate(draws.cases)}
        self._declared = {level: draws.marginal(level) for level in _LEVELS}
        self._batches: list[npt.NDArray[np.int64]] = []

    @property
    def drawn(self) -> npt.NDArray[np.int64]:
        """(n, 2) index of the case and of the class of every patch: what ranks send each other."""
        return np.concatenate([np.empty((0, 2), np.int64), *self._batches])

    def reset(self) -> None:
        """Starts a new epoch."""
        self._batches.clear()

    def add(self, cases: Sequence[str], classes: npt.ArrayLike) -> None:
        """Adds a batch.

        Args:
            cases: 'keys' of the batch, (B,).
            classes: 'classes' of the batch, (B,).
        """
        self._batches.append(np.stack([[self._case_index[str(c)] for c in cases], np.asarray(classes, np.int64)], 1))

    def merge(self, drawn: npt.NDArray[np.int64]) -> None:
        """Adds what another rank has `drawn`."""
        self._batches.append(drawn)

    def rows(self, epoch: int) -> list[FrequencyRow]:
        """The table of this epoch."""
        rows = []
        case, class_ = self.drawn.T
        total = len(case)
        for level, declared in self._declared.items():
            counts = np.bincount(self._draws.indices(level, case, class_), minlength=len(declared))
            for (name, probability), n in zip(declared.items(), counts.tolist(), strict=True):
                rows.append(FrequencyRow(epoch, level, name, probability, n / total if total else float("nan"), n))
        return rows

    def lines(self) -> list[str]:
        """Lines for the log file: at each level, realised (declared) shares."""
        rows = self.rows(0)
        lines = [f"Drew {len(self.drawn)} patches; share of them and, in brackets, probability of"]
        for level in _LEVELS:
            shares = [f"{row.name} {row.realised:.4f} ({row.declared:.4f})" for row in rows if row.level == level]
            lines.append(f"  {level}: {', '.join(shares)}")
        return lines

    def write_csv(self, path: Path, epoch: int) -> None:
        """Writes this epoch's rows at the end of a CSV file, which is made where it is missing.

        Rows that the file already has of this epoch are replaced, so that a training that was continued from an
        earlier checkpoint leaves no epoch twice.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for row in self.rows(epoch):
            writer.writerow(f"{entry:.6g}" if isinstance(entry, float) else entry for entry in astuple(row))
        header = ",".join(column.name for column in fields(FrequencyRow)) + "\n"
        before = path.read_text(encoding="utf-8").splitlines(keepends=True)[1:] if path.exists() else []
        kept = [line for line in before if not line.startswith(f"{epoch},")]
        write_text(path, "".join([header, *kept, text.getvalue()]))
