"""Tables from scores: cases, classes, sources, subjects. What was not annotated enters no mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from nnunet_partial.evaluation.metrics import iou
from nnunet_partial.evaluation.scoring import NOT_ANNOTATED, SCORED, TRUE_NEGATIVE, CaseScore, ClassScore

__all__ = ["Empty", "Tables", "make_tables", "summary_json"]

Empty = Literal["skip", "one"]
_METRICS = ["dice", "nsd"]
_COUNTS = {SCORED: "scored", TRUE_NEGATIVE: "true_negative", NOT_ANNOTATED: "not_annotated"}
_COLUMNS = [
    "case",
    "source",
    "patient",
    "class",
    "status",
    *_METRICS,
    "tp",
    "fp",
    "fn",
    "tn",
    "reference_voxels",
    "predicted_voxels",
    "unknown_voxels",
]


@dataclass(frozen=True)
class Tables:
    """Scores, averaged in several ways. Means leave out what is undefined or not annotated.

    Attributes:
        per_case: One row a case and class, sorted by case.
        per_class: One row a class: means over its cases, and counts of scored, true negative and not annotated ones.
        per_source: The same for each source and class.
        per_subject: One row a patient: mean over the classes annotated in it, several cases of a class first
            averaged; with the number of classes that enter.
        overall: 'dice' and 'nsd', means over the classes' means; None where there is none.
        not_annotated: Classes that no case annotates.
        never_present: Classes that some case annotates, but without a defined Dice anywhere.
    """

    per_case: pd.DataFrame
    per_class: pd.DataFrame
    per_source: pd.DataFrame
    per_subject: pd.DataFrame
    overall: dict[str, float | None]
    not_annotated: tuple[str, ...]
    never_present: tuple[str, ...]


def make_tables(scores: Sequence[CaseScore], empty: Empty = "skip") -> Tables:
    """Averages scores.

    Args:
        scores: One entry a case, in any order.
        empty: What a true negative counts as: 'skip' leaves it out of the means (Dice is undefined there, as in
            nnU-Net); 'one' gives it Dice 1 and NSD 1 (the convention of the FLARE challenges).

    Returns:
        The tables.
    """
    per_case = _per_case(scores, empty)
    per_class = _grouped(per_case, ["class"])
    per_source = _grouped(per_case, ["source", "class"])
    annotated = per_class["scored"] + per_class["true_negative"] > 0
    return Tables(
        per_case=per_case,
        per_class=per_class,
        per_source=per_source,
        per_subject=_per_subject(per_case),
        overall={metric: _or_none(per_class[metric].mean()) for metric in _METRICS},
        not_annotated=tuple(per_class["class"][~annotated]),
        never_present=tuple(per_class["class"][annotated & per_class["dice"].isna()]),
    )


def summary_json(
    scores: Sequence[CaseScore], *, keys: Mapping[str, str] | None = None, empty: Empty = "skip"
) -> dict[str, Any]:
    """Scores in the form of nnU-Net's summary.json, which `load_summary_json` of nnU-Net reads.

    Args:
        scores: One entry a case, in any order.
        keys: Class name to nnU-Net's key of it, '3' for a label or '(1, 2)' for a region; by default the names
            themselves, which nnU-Net does not read.
        empty: As for `make_tables`.

    Returns:
        nnU-Net's 'metric_per_case', 'mean' and 'foreground_mean', with NSD added and without the classes that have
        no score; and 'classes' (key to name), 'per_source', 'per_subject', 'not_annotated' and 'never_present'.
        Undefined numbers are None.
    """
    tables = make_tables(scores, empty)
    names = list(tables.per_class["class"])
    key_of = {name: (keys or {}).get(name, name) for name in names}
    ordered = sorted(scores, key=lambda score: score.case)
    metrics = [
        {key_of[c.class_name]: _case_metrics(c, empty) for c in score.classes if c.status != NOT_ANNOTATED}
        for score in ordered
    ]
    without_mean = {*tables.not_annotated, *tables.never_present}
    mean = {
        key_of[name]: _mean_metrics([case[key_of[name]] for case in metrics if key_of[name] in case])
        for name in names
        if name not in without_mean
    }
    return {
        "foreground_mean": _mean_metrics(list(mean.values())),
        "mean": mean,
        "classes": {key_of[name]: name for name in names},
        "per_source": {
            str(source): {str(row["class"]): _row_json(row) for row in rows.to_dict("records")}
            for source, rows in tables.per_source.groupby("source", sort=False)
        },
        "per_subject": {
            str(row["patient"]): {
                "Dice": _or_none(row["dice"]),
                "NSD": _or_none(row["nsd"]),
                "classes": int(row["classes"]),
            }
            for row in tables.per_subject.to_dict("records")
        },
        "not_annotated": list(tables.not_annotated),
        "never_present": list(tables.never_present),
        "metric_per_case": [
            {"metrics": found, "prediction_file": score.prediction_file, "reference_file": score.reference_file}
            for found, score in zip(metrics, ordered, strict=True)
        ],
    }


def _metric(value: float | None, empty: Empty) -> float | None:
    """Applies the convention for true negatives: NaN is 'both empty', None is 'no score at all'."""
    if value is None or not math.isnan(value):
        return value
    return 1.0 if empty == "one" else None


def _per_case(scores: Sequence[CaseScore], empty: Empty) -> pd.DataFrame:
    rows = []
    for score in sorted(scores, key=lambda score: score.case):
        for c in score.classes:
            counts = c.confusion
            cells = (None,) * 4 if counts is None else (counts.tp, counts.fp, counts.fn, counts.tn)
            metrics = (_metric(c.dice, empty), _metric(c.nsd, empty))
            voxels = (c.reference_voxels, c.predicted_voxels, c.unknown_voxels)
            rows.append((score.case, score.source, score.patient, c.class_name, c.status, *metrics, *cells, *voxels))
    table = pd.DataFrame(rows, columns=_COLUMNS)
    return table.astype({**dict.fromkeys(_METRICS, "float64"), **dict.fromkeys(["tp", "fp", "fn", "tn"], "Int64")})


def _grouped(per_case: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Means of the metrics and counts of the statuses; groups in order of their first row."""
    groups = per_case.groupby(by, sort=False)
    result = groups[_METRICS].mean()
    for status, column in _COUNTS.items():
        is_status = per_case["status"] == status
        result[column] = is_status.groupby([per_case[name] for name in by], sort=False).sum()
    return result.reset_index()


def _per_subject(per_case: pd.DataFrame) -> pd.DataFrame:
    by_class = per_case.groupby(["patient", "class"], sort=False)[_METRICS].mean().reset_index()
    groups = by_class.groupby("patient", sort=True)
    result = groups[_METRICS].mean()
    result["classes"] = groups["dice"].count()
    return result.reset_index()


def _case_metrics(score: ClassScore, empty: Empty) -> dict[str, float | int | None]:
    counts = score.confusion
    if counts is None:
        raise ValueError(f"class '{score.class_name}' is annotated, but has no voxel counts")
    return {
        "Dice": _metric(score.dice, empty),
        "FN": counts.fn,
        "FP": counts.fp,
        "IoU": _metric(iou(counts), empty),
        "NSD": _metric(score.nsd, empty),
        "TN": counts.tn,
        "TP": counts.tp,
        "n_pred": counts.tp + counts.fp,
        "n_ref": counts.tp + counts.fn,
    }


def _mean_metrics(entries: Sequence[Mapping[str, float | int | None]]) -> dict[str, float | None]:
    """Mean of each metric over the entries that define it."""
    means: dict[str, float | None] = {}
    for metric in ("Dice", "FN", "FP", "IoU", "NSD", "TN", "TP", "n_pred", "n_ref"):
        values = [value for entry in entries if (value := entry[metric]) is not None]
        means[metric] = math.fsum(values) / len(values) if values else None
    return means


def _row_json(row: Mapping[Any, Any]) -> dict[str, float | int | None]:
    counts = {column: int(row[column]) for column in _COUNTS.values()}
    return {"Dice": _or_none(row["dice"]), "NSD": _or_none(row["nsd"]), **counts}


def _or_none(value: float) -> float | None:
    return None if pd.isna(value) else float(value)
