"""AbdomenCT-1K: merged kidneys, tumours inside of organs, images without labels, one scan twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnunet_partial.conversion.engine import Options, plan_conversion
from nnunet_partial.dataset_conversion.abdomenct_1k import CONVERTER, LEFT_OUT_BY_SAT_DS, UNLABELLED
from nnunet_partial.errors import ProblemsError
from tests.conversion_fakes.scene import Fake
from tests.unit.conversion.conversions import ABSENT, PRESENT, UNKNOWN, Converted, converted, fake_download, rewritten


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return fake_download(CONVERTER, tmp_path / "download")


@pytest.fixture
def data(fake: Fake, tmp_path: Path) -> Converted:
    return converted(CONVERTER, fake, tmp_path / "raw")


def test_kidneys_could_be_either_side_and_hold_tumours(data: Converted) -> None:
    possible = data.labels.set_of("Case_00219").possible
    assert possible[data.values["kidneys"]] >= {"kidney_left_tissue", "kidney_right_tissue", "kidney_left_tumor"}
    assert possible[data.values["liver"]] >= {"liver_parenchyma", "liver_tumor"}
    assert "pancreas_tumor" in possible[data.values["pancreas"]]
    assert data.states("Case_00219", "kidneys") == {
        **dict.fromkeys(("liver", "spleen", "pancreas"), ABSENT),
        "kidneys": PRESENT,
    }


@pytest.mark.parametrize("case", ["Case_00219", "Case_00656"])
def test_a_spleen_that_is_not_in_the_image_is_absent(case: str, data: Converted) -> None:
    assert not (data.label_map(case) == data.values["spleen"]).any()
    assert data.states(case, "background")["spleen"] == ABSENT


def test_the_scan_that_is_there_twice_is_one_patient(data: Converted) -> None:
    assert data.labels.patient_of("Case_00928") == data.labels.patient_of("Case_00297")
    folds = json.loads((data.folder / "splits_final.json").read_text())
    assert all(("Case_00928" in fold["val"]) == ("Case_00297" in fold["val"]) for fold in folds)


def test_scans_that_lost_their_voxel_size_are_left_out(data: Converted, fake: Fake) -> None:
    assert "its header says 1 x 1 x 1 mm" in data.result.plan.left_out["Case_00276"]
    assert "Case_00276" not in data.labels.cases
    part = fake.download / "AbdomenCT-1K-ImagePart1"
    rewritten(part / "Case_00276_0000.nii.gz", lambda array: array, np.diag([0.7, 0.7, 1.0, 1.0]))  # a mended copy
    rewritten(part / "Case_00010_0000.nii.gz", lambda array: array, np.diag([-1.0, -1.0, 1.0, 1.0]))  # no labels either
    rewritten(part / "Case_00001_0000.nii.gz", lambda array: array, np.diag([1.0, 1.0, 2.0, 1.0]))
    plan = plan_conversion(CONVERTER, fake.download, Options(unlabelled=True))
    assert set(plan.left_out) == {"Case_00010"}
    assert {"Case_00276", "Case_00001"} <= {case.case.id for case in plan.cases}


def test_a_damaged_header_is_left_to_the_conversion(fake: Fake, tmp_path: Path) -> None:
    (fake.download / "AbdomenCT-1K-ImagePart1" / "Case_00001_0000.nii.gz").write_bytes(b"")
    with pytest.raises(ProblemsError, match=r"Case_00001_0000.nii.gz: the file is empty"):
        converted(CONVERTER, fake, tmp_path / "raw")


def test_cases_that_another_collection_leaves_out_are_noted(data: Converted) -> None:
    assert {case for case, entry in data.record.items() if entry.get("note")} == {"Case_00048"}
    assert data.record["Case_00048"]["note"] == "SAT-DS leaves it out; why was not found"
    assert sorted(LEFT_OUT_BY_SAT_DS) == [47, 48, 49, 50, 51, 452, 454, 455, 458, 459, 460, 461]


def test_images_without_published_labels_are_unlabelled(fake: Fake, tmp_path: Path) -> None:
    assert len(UNLABELLED) == 62
    data = converted(CONVERTER, fake, tmp_path / "raw", unlabelled=True)
    assert (data.label_map("Case_00010") == data.values["ignore"]).all()
    assert set(data.states("Case_00010", "background").values()) == {UNKNOWN}


def test_any_other_missing_file_is_an_error(fake: Fake) -> None:
    (fake.download / "Mask" / "Case_00433.nii.gz").unlink()
    (fake.download / "AbdomenCT-1K-ImagePart3" / "Case_00928_0000.nii.gz").unlink()
    with pytest.raises(ProblemsError) as caught:
        plan_conversion(CONVERTER, fake.download)
    assert caught.value.problems == [
        "case 'Case_00433': Mask/Case_00433.nii.gz is missing",
        "case 'Case_00928': AbdomenCT-1K-ImagePart3/Case_00928_0000.nii.gz is missing",
    ]


def test_both_names_of_the_folder_of_masks_are_found(fake: Fake) -> None:
    (fake.download / "Mask").rename(fake.download / "Masks")
    assert len(plan_conversion(CONVERTER, fake.download).cases) == 7
