"""TotalSegmentator: three tables of structures, masks that are empty, share voxels or are not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnunet_partial.dataset_conversion.totalsegmentator import CT_1, CT_2, EMPTY_MR, MR
from nnunet_partial.errors import PartialError, ProblemsError
from tests.unit.conversion.conversions import Converted, Download, download_of, rewritten


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return download_of("TotalSegmentator_v1", tmp_path_factory.mktemp("first")).convert()


@pytest.fixture(scope="module")
def mri(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return download_of("TotalSegmentator_MRI", tmp_path_factory.mktemp("mri")).convert()


def mask(download: Download, case: str, structure: str) -> Path:
    return download.root / case / "segmentations" / f"{structure}.nii.gz"


def test_releases_have_tables_of_their_own() -> None:
    assert (len(set(CT_1)), len(set(CT_2)), len(set(MR))) == (len(CT_1), len(CT_2), len(MR)) == (104, 117, 50)
    assert (CT_1[6], CT_2[6], MR[6]) == ("aorta", "pancreas", "pancreas")
    assert {"heart_myocardium", "pulmonary_artery", "face"} <= set(CT_1) - set(CT_2)
    assert {"heart", "spinal_cord", "kidney_cyst_left", "vertebrae_S1"} <= set(CT_2) - set(CT_1)
    assert {"lung_left", "vertebrae", "intervertebral_discs"} <= set(MR) - set(CT_2)
    assert len(set(EMPTY_MR)) == 50


def test_damaged_and_doubtful_subjects_are_left_out(first: Converted, mri: Converted) -> None:
    assert first.result.plan.left_out == {"s0864": "its image is damaged in the published archive"}
    assert set(mri.result.plan.left_out) == {"s0026"}
    assert "not settled whether on purpose" in mri.result.plan.left_out["s0026"]


@pytest.mark.parametrize("kind", ["first", "mri"])
def test_an_empty_mask_says_that_the_structure_is_not_there(kind: str, request: pytest.FixtureRequest) -> None:
    converted: Converted = request.getfixturevalue(kind)
    assert not converted.marked("s0000", "urinary_bladder").any()
    assert converted.annotated("s0000") == set(converted.labels.class_names)
    assert set(converted.states("s0000", "background").values()) == {"absent"}
    assert {s.modality for s in converted.labels.sets.values()} == {"CT" if kind == "first" else "MR"}


def test_lungs_of_mr_have_lobes_and_kidneys_of_ct_may_have_cysts(first: Converted, mri: Converted) -> None:
    lobe = {"lung_upper_lobe_left_tissue", "lung_upper_lobe_left_tumor"}
    assert first.possible("s0000", "lung_upper_lobe_left") == lobe < mri.possible("s0000", "lung_left")
    for converted in (first, mri):
        assert converted.possible("s0000", "kidney_left") == {
            "kidney_left_tissue",
            "kidney_left_tumor",
            "kidney_cyst_left",
        }


def test_voxels_of_two_masks_could_be_either(tmp_path: Path) -> None:
    download = download_of("TotalSegmentator_v1", tmp_path)
    colon, bowel = (mask(download, "s0011", name) for name in ("colon", "small_bowel"))
    shared = np.zeros((9, 8, 7), np.uint8)
    shared[4, 4, 4] = 1
    for path in (colon, bowel):
        rewritten(path, lambda array: array | shared)
    for name in CT_1:
        if name not in ("colon", "small_bowel"):
            rewritten(mask(download, "s0011", name), lambda array: array & ~shared)
    converted = download.convert()
    assert np.argwhere(converted.marked("s0011", "small_bowel+colon")).tolist() == [[4, 4, 4]]
    assert converted.possible("s0011", "small_bowel+colon") == {"small_bowel", "colon_tissue", "colon_tumor"}
    states = converted.states("s0011", "small_bowel+colon")
    assert {name for name, state in states.items() if state == "unknown"} == {"small_bowel", "colon"}
    assert download.convert(overlaps="ignore").dataset["labels"]["ignore"] == len(CT_1) + 1


def test_a_release_that_lacks_a_structure(tmp_path: Path) -> None:
    download = download_of("TotalSegmentator_MRI", tmp_path)
    for case in ("s0000", "s0011", "s0013"):
        mask(download, case, "brain").unlink()
    with pytest.raises(ProblemsError, match=r"case 's0000': s0000/segmentations/brain.nii.gz is missing") as caught:
        download.plan()
    assert len(caught.value.problems) == 3
    converted = download.convert(labels=("spleen", "liver"))
    assert converted.dataset["labels"] == {"background": 0, "spleen": 1, "liver": 2}
    sources = [Path(source["path"]).name for source in converted.record["s0000"]["sources"]]
    assert sources == ["mri.nii.gz", "spleen.nii.gz", "liver.nii.gz"]


def test_subjects_without_a_split_and_without_a_table(tmp_path: Path) -> None:
    download = download_of("TotalSegmentator_v1", tmp_path)
    table = download.root / "meta.csv"
    table.write_text("\n".join(line for line in table.read_text().splitlines() if not line.startswith("s0011")))
    with pytest.raises(PartialError, match=r"case 's0011': unknown split 'not in meta.csv'"):
        download.plan()
    table.unlink()
    with pytest.raises(PartialError, match=r"meta.csv: no such file; it belongs to the download"):
        download.plan()
