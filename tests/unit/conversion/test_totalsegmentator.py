"""TotalSegmentator: three tables of structures, masks that are empty, share voxels or are not there."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from nnunet_partial.conversion.engine import plan_conversion
from nnunet_partial.dataset_conversion.totalsegmentator import CT_1, CT_2, EMPTY_MR, MR
from nnunet_partial.errors import LabelError, PartialError, ProblemsError
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
    for structure in ("brain", "heart"):
        for case in ("s0000", "s0011", "s0013", "s0026"):
            mask(download, case, structure).unlink(missing_ok=True)
    with pytest.raises(LabelError, match=r"\['brain', 'heart'\] are annotated, but have no mask") as refused:
        download.plan()
    assert "\n" not in str(refused.value)
    assert any("choose with --labels what it has" in note for note in download.converter.notes)
    converted = download.convert(labels=("spleen", "liver"))
    assert converted.dataset["labels"] == {"background": 0, "spleen": 1, "liver": 2}
    sources = [Path(source["path"]).name for source in converted.record["s0000"]["sources"]]
    assert sources == ["mri.nii.gz", "spleen.nii.gz", "liver.nii.gz"]


def test_masks_of_structures_that_are_not_in_the_table(mri: Converted, tmp_path: Path) -> None:
    download = download_of("TotalSegmentator_MRI", tmp_path)
    for case, structure in (("s0000", "vertebra_L1"), ("s0026", "face")):
        shutil.copy(mask(download, case, "brain"), mask(download, case, structure))
    converted = download.convert(labels=("spleen", "liver"))
    note = "masks of other releases are not read: face, vertebra_L1"
    assert {entry["note"] for entry in converted.record.values()} == {note}
    assert all("note" not in entry for entry in mri.record.values())


def second_release(folder: Path) -> Download:
    """With one of the subjects by which the first upload is known, and one of those that are wrong in it."""
    download = download_of("TotalSegmentator_v2", folder)
    for case in ("s0045", "s0184"):
        shutil.copytree(download.root / "s0011", download.root / case)
    table = download.root / "meta.csv"
    table.write_text(
        table.read_text() + "".join(f"{c};50;m;institute A;ct abdomen;train\n" for c in ("s0045", "s0184"))
    )
    return download


@pytest.mark.parametrize("empty", ["image", "masks"])
def test_the_first_upload_of_v2_is_known_by_its_empty_subject(empty: str, tmp_path: Path) -> None:
    download = second_release(tmp_path)
    assert download.plan().left_out == {}
    assert {case.case.note for case in download.plan().cases} == {""}
    for name in [None] if empty == "image" else CT_2:
        path = mask(download, "s0045", name) if name else download.root / "s0045" / "ct.nii.gz"
        rewritten(path, np.zeros_like)
    left_out = download.plan().left_out
    assert set(left_out) == {"s0045", "s0184"}
    assert left_out["s0045"] == "it is empty in release 2.0.0, which this is; download 2.0.1"
    assert left_out["s0184"] == "its intensities are wrong in release 2.0.0, which this is; download 2.0.1"


def test_a_release_that_is_not_known_is_noted(tmp_path: Path) -> None:
    download = second_release(tmp_path)
    shutil.rmtree(download.root / "s0045")
    assert {case.case.note for case in download.plan().cases} == {""}  # the folder's name tells
    download.root.rename(tmp_path / "renamed")
    plan = plan_conversion(download.converter, tmp_path / "renamed")
    assert plan.left_out == {}
    notes = {case.case.id: case.case.note for case in plan.cases if case.case.note}
    assert list(notes) == ["s0184"]
    assert notes["s0184"].startswith("its intensities are wrong in release 2.0.0; without s0045 and s0248 the release")


def test_a_damaged_subject_proves_nothing_of_the_release(tmp_path: Path) -> None:
    download = second_release(tmp_path)
    (download.root / "s0045" / "ct.nii.gz").write_bytes(b"")
    assert download.plan().left_out == {}
    with pytest.raises(ProblemsError, match=r"s0045/ct.nii.gz: the file is empty"):
        download.convert(labels=("spleen",))


def test_subjects_without_a_split_and_without_a_table(tmp_path: Path) -> None:
    download = download_of("TotalSegmentator_v1", tmp_path)
    table = download.root / "meta.csv"
    table.write_text("\n".join(line for line in table.read_text().splitlines() if not line.startswith("s0011")))
    with pytest.raises(PartialError, match=r"case 's0011': unknown split 'not in meta.csv'"):
        download.plan()
    table.unlink()
    with pytest.raises(PartialError, match=r"meta.csv: no such file; it belongs to the download"):
        download.plan()
