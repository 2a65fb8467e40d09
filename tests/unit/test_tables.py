"""Means of scores: over cases, sources, subjects and classes; what is not annotated enters none of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from nnunet_partial.evaluation import CaseScore, ClassScore, Confusion, make_tables, summary_json


def case_score(case, source="s", patient=None, **dices):
    """A case whose classes have the Dice given; 'tn' for a true negative, None for not annotated."""
    classes = []
    for name, value in dices.items():
        if value is None:
            classes.append(ClassScore(name, "not annotated", None, None, None, 0, 5, 10))
        elif value == "tn":
            classes.append(ClassScore(name, "true negative", math.nan, math.nan, Confusion(0, 0, 0, 9), 0, 0, 0))
        else:
            classes.append(ClassScore(name, "scored", value, value / 2, Confusion(1, 2, 3, 4), 4, 3, 0))
    return CaseScore(case, source, patient or case, f"{case}.nii", f"{case}.nii", tuple(classes))


def test_a_class_that_nobody_annotates_changes_no_mean():
    dices = {"a": (0.5, 0.25), "b": (1.0, 0.75)}
    without = [case_score(case, x=x, y=y) for case, (x, y) in dices.items()]
    with_it = [case_score(case, x=x, z=None, y=y) for case, (x, y) in dices.items()]
    assert make_tables(with_it).overall == make_tables(without).overall == {"dice": 0.625, "nsd": 0.3125}
    assert summary_json(with_it)["foreground_mean"] == summary_json(without)["foreground_mean"]
    assert summary_json(with_it)["not_annotated"] == ["z"]
    pd.testing.assert_frame_equal(make_tables(with_it).per_subject, make_tables(without).per_subject)


def test_order_of_cases_does_not_matter():
    rng = np.random.default_rng(1)
    scores = [case_score(f"c{i}", f"s{i % 3}", f"p{i % 4}", x=rng.random(), y=rng.random()) for i in range(12)]
    shuffled = [scores[i] for i in rng.permutation(12)]
    assert summary_json(shuffled) == summary_json(scores)
    for name in ("per_case", "per_class", "per_source", "per_subject"):
        pd.testing.assert_frame_equal(getattr(make_tables(shuffled), name), getattr(make_tables(scores), name))


def test_subjects_average_their_cases_class_by_class():
    scores = [
        case_score("a1", patient="a", x=0.2, y=0.9),
        case_score("a2", patient="a", x=0.4, y=None),
        case_score("b", x=None, y="tn"),
    ]
    table = make_tables(scores).per_subject.set_index("patient")
    # x: (0.2 + 0.4) / 2 = 0.3, y: 0.9; not the mean 0.5 of three scores
    assert table.loc["a", "dice"] == pytest.approx(0.6)
    assert math.isnan(table.loc["b", "dice"])
    assert table["classes"].tolist() == [2, 0]


def test_true_negatives_are_skipped_or_count_as_one():
    scores = [case_score("a", x=0.5, y="tn"), case_score("b", x="tn", y="tn")]
    skipped, counted = make_tables(scores), make_tables(scores, "one")
    assert skipped.overall == {"dice": 0.5, "nsd": 0.25}
    assert skipped.never_present == ("y",)
    assert skipped.per_class[["scored", "true_negative", "not_annotated"]].to_numpy().tolist() == [[1, 1, 0], [0, 2, 0]]
    assert counted.per_class["dice"].tolist() == [0.75, 1.0]
    assert counted.overall == {"dice": 0.875, "nsd": pytest.approx((0.625 + 1) / 2)}
    assert counted.never_present == ()
    summary = summary_json(scores)
    assert summary["metric_per_case"][1]["metrics"]["x"]["Dice"] is None
    assert list(summary["mean"]) == ["x"]
    assert summary_json(scores, empty="one")["metric_per_case"][1]["metrics"]["x"]["IoU"] == 1.0


def test_surface_that_was_not_computed_stays_out_when_true_negatives_count():
    score = case_score("a", x="tn")
    without_nsd = replace(score, classes=(replace(score.classes[0], nsd=None),))
    assert make_tables([without_nsd], "one").overall == {"dice": 1.0, "nsd": None}


def test_nothing_annotated_at_all_has_no_mean():
    summary = summary_json([case_score("a", x=None)])
    assert summary["foreground_mean"]["Dice"] is None and summary["mean"] == {}
    assert "NaN" not in json.dumps(summary)


def test_summary_without_cases_is_empty():
    summary = summary_json([])
    assert summary["metric_per_case"] == [] and summary["mean"] == {}
