"""AbdomenAtlas: label maps whose origin is wrong, cases without images, folders of archives."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.conversion.engine import plan_conversion
from nnunet_partial.dataset_conversion.abdomenatlas import CONVERTERS
from nnunet_partial.errors import ProblemsError
from tests.conversion_fakes.abdomenatlas import SECOND
from tests.conversion_fakes.scene import Fake
from tests.unit.conversion.conversions import ABSENT, PRESENT, UNKNOWN, converted, fake_download

FIRST_RELEASE, SECOND_RELEASE = CONVERTERS
ARCHIVE, CASE = "AbdomenAtlas1.1Mini_BDMAP_00000001_00000500", "BDMAP_00000001"


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return fake_download(SECOND_RELEASE, tmp_path / "download")


def test_values_are_those_of_the_published_table() -> None:
    assert SECOND_RELEASE.values == {value: name for name, value in SECOND.items()}
    assert FIRST_RELEASE.values[7] == "inferior_vena_cava"
    assert (FIRST_RELEASE.values[3], FIRST_RELEASE.values[4]) == ("kidney_left", "kidney_right")


def test_the_origin_of_label_maps_is_not_trusted_but_their_axes_are(fake: Fake, tmp_path: Path) -> None:
    image = nib.load(fake.download / ARCHIVE / CASE / "ct.nii.gz")
    label = nib.load(fake.download / ARCHIVE / CASE / "combined_labels.nii.gz")
    assert nib.aff2axcodes(image.affine) != nib.aff2axcodes(label.affine)
    data = converted(SECOND_RELEASE, fake, tmp_path / "raw")
    written = nib.load(data.folder / "labelsTr" / f"{CASE}.nii.gz")
    np.testing.assert_allclose(written.affine, image.affine, atol=1e-5)


def test_label_maps_of_another_shape_are_refused(fake: Fake, tmp_path: Path) -> None:
    path = fake.download / ARCHIVE / CASE / "combined_labels.nii.gz"
    label = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj)[:-1].copy(), label.affine), path)
    with pytest.raises(ProblemsError, match=r"the image has shape \(9, 8, 7\), the label map \(8, 8, 7\)"):
        converted(SECOND_RELEASE, fake, tmp_path / "raw")


def test_liver_and_vessels_say_nothing_of_each_other(fake: Fake, tmp_path: Path) -> None:
    """Nobody says whether the vessels lie in the liver, and whether the label of the liver leaves them out."""
    data = converted(SECOND_RELEASE, fake, tmp_path / "raw")
    vessel, liver = data.states(CASE, "liver_vessel"), data.states(CASE, "liver")
    assert (vessel["liver"], vessel["liver_vessel"]) == (UNKNOWN, PRESENT)
    assert (liver["liver"], liver["liver_vessel"]) == (PRESENT, UNKNOWN)
    others = set(data.labels.class_names) - {"liver", "liver_vessel"}
    assert {state[name] for state in (vessel, liver) for name in others} == {ABSENT}
    assert data.possible(CASE, "liver") == {"liver_parenchyma", "hepatic_vessel", "liver_tumor"}
    assert data.possible(CASE, "liver_vessel") == {"hepatic_vessel", "liver_vessel_outside"}
    background = data.states(CASE, "background")
    assert (background["liver"], background["liver_vessel"]) == (ABSENT, ABSENT)
    assert data.states("BDMAP_00005195", "background")["gallbladder"] == ABSENT


def test_the_first_release_says_nothing_of_vessels(tmp_path: Path) -> None:
    data = converted(FIRST_RELEASE, fake_download(FIRST_RELEASE, tmp_path / "download"), tmp_path / "raw")
    assert data.labels.set_of(CASE).possible[5] == {"liver_parenchyma", "hepatic_vessel", "liver_tumor"}


def test_only_cases_beyond_the_published_images_may_lack_one(fake: Fake) -> None:
    assert plan_conversion(SECOND_RELEASE, fake.download).left_out == {"BDMAP_00005196": "its image is not published"}
    (fake.download / "BDMAP_00005195" / "ct.nii.gz").unlink()
    with pytest.raises(ProblemsError, match=r"BDMAP_00005195/ct\.nii.gz is missing"):
        plan_conversion(SECOND_RELEASE, fake.download)


def test_a_case_in_two_places_is_refused(fake: Fake) -> None:
    shutil.copytree(fake.download / ARCHIVE / CASE, fake.download / CASE)
    with pytest.raises(ProblemsError, match=f"case '{CASE}' is found 2 times"):
        plan_conversion(SECOND_RELEASE, fake.download)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "BDMAP_1").mkdir()
    with pytest.raises(ProblemsError, match=r"expected BDMAP_\{id\}, but this folder holds BDMAP_1"):
        plan_conversion(FIRST_RELEASE, tmp_path)
