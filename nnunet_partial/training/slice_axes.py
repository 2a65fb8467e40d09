"""Slices of one orientation: which axis of a patch lies across them, and rotations that leave them whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_partial.errors import PartialError

__all__ = ["SLICES", "RotationInSlices", "axis_across"]

SLICES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Orientation of slices to the axis of the body across them: left-right, front-back, up-down."""


@dataclass(frozen=True)
class RotationInSlices:
    """Random angles as batchgeneratorsv2 asks for them: about the axis across the slices only.

    Any other rotation would mix slices that were annotated for different structures, and what a voxel of a mixed slice
    says of one structure would be unknown of all others.

    Attributes:
        axis: Spatial axis of the patch.
        limits: Smallest and largest angle, in radians.
    """

    axis: int
    limits: tuple[float, float]

    def __call__(self, *, image: Any, dim: int) -> float:
        """An angle about axis `dim`."""
        if dim != self.axis:
            return 0.0
        return float(np.random.uniform(*self.limits))  # noqa: NPY002 - the generator of all of nnU-Net's augmentation


def axis_across(slices: str, images: Iterable[tuple[str, Mapping[str, Any]]]) -> int:
    """The array axis of raw images, in nnU-Net's (z, y, x) order, that lies across slices.

    Args:
        slices: One of SLICES.
        images: Case and the properties that nnU-Net's reader gave its image. An image that does not say how it lies
            counts as (up-down, front-back, left-right).

    Raises:
        PartialError: The axis differs from case to case, so that no axis of a patch lies across all slices.
    """
    found: dict[int, str] = {}
    for case, properties in images:
        found.setdefault(_axis_across(SLICES[slices], properties), case)
    if len(found) > 1:
        listed = " and ".join(f"axis {axis} in '{case}'" for axis, case in sorted(found.items()))
        raise PartialError(
            f"nnUNet_partial_slices: {slices} slices lie across {listed}; bring all images into one orientation, e.g. "
            'by "overwrite_image_reader_writer": "NibabelIOWithReorient" in dataset.json, and preprocess again'
        )
    return next(iter(found), 2 - SLICES[slices])


def _axis_across(world: int, properties: Mapping[str, Any]) -> int:
    directions = _directions(properties)
    if directions is None:
        return 2 - world
    # readers turn the order of the axes around: (x, y, z) of the header is (z, y, x) of the array
    return 2 - int(np.abs(directions[world]).argmax())


def _directions(properties: Mapping[str, Any]) -> npt.NDArray[np.float64] | None:
    """Unit vectors of the axes of an image in the order of its header, as columns; None where it does not say."""
    nibabel = properties.get("nibabel_stuff", {})
    affine = nibabel.get("reoriented_affine", nibabel.get("original_affine"))
    if affine is not None:
        matrix = np.asarray(affine, float)[:3, :3]
        return np.asarray(matrix / np.linalg.norm(matrix, axis=0))
    direction = properties.get("sitk_stuff", {}).get("direction", ())
    return np.reshape(direction, (3, 3)).astype(float) if len(direction) == 9 else None
