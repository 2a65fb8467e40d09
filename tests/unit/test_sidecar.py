"""The `partial_labels` block: there and back, and what is wrong with a bad one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_partial.errors import LabelError
from nnunet_partial.labels import (
    AnnotationSet,
    LabelSpace,
    PartialLabels,
    Sides,
    from_json,
    has_partial_labels,
    load_dataset_json,
    partial_labels_of,
    to_json,
)

SPACE = LabelSpace(
    {"anatomy": ("background", "liver_tissue", "liver_tumour", "spleen")},
    {"liver": frozenset({"liver_tissue", "liver_tumour"}), "tumour": frozenset({"liver_tumour"})},
)
MODEL = PartialLabels(
    SPACE,
    {
        "lits": AnnotationSet(
            "lits",
            "lits",
            "CT",
            {0: frozenset({"background", "spleen"}), 1: frozenset({"liver_tissue"}), 2: frozenset({"liver_tumour"})},
        ),
        "free": AnnotationSet("free", "free", "MR", {0: SPACE.everything}),
    },
    {"lits_1": "lits", "free_1": "free"},
    {"lits_1": "patient 1"},
    Sides(("tumour",), (2,)),
)


def test_literal_block() -> None:
    assert to_json(MODEL) == {
        "format": 1,
        "axes": {"anatomy": ["background", "liver_tissue", "liver_tumour", "spleen"]},
        "classes": {"liver": ["liver_tissue", "liver_tumour"], "tumour": ["liver_tumour"]},
        "annotation_sets": {
            "lits": {
                "source": "lits",
                "modality": "CT",
                "possible": {
                    "0": {"not": ["liver_tissue", "liver_tumour"]},
                    "1": ["liver_tissue"],
                    "2": ["liver_tumour"],
                },
            },
            "free": {"source": "free", "modality": "MR", "possible": {"0": {"not": []}}},
        },
        "cases": {"lits_1": "lits", "free_1": "free"},
        "patients": {"lits_1": "patient 1"},
        "sides": {"classes": ["tumour"], "axes": [2]},
    }


def random_model(seed: int) -> PartialLabels:
    rng = np.random.default_rng(seed)
    axes = {f"axis{i}": tuple(f"{i}.{a}" for a in range(rng.integers(1, 5))) for i in range(rng.integers(1, 4))}
    classes: dict[str, frozenset[str]] = {}
    for axis, members in axes.items():
        chosen = frozenset(a for a in members[1:] if rng.random() < 0.6)
        if chosen:
            classes[f"class of {axis}"] = chosen
    space = LabelSpace(axes, classes)
    sets = {}
    for index in range(rng.integers(1, 4)):
        possible = {}
        for value in {0, *rng.integers(0, 40, 3).tolist()}:
            atoms: set[str] = set()
            for members in axes.values():
                atoms.update([a for a in members if rng.random() < 0.5] or members)
            possible[value] = frozenset(atoms)
        sets[f"set {index}"] = AnnotationSet(f"set {index}", f"source {index % 2}", "CT", possible)
    cases = {f"case {i}": f"set {rng.integers(len(sets))}" for i in range(5)}
    patients = {case: "patient" for case in cases if rng.random() < 0.3}
    sides = Sides(tuple(c for c in classes if rng.random() < 0.5), tuple(sorted({int(rng.integers(3))})))
    return PartialLabels(space, sets, cases, patients, sides)


@pytest.mark.parametrize("seed", range(40))
def test_round_trip_through_text(seed: int) -> None:
    model = random_model(seed)
    back = from_json(json.loads(json.dumps(to_json(model))))
    assert back == model
    assert list(back.space.classes) == list(model.space.classes)
    assert list(back.sets) == list(model.sets)
    np.testing.assert_array_equal(back.possible, model.possible)
    np.testing.assert_array_equal(back.states, model.states)


def _changed(path: str, value: Any) -> dict[str, Any]:
    block = copy.deepcopy(to_json(MODEL))
    *parents, last = path.split("/")
    place = block
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return block


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", 2, "format 2 is not supported, expected 1; use the version"),
        ("format", None, "format None is not supported"),
        ("clases", {}, r"unknown keys \['clases'\]"),
        ("axes", [], "axes: expected an object, found list"),
        ("axes/anatomy", "background", "axes.anatomy: expected a list of names"),
        ("classes/liver", [1], "classes.liver: expected a list of names"),
        ("classes", None, "classes: expected an object, found NoneType"),
        ("annotation_sets/lits/source", None, "annotation_sets.lits: 'source' is missing"),
        ("annotation_sets/lits/possible/one", ["spleen"], "expected a label value, found 'one'"),
        ("annotation_sets/lits/possible/1", ["lever"], r"possible.1: unknown atoms \['lever'\]"),
        ("annotation_sets/lits/possible/1", {"nor": []}, "expected a list of atoms or"),
        ("annotation_sets/lits/possible/1", {"not": ["lever"]}, r"unknown atoms \['lever'\]"),
        ("cases/lits_1", 3, "cases.lits_1: expected a name, found 3"),
        ("cases/lits_1", "kits", "case 'lits_1' names annotation set 'kits'"),
        ("sides/axes", 2, "sides.axes: expected a list of image axes, found 2"),
        ("sides/axes", [5], "image axes are 0, 1 or 2"),
    ],
)
def test_bad_blocks_name_the_key(path: str, value: Any, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        from_json(_changed(path, value))


def test_errors_name_the_file() -> None:
    with pytest.raises(LabelError, match=r"raw/dataset.json, partial_labels: format 2 is not supported"):
        partial_labels_of({"partial_labels": _changed("format", 2)}, "raw/dataset.json")


def test_a_stock_dataset_has_no_block() -> None:
    assert not has_partial_labels({"labels": {}})
    assert has_partial_labels({"partial_labels": {}})
    with pytest.raises(LabelError, match=r"no 'partial_labels' block.*nnUNetv2_partial_merge"):
        partial_labels_of({"labels": {}})


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), ("{", "not valid JSON"), ("[]", "expected a JSON object, found list")],
)
def test_unreadable_dataset_json(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(LabelError, match=f"dataset.json: {message}"):
        load_dataset_json(tmp_path)
