"""KiTS19 and KiTS21: kidneys without sides, masses of unknown kind, votes of raters, images downloaded apart."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import pytest

from nnunet_partial.conversion.engine import plan_conversion
from nnunet_partial.errors import ProblemsError
from tests.unit.conversion.conversions import CONVERTERS, Converted, download_of

TUMORS = {"kidney_left_tumor", "kidney_right_tumor"}
CYSTS = {"kidney_cyst_left", "kidney_cyst_right"}
TISSUE = {"kidney_left_tissue", "kidney_right_tissue"}


@pytest.fixture(scope="module")
def kits19(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return download_of("KiTS19", tmp_path_factory.mktemp("kits19")).convert()


@pytest.fixture(scope="module")
def kits21(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return download_of("KiTS21", tmp_path_factory.mktemp("kits21")).convert()


def test_a_mass_of_kits19_could_be_a_tumor_or_a_cyst_of_either_side(kits19: Converted) -> None:
    case = "case_00000"
    assert kits19.possible(case, "kidney_mass") == TUMORS | CYSTS
    assert kits19.possible(case, "kidney_tissue") == TISSUE
    assert kits19.possible(case, "background") == {"background"}
    assert kits19.states(case, "kidney_tissue") == {"kidneys": "present", "kidney_mass": "absent"}
    assert kits19.states(case, "kidney_mass") == {"kidneys": "present", "kidney_mass": "present"}
    assert kits19.annotated(case) == {"kidneys", "kidney_mass"}


def test_kits21_tells_tumors_from_cysts(kits21: Converted) -> None:
    case = "case_00210"  # no cyst was found in it
    assert kits21.possible(case, "kidney_tumor") == TUMORS
    assert kits21.possible(case, "kidney_cyst") == CYSTS
    assert kits21.annotated(case) == {"kidneys", "kidney_mass", "kidney_tumor"}
    assert kits21.states(case, "kidney_cyst") == {
        "kidneys": "present",
        "kidney_mass": "present",
        "kidney_tumor": "absent",
    }


def test_only_the_majority_of_the_raters_is_read(kits21: Converted) -> None:
    for case, record in kits21.record.items():
        files = {Path(source["path"]).name for source in record["sources"]}
        assert files == {"imaging.nii.gz", "aggregated_MAJ_seg.nii.gz"}
        for name, voxels in kits21.fake.train[case].structures.items():
            assert (kits21.marked(case, name) == voxels).all()


def test_what_was_corrected_is_noted(kits19: Converted) -> None:
    notes = {case: record.get("note") for case, record in kits19.record.items()}
    assert notes["case_00015"] == "its image was replaced in April 2019, its label map corrected in December 2019"
    assert "512 x 796" in notes["case_00160"]
    assert notes["case_00000"] is None
    image = nib.load(kits19.folder / "imagesTr" / "case_00160_0000.nii.gz")
    assert image.shape == (7, 8, 12)
    assert nib.aff2axcodes(image.affine) == ("I", "P", "L")


def test_cases_from_210_are_the_test_set_of_kits19(kits19: Converted) -> None:
    assert [path.name for path in (kits19.folder / "imagesTs").iterdir()] == ["case_00210_0000.nii.gz"]
    assert not (kits19.folder / "labelsTs").exists()
    assert "case_00210" not in kits19.labels.cases


@pytest.mark.parametrize("name", ["KiTS19", "KiTS21"])
def test_images_and_labels_that_are_missing(name: str, tmp_path: Path) -> None:
    download = download_of(name, tmp_path)
    for missing in ("case_00000/imaging.nii.gz", *(f"{case}/*seg*" for case in ("case_00209", "case_00210"))):
        for file in (download.root / "data").glob(missing):
            file.unlink()
    with pytest.raises(ProblemsError) as caught:
        download.plan()
    assert caught.value.problems == [
        "case 'case_00000': data/case_00000/imaging.nii.gz is missing",
        {
            "KiTS19": "case 'case_00209': data/case_00209/segmentation.nii.gz is missing",
            "KiTS21": "case 'case_00210': data/case_00210/aggregated_MAJ_seg.nii.gz is missing",
        }[name],
    ]


def test_labels_whose_images_were_not_downloaded(tmp_path: Path) -> None:
    download = download_of("KiTS21", tmp_path)
    for image in (download.root / "data").rglob("imaging.nii.gz"):
        image.unlink()
    with pytest.raises(ProblemsError, match=r"expected data/case_\{id\}/imaging.nii.gz, but the folder data holds"):
        download.plan()


def test_the_folder_of_the_repository_and_of_its_package(tmp_path: Path) -> None:
    download = download_of("KiTS21", tmp_path).fake.download
    package = download / "kits21" / "kits21"
    for given in (download, package.parent, package):
        assert plan_conversion(CONVERTERS["KiTS21"], given).root == package
    shutil.rmtree(package)
    with pytest.raises(ProblemsError, match=r"expected data/case_\{id\}/imaging.nii.gz, but this folder holds nothing"):
        plan_conversion(CONVERTERS["KiTS21"], download)
