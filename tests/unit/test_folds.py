"""The folds of a training: those that exist, those of the raw dataset, or new ones."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from nnunet_partial.errors import LabelError
from nnunet_partial.labels import AnnotationSet, LabelSpace, PartialLabels, stratified_splits
from nnunet_partial.training.folds import prepare_fold

CASES = [f"lits_{i:02d}" for i in range(6)]
OWN = [{"train": CASES[:4], "val": CASES[4:]}, {"train": CASES[2:], "val": CASES[:2]}]


def labels() -> PartialLabels:
    space = LabelSpace({"anatomy": ("background", "liver")}, {"liver": frozenset({"liver"})})
    possible = {0: frozenset({"background"}), 1: frozenset({"liver"})}
    patients = {case: f"patient {i // 2}" for i, case in enumerate(CASES)} | {"lits_05": "patient 4"}
    patients |= {"lits_03": "patient 5", "lits_01": "patient 6"}
    return PartialLabels(
        space, {"lits": AnnotationSet("lits", "lits", "CT", possible)}, dict.fromkeys(CASES, "lits"), patients
    )


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The splits_final.json of the raw dataset, which exists, and of the preprocessed one, which does not."""
    raw, preprocessed = (tmp_path / part / "Dataset100_Abdomen" for part in ("raw", "preprocessed"))
    for folder in (raw, preprocessed):
        folder.mkdir(parents=True)
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    (raw / "splits_final.json").write_text(json.dumps(OWN))
    return SimpleNamespace(raw=raw / "splits_final.json", preprocessed=preprocessed / "splits_final.json", lines=[])


def prepared(folders: SimpleNamespace, fold: int = 0, cases: list[str] = CASES) -> dict[str, list[str]] | None:
    return prepare_fold(folders.preprocessed.parent, fold, labels(), lambda: cases, folders.lines.append)


def test_folds_that_exist_stay(folders: SimpleNamespace) -> None:
    folders.preprocessed.write_text(json.dumps(OWN[::-1]))
    assert prepared(folders, 1) is None
    assert json.loads(folders.preprocessed.read_text()) == OWN[::-1]
    assert folders.lines == []


def test_missing_folds_are_copied_from_the_raw_dataset(folders: SimpleNamespace) -> None:
    assert prepared(folders) is None
    assert json.loads(folders.preprocessed.read_text()) == OWN
    assert folders.lines == [f"Folds: copied from {folders.raw}"]


def test_folds_of_some_of_the_preprocessed_cases(folders: SimpleNamespace) -> None:
    assert prepared(folders, cases=[*CASES, "lits_06"]) is None
    assert json.loads(folders.preprocessed.read_text()) == OWN


def test_folds_of_other_cases_are_not_taken(folders: SimpleNamespace) -> None:
    assert prepared(folders, cases=CASES[:5]) is None
    assert json.loads(folders.preprocessed.read_text()) == stratified_splits(labels(), CASES[:5])
    (line,) = folders.lines
    assert line.startswith(f"{folders.raw} is of other cases, ['lits_05'] are not preprocessed; new folds are drawn")


@pytest.mark.parametrize("reason", ["no variable", "no file", "no folds"])
def test_without_folds_of_the_raw_dataset(
    reason: str, folders: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason == "no variable":
        monkeypatch.delenv("nnUNet_raw")
    elif reason == "no file":
        folders.raw.unlink()
    else:
        folders.raw.write_text("[]")
    assert prepared(folders) is None
    assert json.loads(folders.preprocessed.read_text()) == stratified_splits(labels(), CASES)
    assert folders.lines == []


def test_a_fold_beyond_those_copied_is_drawn(folders: SimpleNamespace) -> None:
    assert prepared(folders, 2) == stratified_splits(labels(), CASES, seed=12347)[0]
    assert folders.lines[-1] == "splits_final.json has 2 folds; fold 2 is drawn, by patient"


def test_damaged_folds_of_the_raw_dataset(folders: SimpleNamespace) -> None:
    folders.raw.write_text("{")
    with pytest.raises(LabelError, match=r"raw/Dataset100_Abdomen/splits_final.json: not nnU-Net's list of folds"):
        prepared(folders)
    assert not folders.preprocessed.exists()
