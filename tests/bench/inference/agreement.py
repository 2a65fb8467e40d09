"""How far two label maps agree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from nnunet_partial.errors import PartialError

__all__ = ["Agreement", "agreement", "agreement_of_files", "read_labels"]


@dataclass(frozen=True)
class Agreement:
    """Agreement of a label map with a reference.

    Attributes:
        different: Share of the voxels that differ.
        dice: Value to Dice, of the values above 0 that one of them has.
    """

    different: float
    dice: dict[int, float]

    @property
    def mean_dice(self) -> float:
        """Mean over values; 1 where there is none but the background."""
        return float(np.mean(list(self.dice.values()))) if self.dice else 1.0


def read_labels(path: Path) -> NDArray[np.integer[Any]]:
    """A label map as its file has it.

    Args:
        path: NIfTI file.

    Raises:
        PartialError: It holds no whole numbers.
    """
    labels: NDArray[np.integer[Any]] = np.asanyarray(nib.load(path).dataobj)
    if labels.dtype.kind not in "iu":
        raise PartialError(f"{path}: expected whole numbers, found {labels.dtype}")
    return labels


def agreement(reference: NDArray[np.integer[Any]], found: NDArray[np.integer[Any]]) -> Agreement:
    """Compares two label maps.

    Args:
        reference: Values of 0 or more, any shape.
        found: The same shape.

    Raises:
        PartialError: The shapes differ.
    """
    if reference.shape != found.shape:
        raise PartialError(f"label maps: expected one shape, found {reference.shape} and {found.shape}")
    values = int(max(reference.max(initial=0), found.max(initial=0))) + 1
    counts = np.zeros(values * values, np.int64)
    # slice by slice: the pairs of a whole volume take as much memory as eight label maps
    for one, other in zip(np.moveaxis(reference, -1, 0), np.moveaxis(found, -1, 0), strict=True):
        counts += np.bincount((one.astype(np.int64) * values + other).ravel(), minlength=len(counts))
    pairs = counts.reshape(values, values)
    both, sizes = np.diag(pairs), pairs.sum(0) + pairs.sum(1)
    dice = {value: float(2 * both[value] / sizes[value]) for value in range(1, values) if sizes[value]}
    return Agreement(float(1 - both.sum() / max(1, pairs.sum())), dice)


def agreement_of_files(reference: Path, found: Path) -> Agreement:
    """Compares two label maps, see `agreement`.

    Args:
        reference: NIfTI file.
        found: NIfTI file.
    """
    return agreement(read_labels(reference), read_labels(found))
