"""Bringing labels into the voxels of their image, as a converter declares it, and checking that they fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform

from nnunet_partial.conversion.case import LabelSource
from nnunet_partial.conversion.checks import Check, Region, measure_all
from nnunet_partial.conversion.label_reading import Codes
from nnunet_partial.conversion.reading import Volume
from nnunet_partial.errors import LabelError, VolumeError
from nnunet_partial.volumes import Geometry, geometry_difference

__all__ = ["ON_IMAGE", "place", "turned_to_ras"]

ON_IMAGE = "on the grid of the image"
"""What `place` returns of labels whose header is not trusted; what was turned may follow it."""

_CLEARLY = 0.02
"""By how much the sum of what the checks find must be better than for other ways of turning the labels."""


@dataclass(frozen=True, eq=False)
class _Candidate:
    turned: str
    array: npt.NDArray[np.uint16]
    found: Mapping[Check, float]

    @property
    def complaints(self) -> list[str]:
        return [text for check, value in self.found.items() if (text := check.complaint(value))]

    @property
    def score(self) -> float:
        return sum(self.found.values())


def place(codes: Codes, source: LabelSource, image: Volume, checks: tuple[Check, ...]) -> str:
    """Brings labels into the voxels of their image; `codes.array` is replaced.

    Args:
        codes: The labels.
        source: Says what of their geometry is trusted.
        image: The first channel.
        checks: What the image must vouch for.

    Returns:
        What was done, for the record: '' where nothing had to be.

    Raises:
        VolumeError: They do not lie on the image.
        LabelError: The image contradicts them, or cannot tell how they are turned.
    """
    candidates = []
    for turned, array in _arranged(codes, source, image):
        found = measure_all(checks, _region(codes, array), _grey_of(image), image.geometry.affine) if checks else {}
        candidates.append(_Candidate(turned, array, found))
    best = _best(candidates, codes)
    if best.complaints:
        tried = f" (best of the {len(candidates)} ways to turn them)" if len(candidates) > 1 else ""
        raise LabelError(f"{codes.path}: the image contradicts the labels{tried}: {'; '.join(best.complaints)}")
    codes.array = best.array
    if source.grid == "own":
        return ""
    return f"{ON_IMAGE}, {best.turned}" if best.turned else ON_IMAGE


def turned_to_ras(array: npt.NDArray[Any], geometry: Geometry) -> tuple[npt.NDArray[Any], Geometry]:
    """Turns axes, without resampling, so that they run to the right, to the front and upwards.

    Args:
        array: (x, y, z).
        geometry: Its geometry.

    Returns:
        A view of the array, and its geometry.
    """
    orientation = io_orientation(geometry.affine)
    affine = geometry.affine @ inv_ornt_aff(orientation, array.shape)
    turned = apply_orientation(array, orientation)
    return turned, Geometry(turned.shape, affine)


def _arranged(codes: Codes, source: LabelSource, image: Volume) -> Iterator[tuple[str, npt.NDArray[np.uint16]]]:
    """The ways in which labels may lie on the image: what was turned, and the labels."""
    array = codes.array
    if source.grid == "image" or codes.geometry is None or not image.geometry.physical:
        for axes, ordered in _in_order_of_axes(codes, source, image):
            for flip in source.flips:
                turned = [f"axes {axes}"] * (axes != "xyz") + [f"flipped {flip}"] * bool(flip)
                flipped = np.flip(ordered, tuple("xyz".index(axis) for axis in flip)) if flip else ordered
                yield ", ".join(turned), flipped
        return
    if array.ndim != len(image.geometry.shape):
        _check_shape(codes, array.shape, image)
    if not codes.geometry.physical:
        raise VolumeError(f"{codes.path}: has no world coordinates, but its header is to be trusted; see 'grid'")
    transform = ornt_transform(io_orientation(codes.geometry.affine), io_orientation(image.geometry.affine))
    turned = apply_orientation(array, transform)
    affine = codes.geometry.affine @ inv_ornt_aff(transform, array.shape)
    if source.grid == "axes":
        _check_shape(codes, turned.shape, image)
    else:
        difference = geometry_difference(image.geometry, Geometry(turned.shape, affine))
        if difference:
            raise VolumeError(f"{codes.path} does not lie on its image {image.path.name}: {difference}")
    yield "", turned


def _in_order_of_axes(codes: Codes, source: LabelSource, image: Volume) -> Iterator[tuple[str, npt.NDArray[np.uint16]]]:
    """The labels with their axes in each order of `source.axes` in which they have the shape of the image."""
    array = codes.array
    if array.ndim < 3:
        if source.axes != ("xyz",) or any("z" in flip for flip in source.flips):
            raise LabelError(
                f"{codes.path}: a picture has no third axis to turn, found axes {source.axes} and flips {source.flips}"
            )
        _check_shape(codes, array.shape, image)
        yield "xyz", array
        return
    orders = {axes: array.transpose(["xyz".index(axis) for axis in axes]) for axes in source.axes}
    fitting = {axes: ordered for axes, ordered in orders.items() if ordered.shape == image.geometry.shape}
    if not fitting:
        _check_shape(codes, next(iter(orders.values())).shape, image)
    yield from fitting.items()


def _check_shape(codes: Codes, shape: tuple[int, ...], image: Volume) -> None:
    if shape != image.geometry.shape:
        raise VolumeError(
            f"{codes.path} does not lie on its image {image.path.name}: the image has shape {image.geometry.shape}, "
            f"the label map {shape}"
        )


def _grey_of(image: Volume) -> npt.NDArray[Any]:
    return image.array.mean(-1) if image.array.ndim > len(image.geometry.shape) else image.array


def _region(codes: Codes, array: npt.NDArray[np.uint16]) -> Region:
    def region(name: str) -> npt.NDArray[np.bool_]:
        found = np.zeros(array.shape, bool)
        for value in codes.values_of(name):
            found |= array == value
        return found

    return region


def _best(candidates: list[_Candidate], codes: Codes) -> _Candidate:
    """The candidate that the checks speak for, clearly."""
    best = max(candidates, key=lambda candidate: (not candidate.complaints, candidate.score))
    for other in candidates:
        if other is best or np.array_equal(other.array, best.array):
            continue
        if not other.complaints and other.score > best.score - _CLEARLY:
            raise LabelError(
                f"{codes.path}: the image does not tell how its labels are turned: '{best.turned or 'as they are'}' "
                f"and '{other.turned or 'as they are'}' fit alike ({best.score:.3g} and {other.score:.3g}); leave the "
                "case out with --exclude"
            )
    return best
