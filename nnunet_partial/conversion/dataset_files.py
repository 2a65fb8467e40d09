"""The files beside images and label maps: dataset.json, conversion.json, patients, annotation sets and splits."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nnunet_partial import __version__
from nnunet_partial.atomic import write_json, write_text
from nnunet_partial.conversion.annotation import Values
from nnunet_partial.conversion.converter import PNG
from nnunet_partial.conversion.plan import Plan, PlannedCase
from nnunet_partial.errors import LabelError
from nnunet_partial.labels.partial_labels import PartialLabels
from nnunet_partial.labels.sidecar import BLOCK, to_json
from nnunet_partial.labels.splits import stratified_splits

__all__ = ["RECORD", "official_splits", "read_record", "write_dataset_files"]

RECORD = "conversion.json"
_READERS = {PNG: "NaturalImage2DIO"}
# nibabel takes headers that ITK refuses, and image axes of any order are turned alike
_READER = "NibabelIOWithReorient"
_FOLDS = 5

Splits = list[dict[str, list[str]]]


def read_record(folder: Path) -> dict[str, Any]:
    """The conversion.json of a folder; empty where there is none."""
    try:
        return dict(json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}


def write_dataset_files(
    folder: Path,
    plan: Plan,
    values: Values,
    *,
    model: PartialLabels,
    test_model: PartialLabels | None,
    records: Sequence[Mapping[str, Any]],
    splits: Splits | None,
) -> None:
    """Writes everything but images and label maps."""
    train = [case for case in plan.cases if case.part == "Tr"]
    write_json(folder / "dataset.json", _dataset_json(plan, values, model, len(train)))
    if test_model is not None:
        write_json(folder / "labelsTs" / "dataset.json", _dataset_json(plan, values, test_model, len(test_model.cases)))
    patients = {case.case.id: case.case.patient for case in plan.cases if case.case.patient is not None}
    if patients:
        _write_csv(folder / "patients.csv", ("case", "patient"), patients)
    if len(set(model.cases.values())) > 1:
        _write_csv(folder / "annotation_sets.csv", ("case", "set"), model.cases)
    if splits is not None:
        write_json(folder / "splits_final.json", splits)
    write_json(folder / RECORD, _conversion_json(plan, records))


def official_splits(plan: Plan, model: PartialLabels) -> Splits | None:
    """Folds in nnU-Net's form: the official ones, or folds that keep patients together where several cases have one.

    Returns:
        None where nnU-Net's own random folds are as good, or all cases are of one patient. Five folds; as many as
        there are patients where these are fewer.

    Raises:
        LabelError: Folds are numbered with gaps, or cases speak of folds and of one validation set.
    """
    train = sorted(case.case.id for case in plan.cases if case.part == "Tr")
    fold_of = {case.case.id: case.case.split for case in plan.cases if case.part == "Tr"}
    numbers = {split for split in fold_of.values() if split != "train"}
    if numbers:
        folds = ["val"] if numbers == {"val"} else list(range(len(numbers)))
        if numbers != set(folds):
            raise LabelError(
                f"{plan.converter.name}: folds must be numbered 0, 1, ..., found {sorted(map(str, numbers))}"
            )
        return [
            {
                "train": [case for case in train if fold_of[case] != fold],
                "val": [case for case in train if fold_of[case] == fold],
            }
            for fold in folds
        ]
    scored = [case for case in train if model.is_annotated(case)]
    patients = {model.patient_of(case) for case in scored}
    if len(patients) == len(scored) or len(patients) < 2:
        return None
    return stratified_splits(model, folds=min(_FOLDS, len(patients)))


def _dataset_json(plan: Plan, values: Values, model: PartialLabels, count: int) -> dict[str, Any]:
    converter = plan.converter
    return {
        "name": converter.name,
        "reference": converter.citation,
        "licence": converter.licence,
        "url": converter.url,
        "channel_names": {str(number): name for number, name in enumerate(converter.channel_names)},
        "labels": values.by_name,
        "numTraining": count,
        "file_ending": converter.file_ending,
        "overwrite_image_reader_writer": _READERS.get(converter.file_ending, _READER),
        BLOCK: to_json(model),
    }


def _conversion_json(plan: Plan, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "converter": plan.converter.name,
        "version": __version__,
        "fingerprint": plan.fingerprint(),
        "options": asdict(plan.options),
        "labels": list(plan.names),
        "left_out": dict(plan.left_out),
        "cases": {case.case.id: _case_json(case, record) for case, record in zip(plan.cases, records, strict=True)},
    }


def _case_json(case: PlannedCase, record: Mapping[str, Any]) -> dict[str, Any]:
    content = {"split": case.case.split, "images": record["images"], "voxels": record["labels"]}
    content["overlaps"] = {"+".join(o["structures"]): o["voxels"] for o in record["overlaps"].values()}
    content |= {key: record.get(key) for key in ("placement", "sides", "intensities")}
    content["note"] = case.case.note
    content["sources"] = record["sources"]
    return {key: value for key, value in content.items() if value not in (None, "", {})}


def _write_csv(path: Path, header: tuple[str, str], rows: Mapping[str, str]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *sorted(rows.items())])
    write_text(path, text.getvalue())
