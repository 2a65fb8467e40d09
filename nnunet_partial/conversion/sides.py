"""Splitting organs of both sides that have one label: by connected parts, and by the side of the body they lie on.

Only what is beyond doubt is split. The parts of an organ are the connected voxels of all its labels together, lesions
included, so a kidney stays whole where a tumour divides it. They are split where exactly two hold the organ itself, are
of like size, and lie beside each other, on either side of the middle of the body. Everywhere else, as in horseshoe
kidneys, single and transplanted ones, the label of both sides stays.

Smaller pieces, and lesions that touch no organ, take the side on which all of their voxels lie. They keep the label of
both sides where they lie on the middle.

Sides are those of the header: world coordinates run from the patient's left to the right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nnunet_partial.conversion.label_reading import Codes, extent_of
from nnunet_partial.conversion.reading import Volume
from nnunet_partial.conversion.structures import PAIRED_ORGANS

__all__ = ["SPLIT", "split_sides"]

SPLIT = "split"
"""What `split_sides` returns of organs that it splits."""

_LIKE = 0.2
"""Smallest size of the smaller organ, as a share of the larger one."""
_PIECE = 0.05
"""Largest size of a piece that is no organ of its own, as a share of the larger organ."""
_OWN_SIDE = 0.95
"""Smallest share of an organ's voxels that must lie on its side of the middle."""
_AIR_HU = -500.0
"""CT: below this there is air; between the intensities of air and of tissue."""

_NONE, _LEFT, _RIGHT = range(3)


def split_sides(codes: Codes, image: Volume, modality: str) -> dict[str, str]:
    """Gives voxels of organs of both sides the label of their side; `codes.array` and `codes.overlaps` are changed.

    Args:
        codes: The labels, in the voxels of the image; labels of the sides are among its names.
        image: The first channel.
        modality: Of the image; in CT, air is known by its intensity.

    Returns:
        Organ to `SPLIT`, or why not; organs that do not occur are left out.
    """
    outcomes: dict[str, str] = {}
    for organ in PAIRED_ORGANS:
        renamed = {name: pair for name, pair in organ.structures.items() if {name, *pair} <= set(codes.names)}
        if not renamed:
            continue
        marked = _marked(codes, organ.structures)
        extent = extent_of(marked)
        if not marked[extent].size:
            continue
        middle = _middle_of_body(image, extent, modality)
        parts, _ = ndimage.label(marked[extent], np.ones((3, 3, 3), bool))
        whole = _marked(codes, organ.whole)[extent]
        sides, outcomes[organ.name] = _sides_of_parts(parts, whole, extent, image.geometry.affine, middle)
        if outcomes[organ.name] == SPLIT:
            _rename(codes, extent, sides[parts], renamed)
    return outcomes


def _marked(codes: Codes, names: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """Voxels of any of these structures."""
    values = {value for name in names if name in codes.names for value in codes.values_of(name)}
    found = np.zeros(codes.array.shape, bool)
    for value in values:
        found |= codes.array == value
    return found


def _middle_of_body(image: Volume, extent: tuple[slice, ...], modality: str) -> float | None:
    """Left-right world coordinate of the middle of the body, at the height of an organ; None where no body is seen."""
    affine = image.geometry.affine
    upright = int(np.abs(affine[2, :3]).argmax())
    slab = image.array[tuple(part if axis == upright else slice(None) for axis, part in enumerate(extent))]
    if modality.startswith("CT"):
        body = slab > _AIR_HU
    else:
        from skimage import filters  # slow to import

        threshold: Any = filters.threshold_otsu
        body = slab > threshold(slab)
    count = int(np.count_nonzero(body))
    if count == 0:
        return None
    position = float(affine[0, 3])
    for axis in range(3):  # a coordinate is a weighted sum of indices, and so is the mean coordinate of mean indices
        voxels = body.sum(axis=tuple(other for other in range(3) if other != axis), dtype=np.int64)
        first = extent[axis].start if axis == upright else 0
        position += float(affine[0, axis]) * (first + float(voxels @ np.arange(len(voxels))) / count)
    return position


def _sides_of_parts(
    parts: npt.NDArray[np.signedinteger[Any]],
    whole: npt.NDArray[np.bool_],
    extent: tuple[slice, ...],
    affine: npt.NDArray[np.float64],
    middle: float | None,
) -> tuple[npt.NDArray[np.uint8], str]:
    """The side of every part, and `SPLIT` or why none was told.

    Args:
        parts: Number of the part, counted from 1, of every voxel; 0 elsewhere.
        whole: Voxels of the organ itself.
        extent: Where these arrays lie in the image.
        affine: Voxel of the image to world.
        middle: Left-right coordinate of the middle of the body.

    Returns:
        (parts + 1,) sides; and what is recorded.
    """
    sizes = np.bincount(parts.ravel())
    sides = np.zeros(len(sizes), np.uint8)
    organ_sizes = np.where(np.bincount(parts[whole], minlength=len(sizes)) > 0, sizes, 0)
    organ_sizes[0] = 0
    largest = organ_sizes.max()
    organs = np.flatnonzero(organ_sizes >= max(1, _LIKE * largest))
    if np.any((organ_sizes >= max(1, _PIECE * largest)) & (organ_sizes < _LIKE * largest)):
        return sides, "not split: a part too large for a piece and too small for an organ"
    if len(organs) != 2:
        return sides, f"not split: in {len(organs)} parts" if len(organs) != 1 else "not split: in one part"
    if middle is None:
        return sides, "not split: no body is seen in the image"
    places = parts.nonzero()
    numbers = parts[places]
    indices = [place + part.start for place, part in zip(places, extent, strict=True)]
    centres = np.stack([np.bincount(numbers, index, len(sizes))[organs] / sizes[organs] for index in indices])
    distance = np.abs(affine[:3, :3] @ (centres[:, 1] - centres[:, 0]))
    if distance.argmax() != 0:
        return sides, "not split: two parts that do not lie beside each other"
    x = affine[0, 3] + sum(affine[0, axis] * index for axis, index in enumerate(indices))
    on_left = np.bincount(numbers, x < middle, len(sizes)) / np.maximum(sizes, 1)
    on_right = np.bincount(numbers, x > middle, len(sizes)) / np.maximum(sizes, 1)
    left, right = organs if on_left[organs[0]] > on_left[organs[1]] else organs[::-1]
    if on_left[left] < _OWN_SIDE or on_right[right] < _OWN_SIDE:
        return sides, "not split: a part on the wrong side of the body, or across its middle"
    sides[on_left == 1], sides[on_right == 1] = _LEFT, _RIGHT
    sides[left], sides[right], sides[0] = _LEFT, _RIGHT, _NONE
    return sides, SPLIT


def _rename(
    codes: Codes,
    extent: tuple[slice, ...],
    sides: npt.NDArray[np.uint8],
    renamed: Mapping[str, tuple[str, str]],
) -> None:
    """Voxels with a side take the label of that side, also where other structures share them."""
    drawn = codes.array[extent]
    before = drawn.copy()
    meanings = {value: (name,) for value, name in enumerate(codes.names, start=1)} | codes.overlaps
    for value, names in meanings.items():
        if renamed.keys().isdisjoint(names):
            continue
        for side in (_LEFT, _RIGHT):
            voxels = (before == value) & (sides == side)
            if voxels.any():
                new = {renamed[name][side - 1] if name in renamed else name for name in names}
                drawn[voxels] = _value_of(codes, tuple(name for name in codes.names if name in new))


def _value_of(codes: Codes, names: tuple[str, ...]) -> int:
    """The value of structures that share voxels; a new one where they have none yet."""
    if len(names) == 1:
        return codes.names.index(names[0]) + 1
    for value, overlap in codes.overlaps.items():
        if overlap == names:
            return value
    value = max([len(codes.names), *codes.overlaps]) + 1
    codes.overlaps[value] = names
    return value
