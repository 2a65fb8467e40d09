"""AMOS22: one download of two modalities."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import pytest

from nnunet_partial.conversion import Converter
from nnunet_partial.dataset_conversion.amos22 import CONVERTERS
from tests.conversion_fakes.amos22 import NUMBERS
from tests.unit.conversion.conversions import ABSENT, PRESENT, UNKNOWN, Converted, converted, fake_download


@pytest.fixture(params=CONVERTERS, ids=lambda converter: converter.name)
def converter(request: pytest.FixtureRequest) -> Converter:
    return request.param


@pytest.fixture
def data(converter: Converter, tmp_path: Path) -> Converted:
    return converted(converter, fake_download(converter, tmp_path / "download"), tmp_path / "raw")


def test_numbers_tell_the_modality(data: Converted, converter: Converter) -> None:
    assert data.dataset["channel_names"] == {"0": converter.modality}
    assert {s.modality for s in data.labels.sets.values()} == {converter.modality}
    numbers = NUMBERS[converter.modality]
    assert set(data.labels.cases) == {f"amos_{number:04d}" for number in (*numbers["Tr"], *numbers["Va"])}
    assert data.result.plan.left_out == {}
    tests = {path.name for path in (data.folder / "imagesTs").iterdir()}
    assert tests == {f"amos_{number:04d}_0000.nii.gz" for number in numbers["Ts"]}
    assert not (data.folder / "labelsTs").exists()


def test_the_official_validation_cases_are_the_one_fold(data: Converted, converter: Converter) -> None:
    (fold,) = json.loads((data.folder / "splits_final.json").read_text())
    numbers = NUMBERS[converter.modality]
    assert fold["val"] == [f"amos_{number:04d}" for number in numbers["Va"]]
    assert fold["train"] == [f"amos_{number:04d}" for number in numbers["Tr"]]


def test_values_are_not_those_of_btcv(data: Converted) -> None:
    assert (data.values["pancreas"], data.values["duodenum"]) == (10, 13)
    assert "portal_vein_and_splenic_vein" not in data.values


def test_structures_out_of_the_image_are_absent_and_tumours_may_be_in_their_organ(data: Converted) -> None:
    case = next(iter(data.labels.cases))
    assert set(data.states(case, "background").values()) == {ABSENT}
    liver = data.states(case, "liver")
    assert liver == {name: PRESENT if name == "liver" else ABSENT for name in liver}
    assert "liver_tumor" in data.labels.set_of(case).possible[data.values["liver"]]


def test_prostate_and_uterus_share_a_class(data: Converted) -> None:
    case = next(iter(data.labels.cases))
    assert data.labels.set_of(case).possible[data.values["prostate_or_uterus"]] == {"prostate", "uterus"}
    assert UNKNOWN not in data.states(case, "prostate_or_uterus").values()


def test_headers_that_itk_refuses_are_kept(data: Converted, converter: Converter) -> None:
    case = "amos_0004" if converter.modality == "CT" else "amos_0540"
    affine = nib.load(data.folder / "labelsTr" / f"{case}.nii.gz").affine
    assert abs(affine[:3, 0] @ affine[:3, 1]) > 1e-3
    assert data.dataset["overwrite_image_reader_writer"] == "NibabelIOWithReorient"
