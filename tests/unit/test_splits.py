"""Folds: every source spread over them, no patient in two."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnunet_partial.errors import LabelError
from nnunet_partial.labels import AnnotationSet, LabelSpace, PartialLabels, stratified_splits
from nnunet_partial.labels.splits import splits_of_sources

SPACE = LabelSpace({"anatomy": ("background", "liver")}, {"liver": frozenset({"liver"})})
ANNOTATED = {0: frozenset({"background"}), 1: frozenset({"liver"})}
NOTHING = {0: SPACE.everything}


def model(counts: dict[str, int], unlabelled: int = 0, patients: dict[str, str] | None = None) -> PartialLabels:
    sets = {name: AnnotationSet(name, name, "CT", ANNOTATED) for name in counts}
    cases = {f"{name}_{i:02d}": name for name, count in counts.items() for i in range(count)}
    if unlabelled:
        sets["free"] = AnnotationSet("free", "free", "CT", NOTHING)
        cases |= {f"free_{i:02d}": "free" for i in range(unlabelled)}
    return PartialLabels(SPACE, sets, cases, patients or {})


def test_every_source_is_spread_over_the_folds() -> None:
    splits = stratified_splits(model({"lits": 20, "btcv": 10, "kits": 5}))
    assert len(splits) == 5
    for split in splits:
        counts = [sum(case.startswith(source) for case in split["val"]) for source in ("lits", "btcv", "kits")]
        assert counts == [4, 2, 1]


def test_every_annotated_case_is_validated_once_and_trained_on_otherwise() -> None:
    labels = model({"lits": 7, "btcv": 6})
    splits = stratified_splits(labels, folds=3)
    validated = [case for split in splits for case in split["val"]]
    assert sorted(validated) == sorted(labels.cases)
    for split in splits:
        assert sorted(split["train"] + split["val"]) == sorted(labels.cases)
        assert split["train"] == sorted(split["train"])
        assert split["val"] == sorted(split["val"])


def test_unlabelled_cases_are_always_trained_on() -> None:
    splits = stratified_splits(model({"lits": 10}, unlabelled=4))
    for split in splits:
        assert {f"free_{i:02d}" for i in range(4)} <= set(split["train"])
        assert not any(case.startswith("free") for case in split["val"])


def test_an_unlabelled_case_of_a_validated_patient_is_left_out_of_that_fold() -> None:
    labels = model({"lits": 10}, unlabelled=1, patients={"free_00": "p", "lits_03": "p"})
    for split in stratified_splits(labels):
        assert ("free_00" in split["train"]) == ("lits_03" in split["train"])
        assert "free_00" not in split["val"]


@pytest.mark.parametrize("seed", range(10))
def test_no_patient_stands_in_both_parts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = model({"lits": 15, "btcv": 12}, unlabelled=5)
    patients = {case: f"patient {rng.integers(12)}" for case in labels.cases}
    labels = PartialLabels(labels.space, labels.sets, labels.cases, patients)
    for split in stratified_splits(labels, folds=4):
        assert split["val"]
        assert not {patients[c] for c in split["train"]} & {patients[c] for c in split["val"]}


def test_same_seed_same_folds_in_any_order_of_the_cases() -> None:
    labels = model({"lits": 12, "btcv": 8})
    shuffled = PartialLabels(labels.space, labels.sets, dict(reversed(labels.cases.items())))
    assert stratified_splits(labels) == stratified_splits(shuffled)
    assert stratified_splits(labels) != stratified_splits(labels, seed=1)


def test_some_of_the_cases() -> None:
    cases = [f"lits_{i:02d}" for i in range(6)]
    splits = stratified_splits(model({"lits": 20}), cases, folds=3)
    assert sorted(case for split in splits for case in split["val"]) == cases


def test_sources_smaller_than_the_number_of_folds() -> None:
    splits = stratified_splits(model({"a": 2, "b": 2, "c": 2}))
    assert sorted(len(split["val"]) for split in splits) == [1, 1, 1, 1, 2]


@pytest.mark.parametrize("seed", range(30))
def test_no_fold_is_empty(seed: int) -> None:
    rng = np.random.default_rng(seed)
    folds = int(rng.integers(2, 6))
    labels = model({name: int(rng.integers(1, 6)) for name in "abc"[: rng.integers(1, 4)]})
    if len(labels.cases) >= folds:
        assert all(split["val"] for split in stratified_splits(labels, folds=folds))


def test_too_few_patients() -> None:
    patients = {f"lits_{i:02d}": f"patient {i // 2}" for i in range(8)}
    with pytest.raises(LabelError, match=r"5 folds need at least 5 annotated patients, found 4; set 'folds' lower"):
        stratified_splits(model({"lits": 8}, unlabelled=9, patients=patients))
    assert len(stratified_splits(model({"lits": 8}, patients=patients), folds=4)) == 4


@pytest.fixture
def own_folds(tmp_path: Path) -> dict[str, Path]:
    """Two datasets with two folds each; lits_02 is no case of the merged dataset."""
    folders = {source: tmp_path / source for source in ("lits", "btcv")}
    folds = {
        "lits": [(["00", "02"], ["01"]), (["01"], ["00", "02"])],
        "btcv": [(["00"], ["01"]), (["01"], ["00"])],
    }
    for source, folder in folders.items():
        folder.mkdir()
        content = [{"train": train, "val": val} for train, val in folds[source]]
        (folder / "splits_final.json").write_text(json.dumps(content))
    return folders


def test_folds_of_the_datasets(own_folds: dict[str, Path]) -> None:
    labels = model({"lits": 2, "btcv": 2}, patients={"lits_00": "p", "btcv_00": "p"})
    assert splits_of_sources(labels, own_folds) == [
        {"train": ["btcv_00", "lits_00"], "val": ["btcv_01", "lits_01"]},
        {"train": ["btcv_01", "lits_01"], "val": ["btcv_00", "lits_00"]},
    ]


def test_folds_of_the_datasets_that_make_none_together(own_folds: dict[str, Path]) -> None:
    with pytest.raises(LabelError, match=r"fold 0 of the datasets trains on and validates on the patients \['p'\]"):
        splits_of_sources(model({"lits": 2, "btcv": 2}, patients={"lits_00": "p", "btcv_01": "p"}), own_folds)
    with pytest.raises(LabelError, match=r"fold 0 .* neither trains on nor validates on \['btcv_02'\]"):
        splits_of_sources(model({"lits": 2, "btcv": 3}), own_folds)
    labels = model({"lits": 2, "btcv": 2})
    file = own_folds["btcv"] / "splits_final.json"
    file.write_text(json.dumps(json.loads(file.read_text())[:1]))
    with pytest.raises(LabelError, match=r"as many in all of them, found \{'lits': 2, 'btcv': 1\}"):
        splits_of_sources(labels, own_folds)
    file.write_text("{}")
    with pytest.raises(LabelError, match=r"as many in all of them, found \{'lits': 2, 'btcv': 0\}"):
        splits_of_sources(labels, own_folds)
    file.write_text('[{"train": []}]')
    with pytest.raises(LabelError, match=r"splits_final.json: not nnU-Net's list of folds"):
        splits_of_sources(labels, own_folds)
