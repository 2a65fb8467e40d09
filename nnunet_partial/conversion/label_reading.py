"""Label files of every kind as one array of new label values, in the voxels of the file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nnunet_partial.conversion.case import Box, LabelMap, LabelSource, Masks, Slices
from nnunet_partial.conversion.plan import IGNORE_CODE
from nnunet_partial.conversion.reading import Volume, read_grey, read_labels
from nnunet_partial.conversion.source_files import SourceRecord
from nnunet_partial.errors import LabelError, VolumeError
from nnunet_partial.volumes import Geometry, geometry_difference, value_counts

__all__ = ["Codes", "Overlap", "extent_of", "keep_names", "read_codes"]

Overlap = tuple[str, ...]
"""Structures that share voxels, in the order of the labels."""

_GROUP = "labels"


@dataclass(eq=False)
class Codes:
    """Label values of a case.

    Attributes:
        array: New values; 1 is the first label. Values above their number stand for overlaps, `IGNORE_CODE` for ignore.
        geometry: Where the voxels lie, by the label file; None where it does not say.
        names: The labels.
        overlaps: Value to the structures that share its voxels.
        path: The file, or the first of several.
        counts: Value to its number of voxels; set when the array is final.
    """

    array: npt.NDArray[np.uint16]
    geometry: Geometry | None
    names: tuple[str, ...]
    path: Path
    overlaps: dict[int, Overlap] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)

    def values_of(self, name: str) -> list[int]:
        """Values that mark a structure, overlaps included."""
        return [self.names.index(name) + 1, *(value for value, parts in self.overlaps.items() if name in parts)]


def read_codes(source: LabelSource, lookup: Mapping[int, int], names: tuple[str, ...], record: SourceRecord) -> Codes:
    """Reads the labels of a case.

    Args:
        source: Its label files.
        lookup: Value in the files to new value.
        names: The labels; the first has value 1.
        record: Takes down what was read.

    Returns:
        The new values, in the voxels of the files.

    Raises:
        LabelError: A file holds values that have no meaning.
        VolumeError: A file cannot be read, or masks do not fit together.
    """
    if isinstance(source, Masks):
        codes = _masks(source, names, record)
    elif isinstance(source, Slices):
        pictures = [read_grey(path, record, _GROUP) for path in source.files]
        array = np.stack([_looked_up(p.array, lookup, p.path) for p in pictures], -1) if _alike(pictures) else None
        if array is None:
            raise VolumeError(f"{source.files[0].parent}: the pictures of the slices differ in size")
        codes = Codes(array, None, names, source.files[0])
    else:
        codes = _label_map(source, lookup, names, record)
    if source.box is not None:
        _ignore_outside(codes, source.box)
    return codes


def keep_names(codes: Codes, names: tuple[str, ...], *, ignore_overlaps: bool = False) -> None:
    """Forgets all labels but the first ones.

    Args:
        codes: The labels; changed.
        names: The first of its names; where others mark a voxel alone, it becomes background.
        ignore_overlaps: Voxels of several of these labels become ignore instead of keeping a value of their own.
    """
    if names == codes.names and not (ignore_overlaps and codes.overlaps):
        return
    table = np.arange(IGNORE_CODE + 1, dtype=np.uint16)
    table[len(names) + 1 : len(codes.names) + 1] = 0
    numbers: dict[Overlap, int] = {}
    for value, parts in codes.overlaps.items():
        kept = tuple(part for part in parts if part in names)
        if len(kept) < 2:
            table[value] = names.index(kept[0]) + 1 if kept else 0
        elif ignore_overlaps:
            table[value] = IGNORE_CODE
        else:
            table[value] = numbers.setdefault(kept, len(names) + 1 + len(numbers))
    codes.array = _through(table, codes.array)
    codes.names, codes.overlaps = names, {number: overlap for overlap, number in numbers.items()}


def _through(
    table: npt.NDArray[np.uint16], array: npt.NDArray[np.integer[Any]], low: int = 0
) -> npt.NDArray[np.uint16]:
    """`table[array - low]`, a slice at a time: an index array of a whole volume would be eight bytes a voxel."""
    found = np.empty_like(array, np.uint16)  # in the order of the file
    for index in range(array.shape[-1]):
        found[..., index] = table[array[..., index].astype(np.int64) - low]
    return found


def _alike(pictures: Sequence[Volume]) -> bool:
    if not pictures:
        raise VolumeError("expected the pictures of the slices of a label map, found none")
    return len({picture.array.shape for picture in pictures}) == 1


def _label_map(source: LabelMap, lookup: Mapping[int, int], names: tuple[str, ...], record: SourceRecord) -> Codes:
    volume = read_labels(source.path, record)
    array = volume.array
    if source.clip_negative and array.size and array.min() < 0:
        array = np.maximum(array, 0)
    geometry = volume.geometry
    return Codes(_looked_up(array, lookup, source.path), geometry, names, source.path)


def _looked_up(array: npt.NDArray[np.integer[Any]], lookup: Mapping[int, int], path: Path) -> npt.NDArray[np.uint16]:
    counts = value_counts(array)
    strange = {value: count for value, count in counts.items() if value not in lookup}
    if strange:
        listed = ", ".join(f"{value} in {count}" for value, count in list(strange.items())[:8])
        raise LabelError(
            f"{path}: unknown label values ({listed} voxels), known are {sorted(lookup)}; is it the label map of "
            "another release, or of something else?"
        )
    if all(lookup[value] == value for value in counts):
        return array.astype(np.uint16)
    low, high = min(counts, default=0), max(counts, default=0)
    table = np.zeros(high - low + 1, np.uint16)
    for value in counts:
        table[value - low] = lookup[value]
    return _through(table, array, low)


def _masks(source: Masks, names: tuple[str, ...], record: SourceRecord) -> Codes:
    codes: Codes | None = None
    numbers: dict[Overlap, int] = {}
    for name, path in source.files.items():
        if source.missing != "error" and not os.path.lexists(path):
            continue
        volume = read_labels(path, record, _GROUP)
        if codes is None:
            order: Literal["F", "C"] = "F" if volume.array.flags.f_contiguous else "C"  # as in the file
            codes = Codes(np.zeros(volume.array.shape, np.uint16, order), volume.geometry, names, path)
        assert codes.geometry is not None
        difference = geometry_difference(codes.geometry, volume.geometry)
        if difference:
            difference = difference.replace("the image", codes.path.name).replace("the label map", path.name)
            raise VolumeError(f"{path}: does not lie on the mask {codes.path.name}: {difference}")
        _add_mask(codes, volume.array, name, numbers)
        del volume  # before the next one is read
    if codes is None:
        raise VolumeError(f"{next(iter(source.files.values())).parent}: expected at least one mask, found none")
    return codes


def _add_mask(codes: Codes, marked: npt.NDArray[Any], name: str, numbers: dict[Overlap, int]) -> None:
    value = codes.names.index(name) + 1
    extent = extent_of(marked)
    mask, drawn = marked[extent] != 0, codes.array[extent]
    taken = drawn[mask]
    if not taken.any():
        drawn[mask] = value
        return
    updated = np.full(taken.shape, value, np.uint16)
    for earlier in value_counts(taken):
        if earlier == 0:
            continue
        before = codes.overlaps[earlier] if earlier in codes.overlaps else (codes.names[earlier - 1],)
        parts = {*before, name}
        overlap = tuple(part for part in codes.names if part in parts)
        number = numbers.setdefault(overlap, len(codes.names) + 1 + len(numbers))
        codes.overlaps[number] = overlap
        updated[taken == earlier] = number
    drawn[mask] = updated


def extent_of(mask: npt.NDArray[Any]) -> tuple[slice, ...]:
    """The part of an array in which a mask lies: a few per cent of it, for most organs."""
    extent = [slice(None)] * mask.ndim
    for axis in reversed(range(mask.ndim)):
        part = mask[tuple(extent)]
        marked = np.flatnonzero(part.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        extent[axis] = slice(int(marked[0]), int(marked[-1]) + 1) if marked.size else slice(0)
    return tuple(extent)


def _ignore_outside(codes: Codes, box: Box) -> None:
    shape = codes.array.shape
    inside = len(box) == len(shape) and all(0 <= low < high <= n for (low, high), n in zip(box, shape, strict=True))
    if not inside:
        raise LabelError(f"{codes.path}: the box {box} of annotated voxels does not lie in the label map of {shape}")
    kept = codes.array[tuple(slice(low, high) for low, high in box)].copy()
    codes.array[:] = IGNORE_CODE
    codes.array[tuple(slice(low, high) for low, high in box)] = kept
