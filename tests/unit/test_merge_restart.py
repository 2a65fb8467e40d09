"""Merges that stop and go on, that are up to date, and that would replace something."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.errors import LabelError, ProblemsError
from nnunet_partial.labels import load_dataset_json
from nnunet_partial.labels.merge import MergeResult

Factory = Callable[..., Path]
Merge = Callable[..., MergeResult]

SHAPE = (8, 7, 6)


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def times(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in sorted(folder.glob("labelsTr/*.nii.gz"))}


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def test_a_stopped_merge_keeps_what_is_finished(abdomen: SimpleNamespace, merge: Merge, nnunet_folders: Path) -> None:
    raw = nnunet_folders / "raw"
    mask = raw / "Dataset004_BTCV" / "labelsTr" / "c.nii.gz"
    good = mask.read_bytes()
    _nifti(mask, np.full(SHAPE, 9, np.uint8))
    with pytest.raises(ProblemsError, match=r"4 cases are done"):
        merge(abdomen.text)
    building = raw / ".Dataset100_Abdomen.incomplete"
    finished = times(building)
    assert sorted(finished) == ["btcv_a.nii.gz", "free_x.nii.gz", "lits_a.nii.gz", "lits_b.nii.gz"]
    assert not (raw / "Dataset100_Abdomen").exists()

    mask.write_bytes(good)
    result = merge(abdomen.text)
    assert result.written
    assert not building.exists()
    after = times(result.folder)
    assert {name: after[name] for name in finished} == finished
    np.testing.assert_array_equal(
        read(result.folder / "labelsTr" / "btcv_c.nii.gz"), np.where(abdomen.btcv["c"] == 6, 4, 0)
    )


def test_a_stopped_merge_does_again_what_changed_meanwhile(
    abdomen: SimpleNamespace, merge: Merge, nnunet_folders: Path
) -> None:
    raw = nnunet_folders / "raw"
    masks = raw / "Dataset004_BTCV" / "labelsTr"
    good = (masks / "c.nii.gz").read_bytes()
    _nifti(masks / "c.nii.gz", np.full(SHAPE, 9, np.uint8))
    with pytest.raises(ProblemsError):
        merge(abdomen.text, images="copy")
    building = raw / ".Dataset100_Abdomen.incomplete"
    finished = times(building)
    # the temporary file of a writer that was killed, and one more label map that changed
    (building / "imagesTr" / ".99.btcv_c_0000.nii.gz").write_bytes(b"half")
    (masks / "c.nii.gz").write_bytes(good)
    _nifti(masks / "a.nii.gz", np.full(SHAPE, 1, np.uint8))
    folder = merge(abdomen.text.replace("dataset: 3", "dataset: 3\n    exclude: [b]"), images="copy").folder
    after = times(folder)
    kept = ["free_x.nii.gz", "lits_a.nii.gz"]
    assert sorted(after) == ["btcv_a.nii.gz", "btcv_c.nii.gz", *kept]
    assert [after[name] for name in kept] == [finished[name] for name in kept]
    assert (read(folder / "labelsTr" / "btcv_a.nii.gz") == 3).all()
    assert sorted(p.name for p in (folder / "imagesTr").iterdir()) == [
        "btcv_a_0000.nii.gz",
        "btcv_c_0000.nii.gz",
        "free_x_0000.nii.gz",
        "lits_a_0000.nii.gz",
    ]


def test_the_record_of_a_merge_is_a_merge_file_again(
    abdomen: SimpleNamespace, merge: Merge, nnunet_folders: Path
) -> None:
    folder = merge(abdomen.text.replace("spleen: spleen,", "spleen: {not: [liver]},").replace("  spleen:\n", "")).folder
    record = json.loads((folder / "merge.json").read_text())
    again = json.dumps(record["merge_file"])
    assert merge(again).folder == folder
    assert not merge(again).written


def test_an_up_to_date_merge_does_nothing(abdomen: SimpleNamespace, merge: Merge) -> None:
    first = merge(abdomen.text)
    before = {p: p.lstat().st_mtime_ns for p in first.folder.rglob("*")}
    second = merge(abdomen.text)
    assert not second.written
    assert second.folder == first.folder
    assert {p: p.lstat().st_mtime_ns for p in first.folder.rglob("*")} == before


def test_a_changed_merge_needs_overwrite(abdomen: SimpleNamespace, merge: Merge, nnunet_folders: Path) -> None:
    folder = merge(abdomen.text).folder
    before = everything_in(folder)
    changed = abdomen.text.replace("dataset: 4", "dataset: 4\n    exclude: [c]").replace("folds: 2", "folds: 3")
    with pytest.raises(LabelError, match=r"Dataset100_Abdomen exists and was merged differently.*--overwrite"):
        merge(changed)
    with pytest.raises(LabelError, match=r"merged differently"):
        merge(abdomen.text, images="copy")
    assert everything_in(folder) == before
    assert merge(changed, overwrite=True).written
    assert "btcv_c" not in load_dataset_json(folder)["partial_labels"]["cases"]
    assert not (folder / "labelsTr" / "btcv_c.nii.gz").exists()
    assert sorted(p.name for p in (nnunet_folders / "raw").iterdir()) == [
        "Dataset003_LiTS",
        "Dataset004_BTCV",
        "Dataset009_Free",
        "Dataset100_Abdomen",
    ]


def test_a_failed_overwrite_leaves_the_old_dataset_alone(
    abdomen: SimpleNamespace, merge: Merge, nnunet_folders: Path
) -> None:
    folder = merge(abdomen.text).folder
    before = everything_in(folder)
    (nnunet_folders / "raw" / "Dataset003_LiTS" / "labelsTr" / "a.nii.gz").write_bytes(b"")
    with pytest.raises(ProblemsError):
        merge(abdomen.text, overwrite=True)
    assert everything_in(folder) == before


def test_a_dataset_of_the_users_is_never_replaced(abdomen: SimpleNamespace, merge: Merge, raw_dataset: Factory) -> None:
    folder = raw_dataset("Abdomen", 100, {"liver": 1}, {"a": [1]})
    with pytest.raises(
        LabelError, match=r"Dataset100_Abdomen exists and was not made by a merge, so it is not replaced"
    ):
        merge(abdomen.text, overwrite=True)
    assert (folder / "imagesTr" / "a_0000.nii.gz").exists()


def test_a_merge_into_one_of_its_sources(abdomen: SimpleNamespace, merge: Merge) -> None:
    folder = merge(abdomen.text).folder
    text = "name: Abdomen\nfolds: 2\nclasses: {spleen: }\nsources:\n"
    text += "  m: {dataset: 100, labels: {spleen: spleen}, unlisted: background}\n"
    with pytest.raises(LabelError, match=r"source 'm' is Dataset100_Abdomen itself"):
        merge(text, overwrite=True)
    assert folder.exists()


@pytest.mark.parametrize("number", [0, 1000, -3])
def test_impossible_numbers(number: int, abdomen: SimpleNamespace, merge: Merge) -> None:
    with pytest.raises(LabelError, match=f"dataset id: expected 1 to 999, found {number}"):
        merge(abdomen.text, number=number)


def test_a_number_that_is_taken(abdomen: SimpleNamespace, merge: Merge) -> None:
    with pytest.raises(LabelError, match=r"dataset id 9 is taken by Dataset009_Free in .*raw; choose another number"):
        merge(abdomen.text, number=9)


def test_too_few_patients_are_found_before_any_work(
    abdomen: SimpleNamespace, merge: Merge, nnunet_folders: Path
) -> None:
    with pytest.raises(LabelError, match=r"5 folds need at least 5 annotated patients, found 4"):
        merge(abdomen.text.replace("folds: 2\n", ""))
    assert not list((nnunet_folders / "raw").glob("*Abdomen*"))
