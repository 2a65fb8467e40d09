"""Slices of one orientation: which axis of a patch lies across them, and augmentation that leaves them whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from torch import Tensor

from nnunet_partial.compat import determine_do_sep_z_and_axis
from nnunet_partial.errors import PartialError

__all__ = ["SLICES", "RotationInSlices", "axis_across", "keep_slices_whole", "mixed_by_resampling"]

SLICES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Orientation of slices to the axis of the body across them: left-right, front-back, up-down."""

_TIE = 1e-3  # voxels; far above the rounding of float32 coordinates, far below what a label map shows


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


class _WholeSlices(BasicTransform):  # type: ignore[misc]
    """A spatial transform that takes each slice of a label map out of one slice of the case.

    nnU-Net's lets the labels of both neighbouring slices vote, wherever it scales, or turns a patch that has an odd
    number of slices more, or fewer, than what it is cut from. Images are interpolated as ever.

    Args:
        spatial: Leaves the axis where it is: no rotation about others, no elastic deformation.
        axis: The axis across the slices, of those that `spatial` sees.
    """

    def __init__(self, spatial: SpatialTransform, axis: int) -> None:
        super().__init__()
        self.spatial = spatial
        self.axis = axis

    def get_parameters(self, **data_dict: Any) -> dict[str, Any]:
        parameters: dict[str, Any] = self.spatial.get_parameters(**data_dict)
        return parameters

    def _apply_to_image(self, img: Tensor, **params: Any) -> Tensor:
        image: Tensor = self.spatial._apply_to_image(img, **params)
        return image

    def _apply_to_segmentation(self, segmentation: Tensor, **params: Any) -> Tensor:
        grid = params["grid"]
        if grid is not None:  # without one, a patch is cut out voxel by voxel
            params = {**params, "grid": self._snapped(grid, segmentation.shape[1 + self.axis])}
        labels: Tensor = self.spatial._apply_to_segmentation(segmentation, **params)
        return labels

    def _snapped(self, grid: Tensor, size: int) -> Tensor:
        """Sampling places moved to the middle of the nearest slice, the upper one where two are equally near.

        Args:
            grid: (*S, dimensions), as grid_sample takes it: the last axis first, -1 and 1 at the ends of the image.
            size: Slices of the image.
        """
        column = grid.shape[-1] - 1 - self.axis
        places = ((grid[..., column] + 1) * size - 1) / 2
        grid = grid.clone()
        grid[..., column] = (2 * torch.floor(places + 0.5 + _TIE) + 1) / size - 1
        return grid


def keep_slices_whole(transforms: Any, axis: int | None, dummy_2d: bool) -> Any:
    """Has augmentation move labels within slices, or whole slices, and never from one slice into another, in place.

    Args:
        transforms: nnU-Net's training pipeline of batchgeneratorsv2, made with a rotation about `axis` only.
        axis: The axis of a patch across the slices; None leaves all as it is.
        dummy_2d: The pipeline augments each slice of a patch along axis 0 by itself.

    Returns:
        The same pipeline.
    """
    if axis is None or (dummy_2d and axis == 0):
        return transforms
    transforms.transforms = [
        _WholeSlices(t, axis - dummy_2d) if isinstance(t, SpatialTransform) else t for t in transforms.transforms
    ]
    return transforms


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


def mixed_by_resampling(
    images: Iterable[tuple[str, Mapping[str, Any]]],
    axis: int,
    transpose: Sequence[int],
    configuration: Mapping[str, Any],
) -> list[str]:
    """Cases in whose preprocessed label maps two neighbouring slices voted on a slice between them.

    nnU-Net resamples across slices by the nearest one where it takes images for thick slices, more than three times as
    thick as wide, and by a vote of two otherwise.

    Args:
        images: Case and the properties that nnU-Net's preprocessing kept.
        axis: The axis of preprocessed images across the slices.
        transpose: `transpose_forward` of the plans.
        configuration: The 3D configuration, with all that it inherits.
    """
    target = configuration["spacing"]
    by_nnunet = configuration["resampling_fn_seg"] == "resample_data_or_seg_to_shape"
    options = configuration["resampling_fn_seg_kwargs"]
    mixed = []
    for case, properties in images:
        spacing = [properties["spacing"][i] for i in transpose]
        slices = properties["shape_after_cropping_and_before_resampling"][axis]
        if round(spacing[axis] / target[axis] * slices) == slices:
            continue
        apart, apart_axis = determine_do_sep_z_and_axis(options.get("force_separate_z", False), spacing, target)
        if not (by_nnunet and apart and apart_axis == axis and options.get("order_z", 0) == 0):
            mixed.append(case)
    return mixed


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
