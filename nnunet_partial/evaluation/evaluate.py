"""Evaluating a folder of predictions against a folder of references that annotate only some structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_partial.atomic import atomic_path, write_json
from nnunet_partial.errors import LabelError, PartialError, ProblemsError, VolumeError
from nnunet_partial.evaluation.reference import (
    Reference,
    label_maps,
    prediction_keys,
    prediction_values,
    read_reference,
    values_of_classes,
)
from nnunet_partial.evaluation.scoring import CaseScore, class_masks, score_class
from nnunet_partial.evaluation.tables import Empty, Tables, make_tables, summary_json
from nnunet_partial.labels.sidecar import load_dataset_json
from nnunet_partial.parallel import for_each_case
from nnunet_partial.volumes import geometry_difference, read_label_map

__all__ = ["Evaluation", "evaluate_folder"]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, and where it was written.

    Attributes:
        scores: One entry a case, sorted by case.
        tables: Means and tables.
        summary: Content of summary.json.
        notes: What is worth knowing: classes and cases that were left out.
        files: The files written.
    """

    scores: tuple[CaseScore, ...]
    tables: Tables
    summary: dict[str, Any]
    notes: tuple[str, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class _Class:
    """A class to score: its column in the table, and its values in predicted label maps."""

    name: str
    index: int
    values: frozenset[int]


@dataclass(frozen=True)
class _Predictions:
    """What stands in a folder of predictions: values and nnU-Net's keys of the classes, and all legal values."""

    where: str
    values: dict[str, frozenset[int]]
    keys: dict[str, str]


@dataclass(frozen=True)
class _Task:
    case: str
    source: str
    patient: str
    reference: Path
    prediction: Path
    classes: tuple[_Class, ...]
    reference_values: frozenset[int]
    prediction_values: frozenset[int]
    states: npt.NDArray[np.int8]
    annotated: npt.NDArray[np.bool_]
    nsd_tolerance_mm: float | None


def evaluate_folder(
    reference_folder: Path,
    prediction_folder: Path,
    *,
    dataset_json: Path | None = None,
    prediction_json: Path | None = None,
    output: Path | None = None,
    nsd_tolerance_mm: float | None = 2.0,
    classes: Sequence[str] | None = None,
    empty: Empty = "skip",
    chill: bool = False,
    processes: int = 1,
) -> Evaluation:
    """Scores the annotated structures of every case, and writes summary.json and four tables.

    Args:
        reference_folder: Label maps CASE.ending of the reference.
        prediction_folder: Predicted label maps of the same names.
        dataset_json: Describes the references; by default the dataset.json in their folder or beside it.
        prediction_json: Describes the predictions; by default the dataset.json in their folder, else that of the
            references where it is a plain nnU-Net one.
        output: Folder for the results; the prediction folder by default.
        nsd_tolerance_mm: Tolerance of the surface score, in mm (pixels for formats without a spacing such as PNG);
            None leaves it out.
        classes: Score these classes only.
        empty: What a true negative counts as in means, see `make_tables`.
        chill: Skip references without a prediction, instead of refusing to score a part of the cases.
        processes: Worker processes.

    Returns:
        Scores, tables and files.

    Raises:
        PartialError: Something is missing or does not fit; all bad cases are named at once.
    """
    if nsd_tolerance_mm is not None and not 0 <= nsd_tolerance_mm < float("inf"):
        raise PartialError(f"NSD tolerance: expected millimetres, 0 or more, found {nsd_tolerance_mm}")
    reference = read_reference(reference_folder, dataset_json)
    predictions = _read_predictions(prediction_folder, prediction_json, reference)
    chosen, notes = _match_classes(reference, predictions, classes)
    cases, more_notes = _match_cases(reference, prediction_folder, chill)
    tasks = _tasks(reference, predictions, cases, chosen, nsd_tolerance_mm)
    found, problems = for_each_case(_score_case, tasks, processes=processes, description="evaluating")
    if problems:
        raise ProblemsError(f"{prediction_folder}, compared with {reference_folder}", problems)
    scores = tuple(score for score in found if score is not None)
    tables = make_tables(scores, empty)
    keys = {c.name: predictions.keys.get(c.name, str(tuple(sorted(c.values)))) for c in chosen}
    summary = summary_json(scores, keys=keys, empty=empty)
    files = _write(output or prediction_folder, tables, summary)
    return Evaluation(scores, tables, summary, (*notes, *more_notes), files)


def _read_predictions(folder: Path, dataset_json: Path | None, reference: Reference) -> _Predictions:
    if not folder.is_dir():
        raise VolumeError(f"{folder}: no such folder; expected predicted label maps")
    if dataset_json is None and not (folder / "dataset.json").is_file():
        if not reference.is_plain:
            raise LabelError(
                f"{folder}: no dataset.json in it, so nothing says what the predicted values mean; nnUNetv2_predict "
                "copies it there: take the one in the folder of the trained model, or give it with -pred_djfile"
            )
        dataset_json = reference.dataset_json
    file = dataset_json or folder / "dataset.json"
    content = load_dataset_json(file)
    return _Predictions(str(file), prediction_values(content, str(file)), prediction_keys(content, str(file)))


def _match_classes(
    reference: Reference, predictions: _Predictions, classes: Sequence[str] | None
) -> tuple[tuple[_Class, ...], list[str]]:
    names = reference.labels.class_names
    where = reference.dataset_json
    if not names:
        raise LabelError(f"{where}: no classes besides the background, so there is nothing to evaluate")
    strange = sorted(set(classes or ()) - set(names))
    if strange:
        raise LabelError(f"{where}: {strange} are no classes; classes are {list(names)}")
    matched = values_of_classes(reference.labels.space, predictions.values)
    wanted = [name for name in names if classes is None or name in classes]
    missing = [name for name in wanted if name not in matched]
    if missing:
        raise LabelError(
            f"{predictions.where}: the classes {missing} of {where} are not predicted; predicted are "
            f"{list(predictions.values)}. Name the classes to score with --classes, or rename the labels"
        )
    _check_distinct({name: matched[name] for name in wanted}, predictions.where)
    notes = []
    used = frozenset[str]().union(*({name, *atoms} for name, atoms in reference.labels.space.classes.items()))
    extra = [name for name in predictions.values if name not in used]
    if extra:
        notes.append(f"predicted, but no class of the reference, so not scored: {', '.join(extra)}")
    return tuple(_Class(name, names.index(name), matched[name]) for name in wanted), notes


def _check_distinct(values: Mapping[str, frozenset[int]], where: str) -> None:
    seen: dict[frozenset[int], str] = {}
    for name, region in values.items():
        twin = seen.setdefault(region, name)
        if twin != name:
            raise LabelError(
                f"{where}: the classes '{twin}' and '{name}' are the same predicted values, {sorted(region)}; "
                "name one of them with --classes"
            )


def _match_cases(reference: Reference, folder: Path, chill: bool) -> tuple[dict[str, Path], list[str]]:
    predicted = label_maps(folder, reference.file_ending)
    missing = [case for case in reference.files if case not in predicted]
    problems = []
    notes = []
    if missing and not chill:
        problems += [f"case '{case}' has no prediction {case}{reference.file_ending}" for case in missing]
    elif missing:
        notes.append(f"{len(missing)} of {len(reference.files)} references have no prediction and are left out")
    cases = {case: predicted[case] for case in reference.files if case in predicted}
    for case in cases:
        try:
            reference.labels.set_of(case)
        except LabelError as error:
            problems.append(f"{reference.dataset_json}: {error}")
    if problems:
        advice = "; predict them, or leave them out with --chill" if missing and not chill else ""
        raise ProblemsError(f"{folder}{advice}", problems)
    if not cases:
        raise VolumeError(f"{folder}: no predictions CASE{reference.file_ending} of cases in the reference folder")
    unknown = [case for case in predicted if case not in reference.files]
    if unknown:
        listed = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        notes.append(f"{len(unknown)} predictions have no reference and are left out: {listed}")
    return cases, notes


def _tasks(
    reference: Reference,
    predictions: _Predictions,
    cases: Mapping[str, Path],
    classes: tuple[_Class, ...],
    nsd_tolerance_mm: float | None,
) -> list[_Task]:
    labels = reference.labels
    legal = frozenset({0}).union(*predictions.values.values())
    return [
        _Task(
            case=case,
            source=labels.source_of(case),
            patient=labels.patient_of(case),
            reference=reference.files[case],
            prediction=prediction,
            classes=classes,
            reference_values=frozenset(labels.set_of(case).possible),
            prediction_values=legal,
            states=labels.states[labels.row_of(case)],
            annotated=labels.annotated[labels.row_of(case)],
            nsd_tolerance_mm=nsd_tolerance_mm,
        )
        for case, prediction in cases.items()
    ]


def _score_case(task: _Task) -> CaseScore:
    reference, geometry = read_label_map(task.reference)
    prediction, predicted_geometry = read_label_map(task.prediction)
    difference = geometry_difference(geometry, predicted_geometry)
    if difference:
        raise VolumeError(
            f"case '{task.case}': {task.prediction} does not lie on its reference {task.reference}: {difference} "
            "(the reference is the image here, the prediction the label map); predict the images of these references"
        )
    _check_values(reference, task.reference_values, task.reference, "its annotation set knows")
    _check_values(prediction, task.prediction_values, task.prediction, "the dataset.json of the predictions names")
    scores = []
    for c in task.classes:
        present, known = class_masks(reference, task.states, c.index)
        scores.append(
            score_class(
                c.name,
                present,
                _members(c.values, max(task.prediction_values))[prediction],
                None if known.all() else known,
                annotated=bool(task.annotated[c.index]),
                spacing_mm=geometry.spacing_mm,
                nsd_tolerance_mm=task.nsd_tolerance_mm,
            )
        )
    return CaseScore(task.case, task.source, task.patient, str(task.reference), str(task.prediction), tuple(scores))


def _check_values(labels: npt.NDArray[np.integer[Any]], allowed: frozenset[int], file: Path, who: str) -> None:
    in_range = labels.min(initial=0) >= 0 and labels.max(initial=0) <= max(allowed)
    if not in_range or not _members(allowed)[labels].all():
        strange = sorted({int(value) for value in np.unique(labels)} - allowed)
        raise LabelError(f"{file}: holds the values {strange}, but {who} only {sorted(allowed)}")


def _members(values: frozenset[int], top: int = 0) -> npt.NDArray[np.bool_]:
    """A lookup table of a set of label values; many times faster than `np.isin` on a volume."""
    table = np.zeros(max(top, *values) + 1, bool)
    table[list(values)] = True
    return table


def _write(folder: Path, tables: Tables, summary: dict[str, Any]) -> tuple[Path, ...]:
    files = [folder / "summary.json"]
    write_json(files[0], summary)
    for name in ("per_case", "per_class", "per_source", "per_subject"):
        target = folder / f"{name}.csv"
        with atomic_path(target) as temporary:
            getattr(tables, name).to_csv(temporary, index=False)
        files.append(target)
    return tuple(files)
