"""Checks by which an image vouches for its labels: that they lie where their header or a converter says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["ALL_FLIPS", "Above", "Check", "Intensity", "LeftRight", "Region", "Uniform", "measure_all"]

ALL_FLIPS = tuple("".join(axes) for count in range(4) for axes in combinations("xyz", count))
"""All ways to turn the axes of a volume around: '', 'x', 'y', 'z', 'xy', ..."""

Region = Callable[[str], "npt.NDArray[np.bool_]"]
"""Voxels of a structure, by its name; overlaps with other structures are included."""


class _Share:
    """A check of the share of a structure's voxels whose intensities fit.

    Attributes:
        label: Label name.
        share: Smallest share, 0 to 1.
    """

    label: str
    share: float

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that are looked at."""
        return (self.label,)

    def measure(self, region: Region, image: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> float | None:
        """The share of voxels that fit; None where the structure does not occur."""
        values = image[region(self.label)]
        if values.size == 0:
            return None
        low, high = self._limits(values)
        return float(((values >= low) & (values <= high)).mean())

    def complaint(self, found: float) -> str | None:
        """What is wrong; None where nothing is."""
        if found >= self.share:
            return None
        return f"{found:.0%} of '{self.label}' have intensities {self._wanted()}, expected at least {self.share:.0%}"

    def _limits(self, values: npt.NDArray[Any]) -> tuple[float, float]:
        raise NotImplementedError

    def _wanted(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True)
class Intensity(_Share):
    """Most voxels of a structure have intensities of this range, e.g. a trachea those of air.

    Attributes:
        label: Label name.
        low: Lowest intensity; HU for CT.
        high: Highest intensity.
        share: Smallest share of its voxels, 0 to 1, that must lie in the range.
    """

    label: str
    low: float
    high: float
    share: float = 0.8

    def _limits(self, values: npt.NDArray[Any]) -> tuple[float, float]:
        return self.low, self.high

    def _wanted(self) -> str:
        return f"of {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Uniform(_Share):
    """Most voxels of a structure have about the same intensity, whatever it is: a parenchyma in any phase of contrast.

    Attributes:
        label: Label name.
        within: How far from the median of its voxels intensities may lie; HU for CT.
        share: Smallest share of its voxels, 0 to 1, that must lie as near.
    """

    label: str
    within: float
    share: float = 0.8

    def _limits(self, values: npt.NDArray[Any]) -> tuple[float, float]:
        values.partition((values.size - 1) // 2)  # a voxel's intensity, unlike the mean of two
        middle = float(values[(values.size - 1) // 2])
        return middle - self.within, middle + self.within

    def _wanted(self) -> str:
        return f"within {self.within:g} of their median"


@dataclass(frozen=True)
class LeftRight:
    """A structure lies on the patient's left of another one.

    Attributes:
        left: Label name.
        right: Label name.
    """

    left: str
    right: str

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that are looked at."""
        return (self.left, self.right)

    def measure(self, region: Region, image: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> float | None:
        """1 where the centre of `left` lies on the left, else 0; None where one of them does not occur."""
        return _in_order(self.left, self.right, region, affine[0])  # world coordinates run from left to right

    def complaint(self, found: float) -> str | None:
        """What is wrong; None where nothing is."""
        return None if found else f"'{self.left}' lies on the patient's right of '{self.right}'"


@dataclass(frozen=True)
class Above:
    """A structure lies above another one, nearer to the head.

    Attributes:
        upper: Label name.
        lower: Label name.
    """

    upper: str
    lower: str

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that are looked at."""
        return (self.upper, self.lower)

    def measure(self, region: Region, image: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> float | None:
        """1 where the centre of `upper` lies above, else 0; None where one of them does not occur."""
        return _in_order(self.lower, self.upper, region, affine[2])  # world coordinates run upwards

    def complaint(self, found: float) -> str | None:
        """What is wrong; None where nothing is."""
        return None if found else f"'{self.upper}' lies below '{self.lower}'"


Check = Intensity | Uniform | LeftRight | Above


def _in_order(first: str, second: str, region: Region, row: npt.NDArray[np.float64]) -> float | None:
    """1 where the centre of the first structure has the smaller world coordinate; `row` is a row of the affine."""
    centres = []
    for name in (first, second):
        indices = region(name).nonzero()
        if indices[0].size == 0:
            return None
        centres.append(sum(float(row[axis]) * float(i.mean()) for axis, i in enumerate(indices)))
    return float(centres[0] < centres[1])


def measure_all(
    checks: tuple[Check, ...], region: Region, image: npt.NDArray[Any], affine: npt.NDArray[np.float64]
) -> Mapping[Check, float]:
    """What the checks find, for those whose structures occur."""
    found = {check: check.measure(region, image, affine) for check in checks}
    return {check: value for check, value in found.items() if value is not None}
