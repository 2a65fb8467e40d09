"""Medians of measurements, and ratios of the same round."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.bench.inference.results import Key

__all__ = ["Summary"]


@dataclass(frozen=True)
class Summary:
    """The measurements of a part, taken together over rounds.

    Attributes:
        values: What was measured.
    """

    values: Mapping[Key, Mapping[str, Any]]

    @property
    def cases(self) -> list[str]:
        """Cases in the order in which they were found."""
        return list(dict.fromkeys(key.case for key in self.values))

    def who(self, case: str) -> list[str]:
        """Who was measured on a case."""
        return list(dict.fromkeys(key.who for key in self.values if key.case == case))

    def rounds(self, case: str, who: str) -> int:
        """How often."""
        return sum(key.case == case and key.who == who for key in self.values)

    def _of(self, case: str, who: str, quantity: str) -> dict[int, float]:
        """Round to number, where it was measured."""
        return {
            key.run: float(values[quantity])
            for key, values in self.values.items()
            if key.case == case and key.who == who and values.get(quantity) is not None
        }

    def median(self, case: str, who: str, quantity: str) -> float | None:
        """Median over rounds; None where there is none."""
        found = self._of(case, who, quantity)
        return statistics.median(found.values()) if found else None

    def largest(self, case: str, who: str, quantity: str) -> float | None:
        """Largest over rounds; None where there is none."""
        return max(self._of(case, who, quantity).values(), default=None)

    def ratio(self, case: str, one: str, other: str, quantity: str, other_case: str | None = None) -> float | None:
        """Median over rounds of one's number by the other's, both of the same round; None where there is none.

        Args:
            case: Of the one.
            one: Who is divided.
            other: By whom.
            quantity: What.
            other_case: Of the other; the same by default.
        """
        first, second = self._of(case, one, quantity), self._of(other_case or case, other, quantity)
        found = [first[run] / second[run] for run in first if second.get(run)]
        return statistics.median(found) if found else None
