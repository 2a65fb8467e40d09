"""Merging: several raw nnU-Net datasets become one raw dataset with a `partial_labels` block."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nnunet_partial import __version__
from nnunet_partial.atomic import atomic_path, write_json
from nnunet_partial.errors import LabelError, ProblemsError, VolumeError
from nnunet_partial.labels.merge_file import load_merge_file
from nnunet_partial.labels.merge_plan import MergeCase, MergePlan, plan_merge
from nnunet_partial.labels.raw_dataset import environment_folder, find_dataset_folder
from nnunet_partial.labels.sidecar import BLOCK, to_json
from nnunet_partial.labels.splits import Split, splits_of_sources, stratified_splits, write_preprocessed_splits
from nnunet_partial.normalisation import (
    Fingerprint,
    Histogram,
    Rule,
    fingerprint_clip,
    histogram,
    normalise_file,
)
from nnunet_partial.parallel import for_each_case
from nnunet_partial.volumes import (
    Geometry,
    geometry_difference,
    read_geometry,
    read_intensities,
    read_label_map,
    value_counts,
    write_label_map,
)

__all__ = ["ImageMode", "MergeResult", "merge_datasets", "merge_folds"]

ImageMode = Literal["link", "reference", "copy"]
_Provision = ImageMode | Literal["normalised"]
_RECORD = "merge.json"
_REORIENTING_READERS = {"NibabelIOWithReorient"}


@dataclass(frozen=True)
class MergeResult:
    """Where a merge went.

    Attributes:
        folder: The merged raw dataset.
        plan: What was merged.
        written: False where the folder was up to date already.
        splits_kept: An existing, different splits_final.json of the preprocessed dataset was left alone.
    """

    folder: Path
    plan: MergePlan
    written: bool
    splits_kept: Path | None = None


@dataclass(frozen=True)
class _Task:
    case: MergeCase
    folder: Path
    file_ending: str
    images: _Provision
    rule: Rule | None


def merge_datasets(
    merge_file: Path,
    dataset_id: int,
    *,
    raw_folder: Path | None = None,
    images: ImageMode = "link",
    processes: int = 1,
    overwrite: bool = False,
) -> MergeResult:
    """Merges raw datasets as a merge file says.

    The dataset is built in a hidden folder beside its final place and renamed when it is complete. A merge that
    was interrupted goes on where it stopped, also after single cases were mended; one that is up to date does
    nothing.

    Args:
        merge_file: YAML, see docs/merge-file.md.
        dataset_id: Number of the new dataset, 1 to 999.
        raw_folder: Where raw datasets live; $nnUNet_raw by default.
        images: 'link' makes symbolic links, 'reference' names the source files in dataset.json, 'copy' copies.
            Normalised images are written in any case, and cannot be references.
        processes: Worker processes.
        overwrite: Replace a dataset of that number that was merged differently.

    Returns:
        The folder and the plan.

    Raises:
        PartialError: Something is wrong with the merge file or the data; all bad cases are named at once.
    """
    if not 1 <= dataset_id <= 999:
        raise LabelError(f"dataset id: expected 1 to 999, found {dataset_id}")
    raw = raw_folder or environment_folder("nnUNet_raw")
    plan = plan_merge(load_merge_file(merge_file), merge_file.parent)
    splits = merge_folds(plan, merge_file.parent)
    target = raw / f"Dataset{dataset_id:03d}_{plan.file.name}"
    provision = _provision(plan, images)
    fingerprint = f"{plan.fingerprint(splits)}-{provision}"
    if _record(target).get("fingerprint") == fingerprint:
        return MergeResult(target, plan, False, write_preprocessed_splits(target.name, splits, overwrite))
    _check_target(target, dataset_id, raw, overwrite)
    _check_not_a_source(target, plan, merge_file.parent)

    plan = _with_normalisation(plan, processes, merge_file)
    building = raw / f".{target.name}.incomplete"
    record = {"fingerprint": fingerprint, "images": provision, **_content_of_record(plan)}
    _drop_outdated(building, record, plan.file_ending)
    write_json(building / _RECORD, record)
    tasks = [_Task(case, building, plan.file_ending, provision, plan.rule_of(case.name)) for case in plan.cases]
    axes, problems = for_each_case(_merge_case, tasks, processes=processes, description="merging")
    if problems:
        raise ProblemsError(f"{merge_file}: the merge stopped, {len(tasks) - len(problems)} cases are done", problems)
    plan = _with_side_axes(plan, axes)
    write_json(building / "dataset.json", _dataset_json(plan, building, provision))
    write_json(building / "splits_final.json", splits)
    _put_in_place(building, target)
    return MergeResult(target, plan, True, write_preprocessed_splits(target.name, splits, overwrite))


def merge_folds(plan: MergePlan, folder: Path) -> list[Split]:
    """The folds of a merged dataset.

    Args:
        plan: What is merged.
        folder: Of the merge file; relative paths in it start there.

    Raises:
        LabelError: There are fewer patients than folds, or the folds of the datasets make none together.
    """
    if plan.file.folds != "dataset":
        return stratified_splits(plan.labels, folds=plan.file.folds)
    sources = plan.file.sources.items()
    return splits_of_sources(plan.labels, {name: find_dataset_folder(entry.dataset, folder) for name, entry in sources})


def _provision(plan: MergePlan, images: ImageMode) -> _Provision:
    if plan.file.normalisation is None:
        return images
    if images == "reference":
        raise LabelError("normalised images are written, not referenced; leave --images out, or 'normalisation'")
    return "normalised"


def _with_normalisation(plan: MergePlan, processes: int, merge_file: Path) -> MergePlan:
    """Works out the numbers of fingerprints from all cases of their modality."""
    rules: dict[str, Rule] = {}
    for modality, declared in (plan.file.normalisation or {}).items():
        if not isinstance(declared, Fingerprint):
            rules[modality] = declared
            continue
        tasks = [
            (case, plan.labels.foreground[plan.labels.row_of(case.name)])
            for case in plan.cases
            if plan.labels.set_of(case.name).modality == modality and case.raw.label is not None
        ]
        found, problems = for_each_case(
            _foreground_intensities, tasks, processes=processes, description=f"intensities of {modality}"
        )
        if problems:
            raise ProblemsError(f"{merge_file}: intensities of {modality}", problems)
        try:
            rules[modality] = fingerprint_clip([channel for case in found for channel in case or ()])
        except ValueError as error:
            raise LabelError(
                f"normalisation.{modality}: {error}, so 'fingerprint' has no numbers; use {{clip: [low, high]}}"
            ) from error
    return replace(plan, labels=replace(plan.labels, normalisation=rules))


def _foreground_intensities(task: tuple[MergeCase, npt.NDArray[np.bool_]]) -> list[Histogram]:
    """One histogram a channel, of the voxels whose merged values are marked in (V,)."""
    case, foreground = task
    labels = _merged_labels(case, _common_geometry(case))
    found = []
    for path in case.raw.images:
        image = read_intensities(path)
        parts = [image[..., i][foreground[labels[..., i]]] for i in range(labels.shape[-1])]
        found.append(histogram(np.concatenate(parts)))
    return found


def _record(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / _RECORD).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return {}


def _content_of_record(plan: MergePlan) -> dict[str, Any]:
    return {
        "version": __version__,
        "merge_file": json.loads(plan.file.model_dump_json(by_alias=True)),
        "cases": plan.case_fingerprints(),
    }


def _drop_outdated(building: Path, record: dict[str, Any], file_ending: str) -> None:
    """Leaves, of an earlier attempt, the files of those cases that would come out the same again."""
    earlier = _record(building)
    if any(earlier.get(key) != record[key] for key in ("images", "version")):
        shutil.rmtree(building, ignore_errors=True)
        return
    outdated = {case for case, fingerprint in earlier["cases"].items() if record["cases"].get(case) != fingerprint}
    for file in building.glob("*/*"):
        case = file.name.removesuffix(file_ending)
        if file.parent.name == "imagesTr":
            case = case[: -len("_0000")]
        # names that start with a dot are temporary files of a merge that was killed
        if case in outdated or file.name.startswith("."):
            file.unlink()


def _check_target(target: Path, dataset_id: int, raw: Path, overwrite: bool) -> None:
    others = [p.name for p in raw.glob(f"Dataset{dataset_id:03d}_*") if p != target]
    if others:
        raise LabelError(f"dataset id {dataset_id} is taken by {others[0]} in {raw}; choose another number")
    if target.exists() and not _record(target):
        raise LabelError(
            f"{target} exists and was not made by a merge, so it is not replaced; choose another number, or remove it"
        )
    if target.exists() and not overwrite:
        raise LabelError(
            f"{target} exists and was merged differently (another merge file, other sources, other images); "
            "choose another number, or replace it with --overwrite"
        )


def _check_not_a_source(target: Path, plan: MergePlan, folder: Path) -> None:
    """Replacing a dataset that is merged into itself would remove the images it links to."""
    for name, entry in plan.file.sources.items():
        if find_dataset_folder(entry.dataset, folder).resolve() == target.resolve():
            raise LabelError(f"source '{name}' is {target.name} itself; choose another number or name")


def _put_in_place(building: Path, target: Path) -> None:
    """Renames the complete dataset to its final name; the one it replaces is removed afterwards."""
    replaced = target.with_name(f".{target.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        os.replace(target, replaced)
    os.replace(building, target)
    shutil.rmtree(replaced, ignore_errors=True)


def _merge_case(task: _Task) -> tuple[int, ...]:
    """Checks, links and writes one case; returns the nnU-Net axes along which left and right lie."""
    case = task.case
    geometry = _common_geometry(case)
    target = task.folder / "labelsTr" / f"{case.name}{task.file_ending}"
    if not target.exists():
        write_label_map(target, _merged_labels(case, geometry), case.raw.images[0])
    for channel, image in enumerate(case.raw.images):
        _provide_image(image, task.folder / "imagesTr" / f"{case.name}_{channel:04d}{task.file_ending}", task)
    return tuple(sorted(2 - axis for axis in geometry.left_right_axes())) if geometry.physical else (2,)


def _common_geometry(case: MergeCase) -> Geometry:
    geometries = [read_geometry(image) for image in case.raw.images]
    for image, geometry in zip(case.raw.images[1:], geometries[1:], strict=True):
        difference = geometry_difference(geometries[0], geometry)
        if difference:
            raise VolumeError(f"case '{case.name}': channels {case.raw.images[0].name} and {image.name}: {difference}")
    return geometries[0]


def _merged_labels(case: MergeCase, image: Geometry) -> npt.NDArray[np.uint16]:
    if case.raw.label is None:
        return np.zeros(image.shape, np.uint16)
    labels, geometry = read_label_map(case.raw.label)
    difference = geometry_difference(image, geometry)
    if difference:
        raise VolumeError(
            f"case '{case.name}': {case.raw.label} does not lie on its image {case.raw.images[0].name}: {difference}"
        )
    if case.ranges is None:
        return _looked_up(labels, case.lookup, case)
    merged = np.zeros(labels.shape, np.uint16)
    for part in case.ranges:
        if part.axis >= labels.ndim or part.last >= labels.shape[part.axis]:
            raise LabelError(
                f"case '{case.name}': slices {part.first} to {part.last} along {'xyz'[part.axis]}, "
                f"but the label map has shape {labels.shape}"
            )
        chosen = (slice(None),) * part.axis + (slice(part.first, part.last + 1),)
        merged[chosen] = _looked_up(labels[chosen], part.lookup, case)
    return merged


def _looked_up(labels: npt.NDArray[np.integer[Any]], lookup: dict[int, int], case: MergeCase) -> npt.NDArray[np.uint16]:
    counts = value_counts(labels)
    strange = [v for v in counts if v not in lookup]
    if strange:
        raise LabelError(
            f"case '{case.name}': {case.raw.label} holds value {strange[0]} in {counts[strange[0]]} voxels "
            f"(unexpected values: "
            f"{strange}), but only {sorted(lookup)} are annotated there; mend the label map, the case's annotation "
            "set, or the labels in the merge file"
        )
    table = np.zeros(1 + max(counts, default=0), np.uint16)
    for value in counts:
        table[value] = lookup[value]
    merged = np.zeros(labels.shape, np.uint16)
    for index in range(labels.shape[-1]):  # an index array of a whole volume would be eight bytes a voxel
        merged[..., index] = table[labels[..., index]]
    return merged


def _provide_image(image: Path, target: Path, task: _Task) -> None:
    if task.images == "reference" or target.exists():
        return
    if task.rule is not None:
        normalise_file(image, target, task.rule)
        return
    with atomic_path(target) as temporary:
        if task.images == "copy":
            shutil.copyfile(image, temporary)
            return
        try:
            temporary.symlink_to(image.resolve())
        except OSError as error:
            raise VolumeError(
                f"{target}: no symbolic link could be made ({error.strerror}); use --images reference or --images copy"
            ) from error


def _with_side_axes(plan: MergePlan, axes: list[tuple[int, ...] | None]) -> MergePlan:
    """Sides lie along every axis that is left-right in some case; a reader that reorients makes it the last."""
    if plan.axes_given:
        return plan
    found = {2} if plan.reader in _REORIENTING_READERS else {axis for case in axes for axis in case or ()}
    sides = replace(plan.labels.sides, axes=tuple(sorted(found)))
    return replace(plan, labels=replace(plan.labels, sides=sides))


def _dataset_json(plan: MergePlan, folder: Path, images: _Provision) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": plan.file.name,
        "channel_names": plan.channel_names,
        "labels": {name: value for value, name in enumerate(plan.value_names)},
        "numTraining": len(plan.cases),
        "file_ending": plan.file_ending,
    }
    if plan.reader:
        content["overwrite_image_reader_writer"] = plan.reader
    if images == "reference":
        # nnU-Net joins these to the folder as text, without following symbolic links
        here = os.path.abspath(folder)  # noqa: PTH100
        content["dataset"] = {
            case.name: {
                "images": [os.path.relpath(image.resolve(), here) for image in case.raw.images],
                "label": f"labelsTr/{case.name}{plan.file_ending}",
            }
            for case in plan.cases
        }
    content[BLOCK] = to_json(plan.labels)
    return content
