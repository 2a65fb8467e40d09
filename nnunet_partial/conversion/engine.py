"""Converting a download: planning, one worker a case, and the dataset put in place when it is complete."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_partial.atomic import write_json
from nnunet_partial.conversion.annotation import Values, label_model, settle_values
from nnunet_partial.conversion.case_conversion import (
    CaseTask,
    OutputError,
    convert_case,
    staged_path,
    writing,
)
from nnunet_partial.conversion.converter import PNG, Converter
from nnunet_partial.conversion.dataset_files import (
    RECORD,
    official_splits,
    read_record,
    write_dataset_files,
)
from nnunet_partial.conversion.plan import Options, Plan, plan_conversion
from nnunet_partial.errors import LabelError, ProblemsError, VolumeError
from nnunet_partial.labels.raw_dataset import environment_folder
from nnunet_partial.labels.splits import write_preprocessed_splits
from nnunet_partial.parallel import for_each_case
from nnunet_partial.volumes import read_label_map, write_label_map

__all__ = ["ConversionResult", "Options", "Plan", "convert_dataset", "plan_conversion"]

_DONE_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")


@dataclass(frozen=True)
class ConversionResult:
    """Where a conversion went.

    Attributes:
        folder: The raw dataset.
        plan: What was converted.
        written: False where the folder was up to date already.
        images: How many image files were linked, copied and converted.
        overlaps: Structures that share voxels, joined by '+', to the number of cases in which they do.
        placements: How labels were brought onto their image, where not by their header, to the number of cases.
        sides: Organs whose sides were to be split, to what came of it, to the number of cases.
        doubts: Cases whose intensities do not look like Hounsfield units, to what was found.
        splits_kept: An existing, different splits_final.json of the preprocessed dataset was left alone.
    """

    folder: Path
    plan: Plan
    written: bool
    images: Mapping[str, int]
    overlaps: Mapping[str, int]
    placements: Mapping[str, int]
    sides: Mapping[str, Mapping[str, int]]
    doubts: Mapping[str, str]
    splits_kept: Path | None = None


@dataclass(frozen=True)
class _Relabelling:
    staged: Path
    image: Path
    target: Path
    lookup: dict[int, int]


def convert_dataset(
    converter: Converter,
    download: Path,
    dataset_id: int | None = None,
    *,
    name: str | None = None,
    raw_folder: Path | None = None,
    options: Options | None = None,
    processes: int = 1,
    overwrite: bool = False,
) -> ConversionResult:
    """Converts a download into a raw nnU-Net dataset with a `partial_labels` block.

    The dataset is built in a hidden folder beside its final place and renamed when it is complete. A conversion that
    stopped, on damaged cases or from outside, goes on where it stopped; one that is up to date does nothing. A dataset
    of which files are missing is not up to date, but made again.

    Args:
        converter: Table and cases of the dataset.
        download: Top folder of the unpacked download.
        dataset_id: Number of the new dataset, 1 to 999; the converter's by default.
        name: Its name; the converter's by default.
        raw_folder: Where raw datasets live; $nnUNet_raw by default.
        options: What is to be converted, and how.
        processes: Worker processes.
        overwrite: Replace a dataset of that name that was converted differently, or make it again.

    Returns:
        The folder, the plan and what happened.

    Raises:
        PartialError: Something is wrong with the download; all bad cases are named at once, the others are done.
    """
    dataset_id = converter.dataset_id if dataset_id is None else dataset_id
    if not 1 <= dataset_id <= 999:
        raise LabelError(f"dataset id: expected 1 to 999, found {dataset_id}")
    raw = raw_folder or environment_folder("nnUNet_raw")
    plan = plan_conversion(converter, download, options)
    target = raw / f"Dataset{dataset_id:03d}_{name or converter.name}"
    earlier = read_record(target)
    same = earlier.get("fingerprint") == plan.fingerprint()
    if same and not overwrite and all(path.exists() for path in _expected_files(target, plan)):
        return _result(target, plan, earlier["cases"], written=False, overlaps={})
    _check_target(target, dataset_id, raw, overwrite or same)
    building = raw / f".{target.name}.incomplete"
    try:
        with writing(building):
            building.mkdir(parents=True, exist_ok=True)
            _check_unfinished(building, plan)
            write_json(building / RECORD, {"converter": converter.name})
        records = _convert_cases(plan, building, processes)
        return _complete(plan, records, building, target, processes=processes, overwrite=overwrite)
    except OutputError as error:
        raise VolumeError(
            f"{error}; what is finished is kept, so start again when there is room and permission"
        ) from error


def _check_target(target: Path, dataset_id: int, raw: Path, overwrite: bool) -> None:
    others = [p.name for p in raw.glob(f"Dataset{dataset_id:03d}_*") if p != target]
    if others:
        raise LabelError(f"dataset id {dataset_id} is taken by {others[0]} in {raw}; choose another number with -d")
    if target.exists() and not read_record(target):
        raise LabelError(
            f"{target} exists and was not made by a conversion, so it is not replaced; choose another number, or "
            "remove it"
        )
    if target.exists() and not overwrite:
        raise LabelError(
            f"{target} exists and was converted differently (another converter, version, options or files); choose "
            "another number, or replace it with --overwrite"
        )


def _check_unfinished(building: Path, plan: Plan) -> None:
    earlier = read_record(building).get("converter", plan.converter.name)
    if earlier != plan.converter.name:
        raise LabelError(
            f"{building} holds an unfinished conversion of {earlier}; choose another number or name, or remove it"
        )


def _convert_cases(plan: Plan, building: Path, processes: int) -> list[dict[str, Any]]:
    converter = plan.converter
    colours = len(converter.channel_names) if converter.file_ending == PNG else 0
    tasks = [
        CaseTask(
            planned=case,
            root=plan.root,
            folder=building,
            names=plan.names,
            read=plan.read,
            lookup=plan.lookup,
            colours=colours,
            checks=converter.checks,
            modality=converter.modality,
            channel_names=converter.channel_names,
            file_ending=converter.file_ending,
            options=plan.options,
        )
        for case in plan.cases
    ]
    records, problems = for_each_case(convert_case, tasks, processes=processes, description="converting")
    if problems:
        raise ProblemsError(
            f"{plan.root}: {len(problems)} of {len(tasks)} cases of {converter.name} failed, the others are done; mend "
            "these and start again, or leave them out with --exclude",
            problems,
        )
    return [record for record in records if record is not None]


def _complete(
    plan: Plan, records: list[dict[str, Any]], building: Path, target: Path, *, processes: int, overwrite: bool
) -> ConversionResult:
    """Gives labels their final values, writes the files of the dataset as a whole, and puts it in place."""
    values = settle_values(plan.names, records)
    labelled = [
        (case, record) for case, record in zip(plan.cases, records, strict=True) if record["labels"] is not None
    ]
    train = [pair for pair in labelled if pair[0].part == "Tr"]
    test = [pair for pair in labelled if pair[0].part == "Ts"]
    model = label_model(plan, values, *_unzipped(train))
    test_model = label_model(plan, values, *_unzipped(test)) if test else None
    splits = official_splits(plan, model)
    _relabel(plan, records, values, building, processes)
    with writing(building):
        _drop_leftovers(building, plan)
        write_dataset_files(building, plan, values, model=model, test_model=test_model, records=records, splits=splits)
        for folder in ("records", "staged"):
            shutil.rmtree(building / folder, ignore_errors=True)
        replaced = target.with_name(f".{target.name}.replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        if target.exists():
            target.replace(replaced)
        building.replace(target)
        shutil.rmtree(replaced, ignore_errors=True)
        kept = None if splits is None else write_preprocessed_splits(target.name, splits, overwrite)
    overlaps = Counter("+".join(o["structures"]) for record in records for o in record["overlaps"].values())
    by_case = {record["case"]: record for record in records}
    return _result(target, plan, by_case, written=True, overlaps=overlaps, kept=kept)


def _unzipped(pairs: Sequence[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    return [case for case, _ in pairs], [record for _, record in pairs]


def _relabel(plan: Plan, records: list[dict[str, Any]], values: Values, building: Path, processes: int) -> None:
    """Writes label maps whose overlaps and ignored voxels now have final values."""
    ending = plan.converter.file_ending
    tasks = []
    for case, record in zip(plan.cases, records, strict=True):
        if record["staged"]:
            tasks.append(
                _Relabelling(
                    staged_path(building, case.case.id, ending),
                    building / f"images{case.part}" / f"{case.case.id}_0000{ending}",
                    building / f"labels{case.part}" / f"{case.case.id}{ending}",
                    values.final(record),
                )
            )
    _, problems = for_each_case(_relabel_case, tasks, processes=processes, description="numbering overlaps")
    if problems:
        raise ProblemsError(f"{building}: overlaps could not be numbered", problems)


def _relabel_case(task: _Relabelling) -> None:
    labels, _ = read_label_map(task.staged)
    table = np.zeros(1 + max(task.lookup), np.uint16)
    for value, final in task.lookup.items():
        table[value] = final
    with writing(task.target):
        write_label_map(task.target, table[labels], task.image)


def _drop_leftovers(building: Path, plan: Plan) -> None:
    """Removes files of cases that an earlier attempt converted and this one left out, and temporary files."""
    expected = set(_expected_files(building, plan))
    for folder in _DONE_FOLDERS:
        for file in (building / folder).glob("*"):
            if file not in expected:
                file.unlink()


def _expected_files(folder: Path, plan: Plan) -> Iterator[Path]:
    """What a finished dataset cannot do without; files that are links are there if what they name is."""
    ending = plan.converter.file_ending
    yield folder / "dataset.json"
    for case in plan.cases:
        for channel in range(len(case.case.channels)):
            yield folder / f"images{case.part}" / f"{case.case.id}_{channel:04d}{ending}"
        if case.part == "Tr" or case.case.label is not None:
            yield folder / f"labels{case.part}" / f"{case.case.id}{ending}"
        if case.part == "Ts" and case.case.label is not None:
            yield folder / "labelsTs" / "dataset.json"


def _result(
    target: Path,
    plan: Plan,
    records: Mapping[str, Mapping[str, Any]],
    *,
    written: bool,
    overlaps: Mapping[str, int],
    kept: Path | None = None,
) -> ConversionResult:
    return ConversionResult(
        folder=target,
        plan=plan,
        written=written,
        images=_image_counts(records.values()),
        overlaps=overlaps,
        placements=_placements(records.values()),
        sides=_sides(records.values()),
        doubts={case: record["intensities"] for case, record in records.items() if record.get("intensities")},
        splits_kept=kept,
    )


def _image_counts(records: Iterable[Mapping[str, Any]]) -> Counter[str]:
    return Counter(how for record in records for how in record["images"])


def _placements(records: Iterable[Mapping[str, Any]]) -> Counter[str]:
    return Counter(record["placement"] for record in records if record.get("placement"))


def _sides(records: Iterable[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for record in records:
        for organ, outcome in record.get("sides", {}).items():
            found.setdefault(organ, Counter())[outcome] += 1
    return found
