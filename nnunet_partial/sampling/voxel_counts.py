"""How many voxels of each label value every case has, counted once; and classes that preprocessing made vanish."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from rich.console import Console
from rich.progress import track

from nnunet_partial.atomic import write_text
from nnunet_partial.errors import LabelError, VolumeError
from nnunet_partial.labels import PartialLabels
from nnunet_partial.parallel import default_processes
from nnunet_partial.sampling.class_values import class_values
from nnunet_partial.volumes import read_label_map, value_counts

__all__ = [
    "VoxelCounts",
    "class_voxels",
    "count_raw_voxels",
    "count_voxels",
    "describe_missing",
    "vanished",
]

_FORMAT = 3  # 1 did not count voxels outside the image, 2 took them for value 0
_PREPROCESSED_ENDINGS = ("_seg.b2nd", ".npz")
_SAVE_EVERY_SECONDS = 30.0
_NAMED = 3


@dataclass(frozen=True)
class VoxelCounts:
    """Voxels of every label value, case by case.

    Attributes:
        values: Number of label values V.
        of: Case identifier to int64 (V,), the voxels of each value. In preprocessed label maps -1 (outside the nonzero
            mask) counts as the value that it becomes before the loss, see `outside_values`.
    """

    values: int
    of: Mapping[str, npt.NDArray[np.int64]]

    def matrix(self, cases: Sequence[str]) -> npt.NDArray[np.int64]:
        """Counts of some cases, (N, V)."""
        return np.array([self.of[case] for case in cases], np.int64).reshape(len(cases), self.values)


def count_voxels(
    dataset: nnUNetBaseDataset,
    cases: Sequence[str],
    values: int,
    *,
    cache: Path,
    outside: Mapping[str, int] | None = None,
    threads: int | None = None,
) -> VoxelCounts:
    """Counts the voxels of preprocessed label maps.

    Every file is read once: counts are kept in the cache together with the file's size and time of change. They are
    saved while counting, so that an interrupted run goes on where it was. Several processes may share a cache.

    Args:
        dataset: nnU-Net's preprocessed dataset.
        cases: Which of its cases.
        values: Number of label values.
        cache: JSON file; made where it is missing. It must not lie in the dataset's folder, where nnU-Net allows
            preprocessed cases only.
        outside: Case identifier to the value that -1 counts as; None for 0 in all cases.
        threads: Cases counted at a time; None for the processors of this machine, at most eight.

    Raises:
        VolumeError: A preprocessed label map is missing.
        LabelError: A label map holds a value beyond the label values.
    """
    files = {case: _preprocessed_file(Path(dataset.source_folder), case) for case in cases}

    def count(case: str) -> dict[int, int]:
        return _count(np.asarray(dataset.load_case(case)[1][:])[0])

    counter = _CachedCounter(cache, "preprocessed", threads)
    return _checked(counter.counts(files, count, "counting voxels"), values, files, outside)


def count_raw_voxels(
    labels: PartialLabels,
    counts: VoxelCounts,
    folder: Path,
    file_ending: str,
    *,
    cache: Path,
    threads: int | None = None,
) -> VoxelCounts:
    """Counts the voxels of raw label maps, for those cases only in which a class may have vanished.

    These are the cases without a preprocessed voxel of a class for which their annotation set has a value.

    Args:
        labels: The label model.
        counts: Voxels of the preprocessed label maps.
        folder: Folder of the raw label maps CASE.ending, `gt_segmentations` in the preprocessed dataset.
        file_ending: Their ending, from dataset.json.
        cache: As for `count_voxels`; the same file may be used.
        threads: As for `count_voxels`.

    Raises:
        VolumeError: A label map is missing or cannot be read.
        LabelError: A label map holds a value beyond the label values.
    """
    cases = list(counts.of)
    empty = class_voxels(labels, counts, cases) == 0
    doubtful = (_has_label(labels, cases) & empty).any(1)
    files = {case: folder / f"{case}{file_ending}" for case, doubt in zip(cases, doubtful, strict=True) if doubt}
    counter = _CachedCounter(cache, "raw", threads)
    found = counter.counts(
        files, lambda case: value_counts(read_label_map(files[case])[0]), "looking for vanished classes"
    )
    return _checked(found, counts.values, files)


def class_voxels(labels: PartialLabels, counts: VoxelCounts, cases: Sequence[str]) -> npt.NDArray[np.int64]:
    """Voxels of every class in every case, (N, C): those of all values that are taken for the class."""
    member = class_values(labels).astype(np.int64)
    rows = np.array([labels.row_of(case) for case in cases], np.int64)
    voxels, found = counts.matrix(cases), np.zeros((len(cases), member.shape[2]), np.int64)
    for row in np.unique(rows):
        found[rows == row] = voxels[rows == row] @ member[row]
    return found


def vanished(labels: PartialLabels, counts: VoxelCounts, raw: VoxelCounts) -> list[tuple[str, str]]:
    """Classes with voxels in a raw label map and none in the preprocessed one.

    Args:
        labels: The label model.
        counts: Voxels of the preprocessed label maps.
        raw: Voxels of raw label maps, of some of the cases.

    Returns:
        Pairs of case and class name.
    """
    cases = list(raw.of)
    gone = (class_voxels(labels, raw, cases) > 0) & (class_voxels(labels, counts, cases) == 0)
    return [(cases[i], labels.class_names[c]) for i, c in np.argwhere(gone)]


def describe_missing(
    labels: PartialLabels, counts: VoxelCounts, cases: Sequence[str], gone: Sequence[tuple[str, str]]
) -> list[str]:
    """Lines for the log: classes that vanish at the target spacing, and classes that no patch can be centred on.

    Args:
        labels: The label model.
        counts: Voxels of the preprocessed label maps.
        cases: The cases of the fold.
        gone: Pairs of case and class, from `vanished`; those of other cases are left out.
    """
    chosen = set(cases)
    held = (class_voxels(labels, counts, cases) > 0).sum(0)
    could = _has_label(labels, cases).sum(0)
    lines = []
    for name, holding, annotating in zip(labels.class_names, held.tolist(), could.tolist(), strict=True):
        lost = [case for case, lost_class in gone if lost_class == name and case in chosen]
        if lost:
            listed = ", ".join(lost[:_NAMED]) + (", ..." if len(lost) > _NAMED else "")
            lines.append(
                f"class '{name}': its voxels vanish at the target spacing in {len(lost)} of {holding + len(lost)} "
                f"cases: {listed}"
            )
        if not holding:
            lines.append(
                f"class '{name}': no voxel in any of the {annotating} cases of this fold that have a label for it; "
                "no patch is centred on it"
            )
    return lines


def _has_label(labels: PartialLabels, cases: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Whether the annotation set of each case has a value for each class, (N, C)."""
    table: npt.NDArray[np.bool_] = np.any(class_values(labels), axis=1)
    return table[np.array([labels.row_of(case) for case in cases], np.int64)]


class _CachedCounter:
    """Counts of one kind of label map in a JSON file: case to the file's stamp and its counts.

    Args:
        cache: The file.
        section: Kind of label map.
        threads: Files counted at a time.
    """

    def __init__(self, cache: Path, section: str, threads: int | None) -> None:
        self._cache = cache
        self._section = section
        self._threads = threads or default_processes()

    def counts(
        self, files: Mapping[str, Path], count: Callable[[str], dict[int, int]], description: str
    ) -> dict[str, dict[int, int]]:
        """Case to value to voxels; counts what the cache does not know or what has changed since."""
        stamps = {case: _stamp(path) for case, path in files.items()}
        stored = self._read().get(self._section, {})
        entries = {c: stored[c] for c, stamp in stamps.items() if c in stored and stored[c]["file"] == stamp}
        missing = [case for case in files if case not in entries]
        fresh: dict[str, Any] = {}
        pool, saved = ThreadPoolExecutor(self._threads), time.monotonic()
        try:
            results = zip(missing, pool.map(count, missing), strict=True)
            bar = track(results, description, len(missing), console=Console(stderr=True), transient=True)
            for case, voxels in bar if missing else ():
                fresh[case] = {"file": stamps[case], "voxels": {str(v): n for v, n in voxels.items()}}
                if time.monotonic() - saved > _SAVE_EVERY_SECONDS:
                    self._save(fresh)
                    saved = time.monotonic()
        finally:
            pool.shutdown(cancel_futures=True)
            if fresh:
                self._save(fresh)
        entries.update(fresh)
        return {case: {int(v): n for v, n in entries[case]["voxels"].items()} for case in files}

    def _read(self) -> dict[str, Any]:
        """Content of the cache; empty where there is none, or none that can be used."""
        try:
            content = json.loads(self._cache.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) and content.get("format") == _FORMAT else {}

    def _save(self, fresh: Mapping[str, Any]) -> None:
        content = self._read()  # again, as another process may have added to it
        content = {**content, "format": _FORMAT, self._section: {**content.get(self._section, {}), **fresh}}
        write_text(self._cache, json.dumps(content) + "\n")


def _stamp(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError as error:
        raise VolumeError(f"{path}: no such label map; preprocess the dataset again") from error
    return [status.st_size, status.st_mtime_ns]


def _preprocessed_file(folder: Path, case: str) -> Path:
    candidates = [folder / f"{case}{ending}" for ending in _PREPROCESSED_ENDINGS]
    return next((path for path in candidates if path.exists()), candidates[0])


def _count(labels: npt.NDArray[np.integer[Any]]) -> dict[int, int]:
    """Voxels of every value from -1 on; unlike NumPy's, torch's counting lets other threads work meanwhile."""
    values = int(labels.max(initial=0)) + 1
    total = torch.zeros(values + 1, dtype=torch.int64)
    for part in labels:
        total += torch.bincount(torch.from_numpy(part.astype(np.int32).ravel() + 1), minlength=values + 1)
    return {value: n for value, n in enumerate(total.tolist(), start=-1) if n}


def _checked(
    found: Mapping[str, Mapping[int, int]],
    values: int,
    files: Mapping[str, Path],
    outside: Mapping[str, int] | None = None,
) -> VoxelCounts:
    result = {}
    for case, voxels in found.items():
        if max(voxels, default=0) >= values:
            raise LabelError(
                f"{files[case]}: holds the label value {max(voxels)}, but the label values of the dataset end at "
                f"{values - 1}; merge and preprocess the dataset again"
            )
        result[case] = np.zeros(values, np.int64)
        for value, n in voxels.items():
            result[case][(outside or {}).get(case, 0) if value < 0 else value] += n
    return VoxelCounts(values, result)
