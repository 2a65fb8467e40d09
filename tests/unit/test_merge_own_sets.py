"""Annotation sets that a merge takes over from a dataset, and labels that were drawn over others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_partial.errors import LabelError
from nnunet_partial.labels import AnnotationSet, LabelSpace, PartialLabels, to_json
from nnunet_partial.labels.merge_plan import MergePlan
from nnunet_partial.labels.space import BACKGROUND, DEFAULT_AXIS
from tests.unit.merge_plans import annotated, shown

Factory = Callable[..., Path]
Plan = Callable[..., MergePlan]

LABELS = {"liver": 1, "spleen": 2, "tumor": 3, "ignore": 4}
CLASSES = "liver: [liver_tissue, liver_tumour], spleen: , tumour: [liver_tumour, other_tumour]"


def converted(raw_dataset: Factory) -> None:
    """A dataset whose own table says what was annotated in which case, and that calls nothing else by our names."""
    space = LabelSpace(
        {DEFAULT_AXIS: (BACKGROUND, "lever", "milt", "growth")},
        {"lever": frozenset({"lever"}), "milt": frozenset({"milt"}), "growth": frozenset({"growth"})},
    )
    everything = space.everything
    atoms = {1: frozenset({"lever"}), 2: frozenset({"milt"}), 3: frozenset({"growth", "lever"})}
    sets = {
        "liver+spleen": {0: frozenset({BACKGROUND, "growth"}), 1: atoms[1], 2: atoms[2], 4: everything},
        "all": {0: frozenset({BACKGROUND}), **atoms},
        "tumor": {0: everything - {"growth"}, 3: atoms[3]},
        "none": {0: everything, 4: everything},
    }
    cases = {"a": "all", "b": "liver+spleen", "c": "tumor", "d": "none"}
    model = PartialLabels(space, {n: AnnotationSet(n, "own", "CT", p) for n, p in sets.items()}, cases)
    block = to_json(model)
    raw_dataset("Own", 23, LABELS, {case: [0] for case in cases}, partial_labels=block)


OWN = """
flare:
  dataset: 23
  labels: {liver: liver, spleen: spleen, tumor: tumour}
  annotated: dataset
"""


def test_annotation_sets_of_the_dataset_itself(raw_dataset: Factory, plan: Plan) -> None:
    converted(raw_dataset)
    found = plan(OWN, CLASSES)
    labels = found.labels
    assert labels.cases == {
        "flare_a": "flare.all",
        "flare_b": "flare.liver+spleen",
        "flare_c": "flare.tumor",
        "flare_d": "flare.none",
    }
    assert annotated(labels, "flare.liver+spleen") == ["liver", "spleen"]
    assert annotated(labels, "flare.tumor") == ["tumour"]
    assert annotated(labels, "flare.none") == []
    assert shown(labels, "flare.tumor", found) == {"background": "??-", "tumour": "?-+", "unknown": "???"}
    assert shown(labels, "flare.all", found)["liver"] == "+-?"


def test_labels_that_exclude_say_nothing_of_cases_without_labels(raw_dataset: Factory, plan: Plan) -> None:
    converted(raw_dataset)
    labels = plan(OWN.replace("tumor: tumour", "tumor: {not: [liver, spleen]}"), "liver: , spleen: ").labels
    assert {case for case in labels.cases if labels.is_annotated(case)} == {"flare_a", "flare_b"}
    # somebody drew tumours in the third, which are no liver; nobody looked at the fourth
    assert {case for case in labels.cases if labels.is_informative(case)} == {"flare_a", "flare_b", "flare_c"}


def test_labels_on_top_are_not_in_the_others_where_they_were_drawn(raw_dataset: Factory, plan: Plan) -> None:
    converted(raw_dataset)
    found = plan(OWN + "  on_top: [tumor]\n", CLASSES)
    labels = found.labels
    drawn, missing = shown(labels, "flare.all", found), shown(labels, "flare.liver+spleen", found)
    assert drawn == {"background": "---", "liver_tissue": "+--", "spleen": "-+-", "tumour": "?-+", "unknown": "???"}
    assert missing == {"background": "--?", "spleen": "-+-", "liver": "+-?", "unknown": "???"}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("annotated: dataset", "annotated: dataset\n  cases: {a: all}", "tells the set of each case; remove 'cases'"),
        ("annotated: dataset", "on_top: [lever]", "has no label 'lever'"),
        ("liver: liver,", "liver: tumour,", "value 1 could be nothing at all on axis 'anatomy'; .* 'on_top'"),
        ("dataset: 23", "dataset: 3", "partial_labels"),
    ],
)
def test_what_is_wrong_with_own_sets(
    before: str, after: str, message: str, raw_dataset: Factory, lits: Path, plan: Plan
) -> None:
    converted(raw_dataset)
    text = OWN + "  on_top: [tumor]\n" * ("on_top" not in after)
    assert before in text
    if "dataset: 3" in after:
        text = text.replace("spleen: spleen, ", "")
    with pytest.raises(LabelError, match=message):
        plan(text.replace(before, after), CLASSES)


@pytest.mark.parametrize("annotated", ["", "  annotated: dataset\n"])
def test_what_could_be_a_listed_organ_is_no_background(annotated: str, raw_dataset: Factory, plan: Plan) -> None:
    """By the dataset's own table, a voxel of 'tumor' could be liver."""
    converted(raw_dataset)
    text = "\nflare:\n  dataset: 23\n  unlisted: background\n" + annotated
    organs = "liver: [liver_tissue, liver_tumour], spleen: "
    with pytest.raises(LabelError, match=r"source 'flare', unlisted: .* listed: 'tumor' that of 'liver'; list"):
        plan(text + "  labels: {liver: liver, spleen: spleen}\n", organs)
    assert plan(text + "  labels: {spleen: spleen}\n", "spleen: ").cases[0].lookup[3] == 0
    unknown = plan(text.replace("background", "unknown") + "  labels: {liver: liver}\n", "liver: ")
    assert unknown.value_names[unknown.cases[0].lookup[3]] == "unknown"
    assert unknown.value_names[unknown.cases[0].lookup[2]] == "unknown"


def test_all_that_could_be_listed_organs_are_named_at_once(raw_dataset: Factory, plan: Plan) -> None:
    atoms = {1: frozenset({"lever"}), 2: frozenset({"milt"}), 3: frozenset({"growth", "lever"})}
    atoms[5] = frozenset({"milt", "hole"})
    axis = (BACKGROUND, "lever", "milt", "growth", "hole", "bone")
    classes = {name: frozenset({name}) for name in axis[1:]}
    possible = {0: frozenset({BACKGROUND}), **atoms, 6: frozenset({"bone"})}
    model = PartialLabels(
        LabelSpace({DEFAULT_AXIS: axis}, classes), {"all": AnnotationSet("all", "own", "CT", possible)}, {"a": "all"}
    )
    labels = {"liver": 1, "spleen": 2, "tumor": 3, "cyst": 5, "bone": 6}
    raw_dataset("Own", 23, labels, {"a": [0]}, partial_labels=to_json(model))
    source = "s: {dataset: 23, labels: {liver: liver, spleen: spleen}, unlisted: background}"
    with pytest.raises(
        LabelError, match="listed: 'tumor' that of 'liver', 'cyst' that of 'spleen'; list them"
    ) as caught:
        plan(source, "liver: , spleen: ")
    assert "{not: [...]}, or set 'unlisted: unknown'" in str(caught.value)
    assert "bone" not in str(caught.value)
    out = source.replace("spleen: spleen", "spleen: spleen, tumor: {not: [spleen]}, cyst: {not: [liver]}")
    assert plan(out, "liver: , spleen: ").labels.class_names == ("liver", "spleen")
    assert plan(source.replace("background", "unknown"), "liver: , spleen: ").labels.class_names == ("liver", "spleen")
