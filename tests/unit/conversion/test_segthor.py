"""SegTHOR: label maps that all have the same name."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_partial.errors import ProblemsError
from tests.unit.conversion.conversions import CONVERTERS, Converted, download_of

LABELS = {"esophagus", "heart", "trachea", "aorta"}


@pytest.fixture(scope="module")
def segthor(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return download_of("SegTHOR", tmp_path_factory.mktemp("segthor")).convert()


def test_cases_are_called_like_their_folders(segthor: Converted) -> None:
    assert set(segthor.labels.cases) == {"Patient_01", "Patient_09", "Patient_40"}
    sources = [source["path"] for source in segthor.record["Patient_40"]["sources"]]
    assert sources == ["train/Patient_40/Patient_40.nii.gz", "train/Patient_40/GT.nii.gz"]
    for case, scene in segthor.fake.train.items():
        assert all((segthor.marked(case, name) == voxels).all() for name, voxels in scene.structures.items())


def test_four_organs_are_annotated_and_no_lungs(segthor: Converted) -> None:
    assert segthor.annotated("Patient_01") == LABELS
    assert set(segthor.states("Patient_01", "background").values()) == {"absent"}
    assert segthor.states("Patient_01", "heart") == dict.fromkeys(LABELS, "absent") | {"heart": "present"}
    tissues = frozenset[str]().union(*(CONVERTERS["SegTHOR"].tissues(name) for name in LABELS))
    assert segthor.labels.space.everything == tissues | {"background"}


def test_test_images_have_no_labels(segthor: Converted) -> None:
    assert [path.name for path in (segthor.folder / "imagesTs").iterdir()] == ["Patient_41_0000.nii.gz"]
    assert not (segthor.folder / "labelsTs").exists()


def test_an_image_in_the_folder_of_another_patient(tmp_path: Path) -> None:
    download = download_of("SegTHOR", tmp_path)
    train = download.root / "train"
    (train / "Patient_01" / "Patient_01.nii.gz").rename(train / "Patient_01" / "Patient_02.nii.gz")
    (train / "Patient_09" / "GT.nii.gz").unlink()
    with pytest.raises(ProblemsError) as caught:
        download.plan()
    assert caught.value.problems == [
        "case 'Patient_01': train/Patient_01/Patient_01.nii.gz is missing",
        "case 'Patient_09': train/Patient_09/GT.nii.gz is missing",
    ]
