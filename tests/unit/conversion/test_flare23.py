"""FLARE23: what was annotated differs from case to case, and is told by the label map only."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.conversion.engine import plan_conversion
from nnunet_partial.dataset_conversion.flare23 import CONVERTER
from nnunet_partial.errors import ProblemsError
from tests.conversion_fakes.flare23 import LABELS, ORGANS
from tests.conversion_fakes.scene import Fake
from tests.unit.conversion.conversions import ABSENT, PRESENT, UNKNOWN, converted, fake_download


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return fake_download(CONVERTER, tmp_path / "download")


def test_what_does_not_occur_is_unknown_and_never_absent(fake: Fake, tmp_path: Path) -> None:
    data = converted(CONVERTER, fake, tmp_path / "raw")
    everywhere = data.states("FLARE23_0001", "background")
    assert everywhere == dict.fromkeys(LABELS, ABSENT)
    some = data.states("FLARE23_0002", "background")
    missing = {"aorta", "gallbladder", "tumor"}
    assert some == {name: UNKNOWN if name in missing else ABSENT for name in LABELS}
    assert data.set_of("FLARE23_2200") == "none"
    assert data.states("FLARE23_2200", "background") == dict.fromkeys(LABELS, UNKNOWN)


def test_where_only_tumours_were_drawn_organs_could_be_anywhere_else(fake: Fake, tmp_path: Path) -> None:
    data = converted(CONVERTER, fake, tmp_path / "raw")
    assert data.set_of("FLARE23_0010") == "tumor"
    states = data.states("FLARE23_0010", "background")
    assert states == {name: ABSENT if name == "tumor" else UNKNOWN for name in LABELS}


def test_a_tumour_could_be_one_of_any_organ_that_can_have_one(fake: Fake, tmp_path: Path) -> None:
    data = converted(CONVERTER, fake, tmp_path / "raw")
    states = data.states("FLARE23_0001", "tumor")
    vessels = {"aorta", "inferior_vena_cava"}
    assert states == {**dict.fromkeys(ORGANS, UNKNOWN), **dict.fromkeys(vessels, ABSENT), "tumor": PRESENT}
    # nothing says whether a liver without a tumour label is free of tumours
    for organ in ("liver", "stomach"):
        states = data.states("FLARE23_0002", organ)
        assert states == {**dict.fromkeys(ORGANS, ABSENT), organ: PRESENT, "tumor": UNKNOWN}


def test_kidneys_have_labels_far_apart(fake: Fake, tmp_path: Path) -> None:
    data = converted(CONVERTER, fake, tmp_path / "raw")
    scene, labels = fake.train["FLARE23_0001"], data.label_map("FLARE23_0001")
    assert (labels[scene.structures["kidney_right"]] == 2).all()
    assert (labels[scene.structures["kidney_left"]] == 13).all()
    assert data.states("FLARE23_0001", "kidney_right")["kidney_left"] == ABSENT


def test_unlabelled_cases_of_either_folder_are_converted_on_demand(fake: Fake, tmp_path: Path) -> None:
    data = converted(CONVERTER, fake, tmp_path / "raw", unlabelled=True)
    for case in ("FLARE23_2201", "FLARE23_4000"):
        assert (data.label_map(case) == data.values["ignore"]).all()
        assert data.states(case, "ignore") == dict.fromkeys(LABELS, UNKNOWN)


@pytest.mark.parametrize("value", [-1, 15])
def test_values_without_a_meaning_are_refused(value: int, fake: Fake, tmp_path: Path) -> None:
    path = fake.download / "labelsTr2200" / "FLARE23_0001.nii.gz"
    image = nib.load(path)
    array = np.asarray(image.dataobj).copy()
    array[0, 0, :2] = value
    nib.save(nib.Nifti1Image(array, image.affine), path)
    with pytest.raises(ProblemsError, match=rf"FLARE23_0001.nii.gz: unknown label values \({value} in 2 voxels\)"):
        converted(CONVERTER, fake, tmp_path / "raw")
    data = converted(CONVERTER, fake, tmp_path / "raw", exclude=("FLARE23_0001",))
    assert json.loads((data.folder / "conversion.json").read_text())["left_out"]["FLARE23_0001"]


def test_a_label_map_without_image_is_named(fake: Fake) -> None:
    (fake.download / "imagesTr2200" / "FLARE23_0010_0000.nii.gz").unlink()
    with pytest.raises(ProblemsError, match=r"imagesTr2200/FLARE23_0010_0000.nii.gz is missing"):
        plan_conversion(CONVERTER, fake.download)
