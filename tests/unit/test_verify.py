"""Verifying: coverage, problems, and the same image twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.errors import LabelError
from nnunet_partial.labels.merge import merge_datasets
from nnunet_partial.labels.verify import verify_dataset, volume_hash

Factory = Callable[..., Path]

MERGE_FILE = """
name: Abdomen
folds: 2
classes:
  liver: [liver_tissue, liver_tumour]
  tumour: [liver_tumour]
  spleen:
sources:
  lits:
    dataset: 3
    labels: {liver: liver_tissue, tumor: tumour}
  btcv:
    dataset: 4
    labels: {spleen: spleen, liver: liver}
  free:
    dataset: 9
"""


@pytest.fixture
def merged(raw_dataset: Factory, merge_file: Callable[..., Path]) -> Path:
    raw_dataset("LiTS", 3, {"liver": 1, "tumor": 2}, {"a": [1, 1, 2], "b": [1]})
    raw_dataset("BTCV", 4, {"spleen": 1, "liver": 6}, {"a": [1, 6, 6, 6], "c": [6]})
    raw_dataset("Free", 9, {}, {"x": None})
    return merge_datasets(merge_file(MERGE_FILE), 100, images="copy").folder


def change(folder: Path, edit: Callable[[dict], None]) -> None:
    content = json.loads((folder / "dataset.json").read_text())
    edit(content)
    (folder / "dataset.json").write_text(json.dumps(content))


@pytest.mark.parametrize("processes", [1, 2])
def test_coverage_of_a_sound_dataset(merged: Path, processes: int) -> None:
    report = verify_dataset(merged, processes=processes)
    assert report.problems == []
    assert report.notes == []
    assert report.duplicates == []
    coverage = report.coverage
    assert coverage is not None
    assert coverage.sources == ("lits", "btcv", "free")
    assert coverage.classes == ("liver", "tumour", "spleen")
    assert coverage.total.tolist() == [2, 2, 1]
    assert coverage.cases.tolist() == [[2, 2, 0], [2, 0, 2], [0, 0, 0]]
    assert coverage.present.tolist() == [[2, 1, 0], [2, 0, 1], [0, 0, 0]]
    assert coverage.voxels.tolist() == [[4, 1, 0], [4, 0, 1], [0, 0, 0]]


def test_no_table_at_all(raw_dataset: Factory) -> None:
    folder = raw_dataset("LiTS", 3, {"liver": 1}, {"a": [1]})
    with pytest.raises(LabelError, match=r"Dataset003_LiTS/dataset.json: no 'partial_labels' block"):
        verify_dataset(folder)


def test_values_a_case_must_not_have(merged: Path) -> None:
    labels = merged / "labelsTr" / "lits_a.nii.gz"
    array = np.zeros((8, 7, 6), np.uint8)
    array[0] = 4
    nib.save(nib.Nifti1Image(array, np.eye(4)), labels)
    report = verify_dataset(merged)
    assert report.problems == ["case 'lits_a': values [4] are not in its annotation set, which knows [0, 1, 2]"]
    assert report.coverage is not None
    assert report.coverage.total.tolist() == [1, 2, 1]


def test_label_maps_that_moved_or_went(merged: Path) -> None:
    nib.save(
        nib.Nifti1Image(np.zeros((8, 7, 6), np.uint8), np.diag([2, 1, 1, 1])), merged / "labelsTr" / "lits_a.nii.gz"
    )
    (merged / "labelsTr" / "lits_b.nii.gz").unlink()
    (merged / "imagesTr" / "free_x_0000.nii.gz").unlink()
    (merged / "imagesTr" / "btcv_c_0000.nii.gz").write_bytes(b"")
    report = verify_dataset(merged)
    assert len(report.problems) == 4
    assert report.problems[0] == "case 'free_x' has an annotation set, but no image in imagesTr"
    assert "btcv_c_0000.nii.gz: the file is empty" in report.problems[1]
    assert "case 'lits_a': the label map does not lie on lits_a_0000.nii.gz: corners" in report.problems[2]
    assert report.problems[3] == "case 'lits_b': no label map in labelsTr"


def test_cases_without_a_set(merged: Path) -> None:
    change(merged, lambda content: content["partial_labels"]["cases"].pop("free_x"))
    report = verify_dataset(merged)
    assert report.problems[0] == "case 'free_x' has no annotation set in partial_labels.cases"


def test_label_names_that_do_not_fit_the_table(merged: Path) -> None:
    change(merged, lambda content: content["labels"].pop("spleen"))
    problems = verify_dataset(merged).problems
    assert problems[0] == "value 3 stands in the table, but not in 'labels' of dataset.json"
    assert problems[1] == "'labels' of dataset.json must be consecutive from 0, found [0, 1, 2, 4]"


def test_classes_nobody_annotates(merged: Path) -> None:
    def drop_lits(content: dict) -> None:
        for case in ("lits_a", "lits_b"):
            content["partial_labels"]["cases"][case] = "free"

    change(merged, drop_lits)
    assert any("class 'tumour' is never present" in problem for problem in verify_dataset(merged).problems)


def test_folds_that_mix_patients(merged: Path) -> None:
    change(merged, lambda content: content["partial_labels"].update(patients={"lits_a": "p", "lits_b": "p"}))
    splits = [{"train": ["lits_a", "btcv_a"], "val": ["lits_b", "other"]}]
    (merged / "splits_final.json").write_text(json.dumps(splits))
    assert verify_dataset(merged).problems == [
        "splits_final.json, fold 0: patients ['p'] are trained on and validated on",
        "splits_final.json, fold 0: no such cases: ['other']",
    ]
    (merged / "splits_final.json").write_text("{")
    with pytest.raises(LabelError, match=r"splits_final.json: not nnU-Net's list of folds"):
        verify_dataset(merged)


def test_labels_that_overlap_by_oversight_are_noted(raw_dataset: Factory, merge_file: Callable[..., Path]) -> None:
    raw_dataset("LiTS", 3, {"liver": 1, "tumor": 2}, {"a": [1, 2], "b": [1]})
    text = """
name: Wide
folds: 2
classes: {liver: [liver_tissue, liver_tumour], tumour: [liver_tumour]}
sources:
  lits: {dataset: 3, labels: {liver: liver, tumor: tumour}}
"""
    report = verify_dataset(merge_datasets(merge_file(text), 100).folder)
    assert report.problems == []
    assert len(report.notes) == 1
    assert "'liver' could also be 'tumour', which has a label of its own" in report.notes[0]


def _same_image_twice(raw_dataset: Factory, merge_file: Callable[..., Path], patients: str) -> Path:
    """The image of lits_a again in another source: reoriented, and with the offset of unsigned CT."""
    first = raw_dataset("LiTS", 3, {"liver": 1}, {"a": [1], "b": [1]})
    second = raw_dataset("BTCV", 4, {"liver": 1}, {"q": [0], "r": [1]})
    image = nib.load(first / "imagesTr" / "a_0000.nii.gz")
    shifted = nib.Nifti1Image((np.asarray(image.dataobj).astype(np.int32) + 1024).astype(np.uint16), image.affine)
    turned = shifted.as_reoriented(np.array([[1, -1], [0, 1], [2, -1]]))
    assert turned.shape == (7, 8, 6)
    nib.save(turned, second / "imagesTr" / "q_0000.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(turned.shape, np.uint8), turned.affine), second / "labelsTr" / "q.nii.gz")
    text = f"""
name: Twice
folds: 2
classes: {{liver: }}
sources:
  lits: {{dataset: 3, labels: {{liver: liver}}{patients}}}
  btcv: {{dataset: 4, labels: {{liver: liver}}{patients}}}
"""
    return merge_datasets(merge_file(text), 100).folder


def test_the_same_image_in_another_orientation_and_with_an_offset(
    raw_dataset: Factory, merge_file: Callable[..., Path]
) -> None:
    folder = _same_image_twice(raw_dataset, merge_file, "")
    report = verify_dataset(folder)
    assert report.duplicates == [("btcv_q", "lits_a")]
    assert len(report.problems) == 1
    assert report.problems[0].startswith("the same image in btcv_q, lits_a: a leak between training and validation")
    assert verify_dataset(folder, find_duplicates=False).problems == []


def test_the_same_image_of_one_declared_patient_is_a_note(
    raw_dataset: Factory, merge_file: Callable[..., Path]
) -> None:
    report = verify_dataset(_same_image_twice(raw_dataset, merge_file, ", patients: {a: p1, q: p1}"))
    assert report.problems == []
    assert report.notes == ["the same image in btcv_q, lits_a (one patient, kept in the same fold)"]


def test_hashes() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(-1000, 1000, (5, 4, 3)).astype(np.int16)
    affine = np.diag([1.0, 1, 2, 1])
    reference = volume_hash(image, affine)
    flipped = np.diag([-1.0, 1, 2, 1])
    assert volume_hash(image[::-1], flipped) == reference
    assert volume_hash(image.transpose(2, 0, 1), affine[:, [2, 0, 1, 3]]) == reference
    assert volume_hash((image + 1024).astype(np.float32), affine) == reference
    assert volume_hash(image.astype(np.float64) + 0.2, affine) == reference
    other = image.copy()
    other[0, 0, 0] += 1
    assert volume_hash(other, affine) != reference
    assert volume_hash(image[::-1], affine) != reference
    assert volume_hash(image.reshape(5, 2, 6), affine) != reference


def test_hashes_of_intensities_scaled_to_one() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 5, 4, 3)) * 0.4
    assert volume_hash(first, np.eye(4)) != volume_hash(second, np.eye(4))
    assert volume_hash(first, np.eye(4)) == volume_hash(first + 5, np.eye(4))


def test_hashes_of_images_without_content() -> None:
    empty = volume_hash(np.zeros((3, 3, 3)), np.eye(4))
    assert volume_hash(np.full((3, 3, 3), np.nan), np.eye(4)) == empty
    assert volume_hash(np.zeros((3, 9)), np.eye(4)) != empty
