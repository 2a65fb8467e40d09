"""nnU-Net's resampling, axis by axis: every kernel it uses is a product of linear maps along single axes.

Linear and nearest interpolation are two weights a voxel (`AxisMap`), splines a matrix that holds both the prefilter
and the evaluation. The results equal nnU-Net's to the rounding of float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from nnunet_partial.inference.model.plan import Resampling

__all__ = ["AxisMap", "VolumeResampler", "axis_maps", "resample_image", "resampled_shape", "separate_axis"]

_ANISOTROPY = 3.0  # nnU-Net's ANISO_THRESHOLD

FloatArray = NDArray[np.float32]
Limits = tuple[FloatArray, FloatArray]
_SplineOrder = Literal[0, 1, 2, 3]
_ALL = slice(None)


@dataclass(frozen=True, eq=False)
class AxisMap:
    """Interpolation along one axis: output i is (1 - weight) · input[lower] + weight · input[upper].

    Attributes:
        lower: intp (n,), not falling.
        upper: intp (n,), `lower` or the voxel after it.
        weight: float64 (n,) in [0, 1); 0 wherever `upper` is `lower`.
    """

    lower: NDArray[np.intp]
    upper: NDArray[np.intp]
    weight: NDArray[np.float64]

    @classmethod
    def linear(cls, size: int, new_size: int) -> AxisMap:
        """Linear interpolation at voxel centres, the rim repeated.

        Args:
            size: Voxels before.
            new_size: Voxels after.
        """
        if size == new_size:
            return cls._copying(np.arange(size))
        place = np.clip((np.arange(new_size) + 0.5) * (size / new_size) - 0.5, 0, size - 1)
        lower = np.floor(place).astype(np.intp)
        weight = place - lower
        return cls(lower, lower + (weight > 0), weight)

    @classmethod
    def nearest(cls, size: int, new_size: int, dtype: type[np.floating[Any]] = np.float64) -> AxisMap:
        """The nearest voxel; halfway between two it is the later one, up to the rounding of `dtype`.

        Args:
            size: Voxels before.
            new_size: Voxels after.
            dtype: Of the computation: SciPy's is float64, torch's float32.
        """
        scale = dtype(size / new_size)
        place = scale * (np.arange(new_size, dtype=dtype) + dtype(0.5))
        if dtype is np.float64:
            place = (place - 0.5) + 0.5  # SciPy's detour by the voxel's centre, rounding included
        return cls._copying(np.clip(np.floor(place).astype(np.intp), 0, size - 1))

    @classmethod
    def _copying(cls, index: NDArray[np.intp]) -> AxisMap:
        return cls(index, index, np.zeros(len(index)))

    @property
    def copies(self) -> bool:
        """Whether each output is one input."""
        return not self.weight.any()

    def part(self, outputs: slice) -> AxisMap:
        """The map of some outputs.

        Args:
            outputs: Which.
        """
        return AxisMap(self.lower[outputs], self.upper[outputs], self.weight[outputs])

    def along(self, volume: FloatArray, axis: int) -> FloatArray:
        """Interpolates along an axis of an array; always a new array.

        Args:
            volume: float32.
            axis: Counted from 0.
        """
        result = np.take(volume, self.lower, axis)
        if not self.copies:
            weight = self.weight.astype(np.float32).reshape([-1 if a == axis else 1 for a in range(volume.ndim)])
            result += weight * (np.take(volume, self.upper, axis) - result)
        return result


def separate_axis(
    rule: Resampling, spacing_mm: Sequence[float], new_spacing_mm: Sequence[float], threshold: float = _ANISOTROPY
) -> int | None:
    """The axis that nnU-Net resamples by itself: the one of thick slices; None where there is none.

    Args:
        rule: Whether slices are resampled separately.
        spacing_mm: Voxel size before, three numbers.
        new_spacing_mm: Voxel size after.
        threshold: Largest voxel size, in smallest ones, above which a volume is anisotropic.
    """
    if rule.separate_z is False:
        return None
    if rule.separate_z or max(spacing_mm) / min(spacing_mm) > threshold:
        decisive = spacing_mm
    elif max(new_spacing_mm) / min(new_spacing_mm) > threshold:
        decisive = new_spacing_mm
    else:
        return None
    thickest = [axis for axis, mm in enumerate(decisive) if max(decisive) / mm == 1]
    return thickest[0] if len(thickest) == 1 else None


def resampled_shape(shape: Sequence[int], spacing_mm: Sequence[float], new_spacing_mm: Sequence[float]) -> list[int]:
    """Voxels along each axis at another voxel size.

    Args:
        shape: Voxels.
        spacing_mm: Their size.
        new_spacing_mm: The other size.
    """
    return [round(mm / new * n) for mm, new, n in zip(spacing_mm, new_spacing_mm, shape, strict=True)]


def axis_maps(
    rule: Resampling,
    shape: Sequence[int],
    new_shape: Sequence[int],
    spacing_mm: Sequence[float],
    new_spacing_mm: Sequence[float],
) -> tuple[AxisMap, AxisMap, AxisMap] | None:
    """The maps of the three axes of a volume, where the rule is linear or nearest; None where it is not.

    Args:
        rule: How volumes are resampled.
        shape: Voxels before, (z, y, x).
        new_shape: Voxels after.
        spacing_mm: Voxel size before.
        new_spacing_mm: Voxel size after.
    """
    if rule.kind == "none" or tuple(shape) == tuple(new_shape):
        return _three(AxisMap.linear(n, n) for n in shape)
    apart = separate_axis(rule, spacing_mm, new_spacing_mm)
    orders = [rule.order_z if axis == apart else rule.order for axis in range(len(shape))]
    if max(orders) > 1:
        return None
    dtype = np.float32 if rule.kind == "torch" else np.float64
    return _three(
        AxisMap.linear(n, new) if order else AxisMap.nearest(n, new, dtype)
        for order, n, new in zip(orders, shape, new_shape, strict=True)
    )


def _three(maps: Iterable[AxisMap]) -> tuple[AxisMap, AxisMap, AxisMap]:
    planes, rows, columns = maps
    return planes, rows, columns


@lru_cache(maxsize=32)
def _spline_matrix(size: int, new_size: int, order: int) -> FloatArray:
    """(new_size, size): a spline along an axis whose rim is repeated, prefilter included."""
    from scipy import ndimage

    identity = np.eye(size)
    columns = [
        ndimage.zoom(
            row, new_size / size, order=cast(_SplineOrder, order), mode="nearest", grid_mode=True, output=np.float64
        )
        for row in identity
    ]
    return np.ascontiguousarray(np.stack(columns, axis=1), np.float32)


def _along(matrix: FloatArray, volume: FloatArray, axis: int) -> FloatArray:
    """A matrix applied along an axis of (z, y, x)."""
    if axis == 2:
        flat = volume.reshape(-1, volume.shape[2]) @ matrix.T
        return np.asarray(flat.reshape(*volume.shape[:2], -1))
    # one product of large matrices: many small ones, plane by plane, keep the threads of BLAS waiting for each other
    first = np.moveaxis(volume, axis, 0)
    flat = matrix @ np.ascontiguousarray(first).reshape(volume.shape[axis], -1)
    return np.moveaxis(flat.reshape(-1, *first.shape[1:]), 0, axis)


def _one_axis(
    volume: FloatArray, axis: int, new_size: int, order: int, torch_rounding: bool, *, outputs: slice = _ALL
) -> FloatArray:
    """Some outputs of (z, y, x) resampled along an axis; a view where nothing is to be done."""
    size = volume.shape[axis]
    if size == new_size:
        return volume[(*[_ALL] * axis, outputs)]
    if order > 1:
        return _along(_spline_matrix(size, new_size, order)[outputs], volume, axis)
    dtype = np.float32 if torch_rounding else np.float64
    axis_map = AxisMap.linear(size, new_size) if order else AxisMap.nearest(size, new_size, dtype)
    return axis_map.part(outputs).along(volume, axis)


@dataclass(frozen=True)
class VolumeResampler:
    """nnU-Net's resampling of volumes (z, y, x), whole or a slab at a time.

    Splines are cut off at the smallest and largest number of the volume, or of the slice where slices are resampled by
    themselves, as scikit-image does. That comes between the axes within slices and the one across them, so slabs are
    cut along an axis within slices: nothing has to be computed twice.

    Attributes:
        rule: How.
        new_shape: Voxels after.
        apart: The axis of slices that are resampled by themselves, if there is one.
    """

    rule: Resampling
    new_shape: tuple[int, ...]
    apart: int | None

    @classmethod
    def between(
        cls, rule: Resampling, new_shape: Sequence[int], spacing_mm: Sequence[float], new_spacing_mm: Sequence[float]
    ) -> VolumeResampler:
        """From one voxel size to another.

        Args:
            rule: How.
            new_shape: Voxels after, along z, y, x.
            spacing_mm: Voxel size.
            new_spacing_mm: Voxel size after.
        """
        return cls(rule, tuple(new_shape), separate_axis(rule, spacing_mm, new_spacing_mm))

    @property
    def slab_axis(self) -> int:
        """The axis along which slabs are cut."""
        return 1 if self.apart == 0 else 0

    def limits(self, volume: FloatArray) -> Limits | None:
        """The numbers that a volume is cut off at, or those of each slice; None where it is not.

        Args:
            volume: As it is before.
        """
        if self.rule.order <= 1:
            return None
        over = None if self.apart is None else self._within
        return volume.min(axis=over, keepdims=True), volume.max(axis=over, keepdims=True)

    def resampled(self, volume: FloatArray, limits: Limits | None, outputs: slice = _ALL) -> FloatArray:
        """A volume, or a slab of it, resampled.

        Args:
            volume: All of it.
            limits: Its `limits`, which all of its slabs share.
            outputs: Of `slab_axis`, counted as in `new_shape`; everything by default.

        Returns:
            (z, y, x); a view where nothing is to be done.
        """
        by_torch = self.rule.kind == "torch"
        first = None if outputs == _ALL else self.slab_axis
        # the axis that shrinks most comes first: less is left for the others; of equal ones the last, which needs no
        # copy
        for axis in sorted(self._within, key=lambda a: (a != first, self.new_shape[a] / volume.shape[a], -a)):
            part = outputs if axis == first else _ALL
            volume = _one_axis(volume, axis, self.new_shape[axis], self.rule.order, by_torch, outputs=part)
        if limits is not None:
            volume = np.clip(volume, *limits)
        if self.apart is not None:
            volume = _one_axis(volume, self.apart, self.new_shape[self.apart], self.rule.order_z, by_torch)
        return volume

    @property
    def _within(self) -> tuple[int, ...]:
        return tuple(axis for axis in range(len(self.new_shape)) if axis != self.apart)


def resample_image(
    image: FloatArray,
    new_shape: Sequence[int],
    spacing_mm: Sequence[float],
    new_spacing_mm: Sequence[float],
    rule: Resampling,
) -> FloatArray:
    """Resamples an image as nnU-Net does, see `VolumeResampler`.

    Args:
        image: float32 (C, z, y, x).
        new_shape: Voxels along z, y, x.
        spacing_mm: Voxel size.
        new_spacing_mm: Voxel size after.
        rule: How.

    Returns:
        float32 (C, *new_shape); the image itself where nothing is to be done.
    """
    if rule.kind == "none" or tuple(image.shape[1:]) == tuple(new_shape):
        return image
    resampler = VolumeResampler.between(rule, new_shape, spacing_mm, new_spacing_mm)
    result = np.empty((image.shape[0], *new_shape), np.float32)
    for channel, volume in enumerate(image):
        result[channel] = resampler.resampled(volume, resampler.limits(volume))
    return result
