"""CHAOS: pictures that run along with the slices of the DICOM series, or against them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_partial.conversion import Slices
from nnunet_partial.errors import ProblemsError
from tests.conversion_fakes.scene import write_picture
from tests.unit.conversion.conversions import Converted, Download, download_of

FLIPPED, UPRIGHT = "on the grid of the image, flipped z", "on the grid of the image"
IMAGES = ("T1DUAL_InPhase", "T1DUAL_OutPhase", "T2SPIR")


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return download_of("CHAOS_CT", tmp_path_factory.mktemp("ct")).convert()


@pytest.fixture(scope="module")
def mr(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return download_of("CHAOS_MR", tmp_path_factory.mktemp("mr")).convert()


def changed(folder: Path, change: object) -> None:
    """Applies a function to all pictures of a folder, as one array (x, y, slice)."""
    files = sorted(folder.glob("[!.]*.png"))
    pictures = np.stack([sitk.GetArrayFromImage(sitk.ReadImage(str(file))).T for file in files], -1)
    for file, picture in zip(files, np.moveaxis(change(pictures), -1, 0), strict=True):  # type: ignore[operator]
        write_picture(file, np.ascontiguousarray(picture))


def refused(download: Download) -> list[str]:
    with pytest.raises(ProblemsError) as caught:
        download.convert()
    return caught.value.problems


def test_the_image_tells_whether_pictures_run_up_or_down(ct: Converted, mr: Converted) -> None:
    assert {case: record.get("placement") for case, record in ct.record.items()} == {
        "CT_1": FLIPPED,
        "CT_2": UPRIGHT,
        "CT_10": FLIPPED,
        "CT_3": None,
    }
    upright = {"MR_3_T1DUAL_InPhase", "MR_3_T1DUAL_OutPhase"}
    for case in mr.fake.train:
        assert mr.record[case]["placement"] == (UPRIGHT if case in upright else FLIPPED)
    for converted in (ct, mr):
        for case, scene in converted.fake.train.items():
            assert all((converted.marked(case, name) == voxels).all() for name, voxels in scene.structures.items())


def test_whatever_is_not_black_is_liver(ct: Converted) -> None:
    assert ct.dataset["labels"] == {"background": 0, "liver": 1}
    assert ct.marked("CT_10", "liver").sum() == ct.fake.train["CT_10"].structures["liver"].sum() > 0


def test_livers_of_donors_hold_no_tumors_and_those_of_patients_may(ct: Converted, mr: Converted) -> None:
    assert ct.possible("CT_1", "liver") == {"liver_parenchyma", "hepatic_vessel"}
    assert ct.possible("CT_1", "background") == {"background"}
    assert "liver_tumor" in ct.labels.space.everything
    assert "liver_tumor" in mr.possible("MR_1_T2SPIR", "liver")
    assert mr.annotated("MR_1_T2SPIR") == {"liver", "kidney_right", "kidney_left", "spleen"}


def test_names_say_ct_or_mr_as_numbers_are_of_different_people(ct: Converted, mr: Converted) -> None:
    assert set(ct.labels.cases) == {"CT_1", "CT_2", "CT_10"}
    assert set(mr.labels.cases) == {f"MR_{number}_{image}" for number in (1, 2, 3, 5, 8) for image in IMAGES}
    assert ct.labels.patients == {}
    assert mr.labels.patient_of("MR_1_T2SPIR") == "MR_1"


def test_images_of_a_patient_stay_in_one_fold(mr: Converted) -> None:
    folds = json.loads((mr.folder / "splits_final.json").read_text())
    assert len(folds) == 5
    for fold in folds:
        patients = [{mr.labels.patient_of(case) for case in fold[part]} for part in ("train", "val")]
        assert patients[0].isdisjoint(patients[1])
        assert len(fold["val"]) == 3 * len(patients[1]) == 3


def test_phases_share_their_labels(mr: Converted) -> None:
    planned = {one.case.id: one.case.label for one in mr.result.plan.cases}
    assert isinstance(planned["MR_1_T2SPIR"], Slices)
    assert planned["MR_1_T1DUAL_InPhase"] == planned["MR_1_T1DUAL_OutPhase"] != planned["MR_1_T2SPIR"]


def test_test_images_have_no_labels(ct: Converted, mr: Converted) -> None:
    for converted, names in ((ct, {"CT_3"}), (mr, {f"MR_4_{image}" for image in IMAGES})):
        found = {path.name.removesuffix("_0000.nii.gz") for path in (converted.folder / "imagesTs").iterdir()}
        assert found == names
        assert not (converted.folder / "labelsTs").exists()


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1, 2)])
def test_a_liver_as_bright_as_air_is_refused(axes: tuple[int, ...], tmp_path: Path) -> None:
    download = download_of("CHAOS_CT", tmp_path)
    changed(download.root / "Train_Sets" / "CT" / "10" / "Ground", lambda pictures: np.flip(pictures, axes))
    (problem,) = refused(download)
    assert problem.startswith("case 'CT_10': ")
    assert "the image contradicts the labels (best of the 2 ways to turn them)" in problem


def test_mirrored_pictures_of_mr_are_refused(tmp_path: Path) -> None:
    download = download_of("CHAOS_MR", tmp_path)
    changed(download.root / "Train_Sets" / "MR" / "5" / "T2SPIR" / "Ground", lambda pictures: pictures[::-1])
    (problem,) = refused(download)
    assert problem.startswith("case 'MR_5_T2SPIR': ")
    assert "'kidney_left' lies on the patient's right of 'kidney_right'" in problem
    assert "'spleen' lies on the patient's right of 'liver'" in problem


def test_a_liver_alone_does_not_tell_up_from_down(tmp_path: Path) -> None:
    download = download_of("CHAOS_MR", tmp_path)
    ground = download.root / "Train_Sets" / "MR" / "8" / "T2SPIR" / "Ground"
    changed(ground, lambda pictures: np.where(pictures == 63, pictures, 0).astype(np.uint8))
    (problem,) = refused(download)
    assert "the image does not tell how its labels are turned: 'as they are' and 'flipped z' fit alike" in problem
    assert set(download.convert(exclude=("MR_8_T2SPIR",)).labels.cases) == set(download.fake.train) - {"MR_8_T2SPIR"}


def test_organs_that_lie_the_wrong_way_round_are_refused(tmp_path: Path) -> None:
    """The spleen lies above its kidney one way, the liver above the other: no way to turn them is right."""
    download = download_of("CHAOS_MR", tmp_path)
    exchanged = np.arange(256, dtype=np.uint8)
    exchanged[[189, 252]] = (252, 189)
    ground = download.root / "Train_Sets" / "MR" / "8" / "T2SPIR" / "Ground"
    changed(ground, lambda pictures: exchanged[pictures])
    (problem,) = refused(download)
    assert "'spleen' lies below 'kidney_left'" in problem or "'liver' lies below 'kidney_right'" in problem


@pytest.mark.parametrize("grey", [54, 71, 100, 136, 174, 201, 239])
def test_grey_between_those_of_the_organs_is_refused(grey: int, tmp_path: Path) -> None:
    download = download_of("CHAOS_MR", tmp_path)
    ground = download.root / "Train_Sets" / "MR" / "1" / "T2SPIR" / "Ground"
    changed(ground, lambda pictures: np.where(pictures == 126, grey, pictures).astype(np.uint8))
    (problem,) = refused(download)
    assert f"unknown label values ({grey} in " in problem


def test_a_missing_picture_is_not_overlooked(tmp_path: Path) -> None:
    download = download_of("CHAOS_CT", tmp_path)
    (download.root / "Train_Sets" / "CT" / "1" / "Ground" / "liver_GT_003.png").unlink()
    (problem,) = refused(download)
    assert "the image has shape (9, 8, 7), the label map (9, 8, 6)" in problem


def test_missing_folders_are_named(tmp_path: Path) -> None:
    download = download_of("CHAOS_CT", tmp_path)
    first, second = (download.root / "Train_Sets" / "CT" / number for number in ("1", "2"))
    (first / "DICOM_anon").rename(first / "DICOM")
    with pytest.raises(ProblemsError, match="case 'CT_1': Train_Sets/CT/1/DICOM_anon is missing"):
        download.plan()
    for picture in (second / "Ground").iterdir():
        picture.unlink()
    expected = r"expected Train_Sets/CT/2/Ground/liver_GT_\{slice\}.png, but the folder .*2/Ground holds nothing"
    with pytest.raises(ProblemsError, match=expected):
        download.plan()
