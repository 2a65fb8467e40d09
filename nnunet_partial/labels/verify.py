"""Verifying a partly labelled dataset: its table, its files, its coverage, and leaks between its sources."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from nnunet_partial.errors import LabelError, VolumeError
from nnunet_partial.labels.partial_labels import PartialLabels
from nnunet_partial.labels.raw_dataset import RawCase, RawDataset
from nnunet_partial.labels.sidecar import partial_labels_of
from nnunet_partial.labels.splits import read_splits
from nnunet_partial.labels.table import PRESENT
from nnunet_partial.parallel import for_each_case
from nnunet_partial.volumes import geometry_difference, read_geometry, read_label_map, read_volume, value_counts

__all__ = ["Coverage", "VerifyReport", "verify_dataset", "volume_hash"]


_NARROW = 32  # a range of fewer whole numbers tells images apart badly
_STEPS = 65535


@dataclass(frozen=True)
class Coverage:
    """Who annotates what.

    Attributes:
        sources: Rows.
        classes: Columns.
        cases: (rows, columns) cases in which the class is annotated.
        present: (rows, columns) cases in which it is annotated and present.
        voxels: (rows, columns) voxels known to belong to the class.
        total: (rows,) cases of the source.
    """

    sources: tuple[str, ...]
    classes: tuple[str, ...]
    cases: npt.NDArray[np.int64]
    present: npt.NDArray[np.int64]
    voxels: npt.NDArray[np.int64]
    total: npt.NDArray[np.int64]


@dataclass(frozen=True)
class VerifyReport:
    """What a check of a dataset found.

    Attributes:
        problems: What must be mended, one line each.
        notes: What is worth knowing.
        duplicates: Groups of cases with the same image.
        coverage: The coverage matrix; None where the table itself is unusable.
    """

    problems: list[str]
    notes: list[str]
    duplicates: list[tuple[str, ...]]
    coverage: Coverage | None


@dataclass(frozen=True)
class _Task:
    raw: RawCase
    allowed: frozenset[int]
    hash_image: bool


@dataclass(frozen=True)
class _Found:
    counts: dict[int, int]
    image_hash: str | None


def verify_dataset(folder: Path, *, processes: int = 1, find_duplicates: bool = True) -> VerifyReport:
    """Checks a partly labelled raw dataset.

    Args:
        folder: The raw dataset.
        processes: Worker processes.
        find_duplicates: Hash every image to find the same one twice; reads all images.

    Returns:
        All that was found.

    Raises:
        LabelError: There is no readable dataset.json with a `partial_labels` block.
    """
    dataset = RawDataset(folder)
    labels = partial_labels_of(dataset.json, str(folder / "dataset.json"))
    problems = labels.problems()
    problems += _label_names(dataset, labels)
    unlisted = sorted(set(dataset.cases) - set(labels.cases))
    problems += [f"case '{case}' has no annotation set in partial_labels.cases" for case in unlisted]
    missing = sorted(set(labels.cases) - set(dataset.cases))
    problems += [f"case '{case}' has an annotation set, but no image in imagesTr" for case in missing]
    names = [case for case in dataset.cases if case in labels.cases]
    tasks = [_Task(dataset.cases[c], frozenset(labels.set_of(c).possible), find_duplicates) for c in names]
    found, failed = for_each_case(_check_case, tasks, processes=processes, description="verifying")
    problems += failed
    results = {name: result for name, result in zip(names, found, strict=True) if result is not None}
    duplicates = _duplicates(results)
    splits = read_splits(folder)
    problems += _split_problems(splits, labels)
    names_of_values = {v: n for n, v in dataset.label_values.items() if isinstance(v, int)}
    notes = labels.notes(names_of_values)
    for group in duplicates:
        line = f"the same image in {', '.join(group)}"
        if len({labels.patient_of(c) for c in group}) == 1:
            notes.append(f"{line} (one patient, kept in the same fold)")
        else:
            problems.append(
                f"{line}: a leak between training and validation; exclude all but one, or give them one "
                "patient under 'patients'"
            )
    return VerifyReport(problems, notes, duplicates, _coverage(labels, results))


def volume_hash(array: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> str:
    """Hash of an image that is the same for the same voxels in another orientation, file format or HU offset.

    Args:
        array: (x, y) or (x, y, z) intensities; rounded to whole numbers, or to 65536 steps where that would leave
            too few (intensities scaled to 0..1).
        affine: (4, 4) voxel-to-world, for the orientation.

    Returns:
        Hexadecimal digest.
    """
    orientation = nib.io_orientation(affine)
    if array.ndim == 3 and not np.isnan(orientation).any():
        array = nib.apply_orientation(array, orientation)
    if np.issubdtype(array.dtype, np.floating):
        array = np.nan_to_num(array)
    low, high = float(array.min()), float(array.max())
    if np.issubdtype(array.dtype, np.floating) and 0 < high - low < _NARROW:
        array, low = (array - low) * (_STEPS / (high - low)), 0.0
    digest = hashlib.blake2b(str(array.shape).encode(), digest_size=16)
    for part in np.moveaxis(array, -1, 0):
        digest.update(np.ascontiguousarray(np.round(part - low).astype(np.int32)).tobytes())
    return digest.hexdigest()


def _check_case(task: _Task) -> _Found:
    raw = task.raw
    if raw.label is None:
        raise VolumeError(f"case '{raw.name}': no label map in labelsTr")
    labels, geometry = read_label_map(raw.label)
    for image in raw.images:
        difference = geometry_difference(read_geometry(image), geometry)
        if difference:
            raise VolumeError(f"case '{raw.name}': the label map does not lie on {image.name}: {difference}")
    counts = value_counts(labels)
    strange = [v for v in counts if v not in task.allowed]
    if strange:
        raise LabelError(
            f"case '{raw.name}': values {strange} are not in its annotation set, which knows {sorted(task.allowed)}"
        )
    image_hash = None
    if task.hash_image:
        array, image_geometry = read_volume(raw.images[0])
        image_hash = volume_hash(array, image_geometry.affine)
    return _Found(counts, image_hash)


def _label_names(dataset: RawDataset, labels: PartialLabels) -> list[str]:
    """Values of the table that dataset.json does not name would be dropped by nnU-Net's preprocessing."""
    named = {v for v in dataset.label_values.values() if isinstance(v, int)}
    used = {v for s in labels.sets.values() for v in s.possible}
    problems = [f"value {v} stands in the table, but not in 'labels' of dataset.json" for v in sorted(used - named)]
    if sorted(named) != list(range(len(named))):
        problems.append(f"'labels' of dataset.json must be consecutive from 0, found {sorted(named)}")
    return problems


def _duplicates(results: dict[str, _Found]) -> list[tuple[str, ...]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name, result in results.items():
        if result.image_hash is not None:
            groups[result.image_hash].append(name)
    return [tuple(names) for names in groups.values() if len(names) > 1]


def _split_problems(splits: list[dict[str, list[str]]], labels: PartialLabels) -> list[str]:
    problems = []
    for fold, split in enumerate(splits):
        train = {labels.patient_of(c) for c in split["train"]}
        shared = sorted({labels.patient_of(c) for c in split["val"]} & train)
        if shared:
            problems.append(f"splits_final.json, fold {fold}: patients {shared} are trained on and validated on")
        strange = sorted(set(split["train"] + split["val"]) - set(labels.cases))
        if strange:
            problems.append(f"splits_final.json, fold {fold}: no such cases: {strange}")
    return problems


def _coverage(labels: PartialLabels, results: dict[str, _Found]) -> Coverage:
    shape = (len(labels.sources), len(labels.class_names))
    cases, present, voxels = (np.zeros(shape, np.int64) for _ in range(3))
    total = np.zeros(shape[0], np.int64)
    for name, result in results.items():
        row, table_row = labels.sources.index(labels.source_of(name)), labels.row_of(name)
        counts = np.zeros(labels.states.shape[1], np.int64)
        for value, count in result.counts.items():
            counts[value] = count
        in_class = counts @ (labels.states[table_row] == PRESENT)
        annotated = labels.annotated[table_row]
        cases[row] += annotated
        present[row] += annotated & (in_class > 0)
        voxels[row] += np.where(annotated, in_class, 0)
        total[row] += 1
    return Coverage(labels.sources, labels.class_names, cases, present, voxels, total)
