"""Intensities in the smallest type that holds them, and whether those of CT can be Hounsfield units."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["compact", "doubt_of_hounsfield", "scaled", "slices_of", "smallest_integer"]

_INTEGERS = (np.int16, np.int32)
_LARGEST_FACTOR = 1 << 31

_LOOKED_AT = 100_000
_LOWEST_PERCENTILE = 0.5
_NO_AIR = -200
_SHIFTED_TISSUE = (850, 1200)
_BONE = 300
_SHARE_OF_ALL = 0.1
_SHARE_OF_DENSE = 0.6


def compact(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same intensities in a small type that every reader of NIfTI knows.

    Args:
        array: Numbers of any type and shape.

    Returns:
        The array itself where it is small enough; else a copy, made without another one of its size.
    """
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind == "f":
        fits = all(_fits_int16(array[index]) for index in slices_of(array))
        return array.astype(np.int16 if fits else np.float32, copy=False)
    if array.dtype.itemsize > 2:
        dtype = smallest_integer(int(array.min()), int(array.max()))
        return array.astype(np.float64 if dtype is None else dtype, copy=False)
    return array


def scaled(array: npt.NDArray[Any], slope: float, intercept: float) -> npt.NDArray[Any]:
    """`slope * array + intercept`, made a slice at a time.

    Args:
        array: Stored numbers, of any shape.
        slope: Finite.
        intercept: Finite.

    Returns:
        In the smallest of int16 and int32 that fits, where stored numbers, slope and intercept are integers; else in
        single precision, which holds all intensities of CT exactly.
    """
    whole = array.dtype.kind in "iu" and slope.is_integer() and intercept.is_integer()
    if whole and max(abs(slope), abs(intercept)) < _LARGEST_FACTOR:
        ends = [int(end) * int(slope) + int(intercept) for end in (array.min(), array.max())]
        dtype = smallest_integer(min(ends), max(ends))
        if dtype is not None:
            return _linear(array, np.int64(slope), np.int64(intercept), dtype)
    return _linear(array, np.float32(slope), np.float32(intercept), np.float32)


def _linear(array: npt.NDArray[Any], slope: Any, intercept: Any, dtype: type) -> npt.NDArray[Any]:
    """Computed in the type of the slope."""
    found: npt.NDArray[Any] = np.empty_like(array, dtype)  # in the order of the file
    for index in slices_of(array):
        piece = array[index].astype(type(slope))
        piece *= slope
        piece += intercept
        found[index] = piece
    return found


def slices_of(array: npt.NDArray[Any]) -> Iterator[tuple[Any, ...]]:
    """Indices of all slices across the axis along which memory is farthest apart."""
    axis = max(range(array.ndim), key=lambda a: (array.shape[a] > 1, abs(array.strides[a])))
    return ((*(slice(None),) * axis, position) for position in range(array.shape[axis]))


def _fits_int16(piece: npt.NDArray[Any]) -> bool:
    limits = np.iinfo(np.int16)
    return bool(limits.min <= piece.min() and piece.max() <= limits.max and (np.rint(piece) == piece).all())


def smallest_integer(low: float, high: float) -> type | None:
    """The smaller of int16 and int32 that holds all of a range; None where neither does."""
    return next((t for t in _INTEGERS if np.iinfo(t).min <= low and high <= np.iinfo(t).max), None)


def doubt_of_hounsfield(array: npt.NDArray[Any]) -> str:
    """Whether a CT looks as if nobody had subtracted 1024: air stored as 0 or more, soft tissue near 1000.

    In Hounsfield units air has -1000, fat and soft tissue -150 to 150, and 850 to 1200 is dense bone: a few per cent of
    any part of a body, among more bone of 300 to 850 or above 1200. Where air became 24, fat and soft tissue lie there
    instead, close together. So three things must be found at once: the 0.5 percentile is above -200; a tenth of all
    voxels or more has 850 to 1200; and these are three fifths or more of all voxels above 300.
    An image cropped to a body, or masked with 0, has no air, but nothing much near 1000 either. A crop of bone has
    voxels near 1000, but as many that are lighter or denser. One padded with -1000 or less is not doubted.

    Args:
        array: Intensities; about a hundred thousand of them, evenly spread, are looked at.

    Returns:
        What was found, for the record; '' where there is no doubt.
    """
    step = max(1, int((array.size / _LOOKED_AT) ** (1 / array.ndim)))
    values = array[(slice(None, None, step),) * array.ndim]
    lowest = float(np.percentile(values, _LOWEST_PERCENTILE))
    low, high = _SHIFTED_TISSUE
    tissue = int(np.count_nonzero((values >= low) & (values <= high)))
    dense = int(np.count_nonzero(values > _BONE))
    if lowest <= _NO_AIR or tissue < _SHARE_OF_ALL * values.size or tissue < _SHARE_OF_DENSE * dense:
        return ""
    return (
        f"{_LOWEST_PERCENTILE} % of the voxels lie below {lowest:.4g}, {tissue / values.size:.0%} between {low} and "
        f"{high}"
    )
