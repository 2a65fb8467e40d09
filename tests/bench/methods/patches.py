"""Patches drawn in memory by a method's sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnunet_partial.labels import PartialLabels
from nnunet_partial.sampling import Sampling, VoxelCounts, class_values
from nnunet_partial.sampling.draws import NO_CLASS
from tests.bench.methods.collection import Case

__all__ = ["Batch", "PatchStream", "voxel_counts"]

_GAIN, _SHIFT, _NOISE = 0.1, 0.1, 0.1


@dataclass(frozen=True)
class Batch:
    """A batch of patches.

    Attributes:
        images: float32 (B, channels, *P).
        labels: int16 (B, 1, *P); -1 outside of the image.
        cases: Name of the case of each patch.
    """

    images: Tensor
    labels: Tensor
    cases: tuple[str, ...]


def voxel_counts(cases: Sequence[Case], values: int) -> VoxelCounts:
    """Voxels of each label value in each case."""
    return VoxelCounts(values, {c.name: np.bincount(c.labels[c.labels >= 0], minlength=values) for c in cases})


class PatchStream:
    """Draws batches of patches, reproducibly.

    A draw names a case and a class, whose voxels of which one becomes the centre of the patch; without a class the
    patch lies anywhere. Patches stay inside the volume. Augmentation is a random gain, shift and noise.

    Args:
        cases: Training cases, no smaller than the patch.
        labels: The label space that is trained.
        sampling: How cases and classes are drawn.
        patch: Voxels of a patch.
        seed: Of the draws.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        labels: PartialLabels,
        sampling: Sampling,
        patch: tuple[int, int, int],
        seed: int,
    ) -> None:
        self._cases = {case.name: case for case in cases}
        self._patch = patch
        self._rng = np.random.default_rng((seed, 11))
        names, values = [case.name for case in cases], labels.states.shape[1]
        self._draws = sampling.draws(names, labels, voxel_counts(cases, values))
        taken_for = class_values(labels)
        self._values = {name: taken_for[labels.row_of(name)] for name in names}
        self._places: dict[tuple[str, int], NDArray[np.int64]] = {}

    def batch(self, size: int) -> Batch:
        """The next batch.

        Args:
            size: Patches.
        """
        patches = [self._draw() for _ in range(size)]
        images, labels, names = zip(*patches, strict=True)
        return Batch(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels)[:, None]), names)

    def _draw(self) -> tuple[NDArray[np.float32], NDArray[np.int16], str]:
        name, wanted = self._draws.draw(self._rng)
        case = self._cases[name]
        room = [n - p for n, p in zip(case.labels.shape, self._patch, strict=True)]
        if wanted == NO_CLASS:
            corner = [int(self._rng.integers(free + 1)) for free in room]
        else:
            centre = self._rng.choice(self._voxels_of(case, wanted))
            corner = [int(np.clip(c - p // 2, 0, free)) for c, p, free in zip(centre, self._patch, room, strict=True)]
        box = tuple(slice(c, c + p) for c, p in zip(corner, self._patch, strict=True))
        return self._augmented(case.image[(slice(None), *box)]), case.labels[box], name

    def _voxels_of(self, case: Case, wanted: int) -> NDArray[np.int64]:
        """Voxels of a case that are taken for a class: (n, 3)."""
        if (case.name, wanted) not in self._places:
            values = np.flatnonzero(self._values[case.name][:, wanted])
            self._places[case.name, wanted] = np.argwhere(np.isin(case.labels, values))
        return self._places[case.name, wanted]

    def _augmented(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        gain, shift = self._rng.uniform(1 - _GAIN, 1 + _GAIN), self._rng.normal(0, _SHIFT)
        noise = self._rng.standard_normal(image.shape, dtype=np.float32) * np.float32(self._rng.uniform(0, _NOISE))
        return image * np.float32(gain) + np.float32(shift) + noise
