"""LiTS: headers that do not hold, which images have to vouch for."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.errors import ProblemsError
from tests.unit.conversion.conversions import Converted, Download, download_of, rewritten

BATCH_1, BATCH_2 = "Training Batch 1", "Training Batch 2"


@pytest.fixture(scope="module")
def lits(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return download_of("LiTS", tmp_path_factory.mktemp("lits")).convert()


@pytest.fixture
def download(tmp_path: Path) -> Download:
    return download_of("LiTS", tmp_path)


def test_labels_lie_on_the_image_whatever_their_header_says(lits: Converted) -> None:
    for case in ("volume-0", "volume-54", "volume-130"):
        image = nib.load(lits.folder / "imagesTr" / f"{case}_0000.nii.gz")
        label = nib.load(lits.folder / "labelsTr" / f"{case}.nii.gz")
        np.testing.assert_array_equal(label.affine, image.affine)
        original = next(lits.fake.download.rglob(f"segmentation-{case.removeprefix('volume-')}.nii"))
        assert not np.allclose(nib.load(original).affine, image.affine)
        assert (lits.marked(case, "liver_tumor") == lits.fake.train[case].structures["liver_tumor"]).all()
        assert lits.record[case]["placement"] == "on the grid of the image"


def test_images_without_a_voxel_size_are_left_out(lits: Converted, download: Download) -> None:
    reason = "its header says 1 x 1 x 1 mm, as one does that was lost; MSD_Liver has a mended one"
    assert lits.result.plan.left_out == {"volume-28": reason}
    rewritten(download.root / "test-volume-0.nii", lambda array: array, np.diag([-1.0, -1.0, 1.0, 1.0]))
    rewritten(download.root / BATCH_1 / "volume-0.nii", lambda array: array, np.diag([1.0, 1.0, 1.5, 1.0]))
    assert set(download.plan().left_out) == {"volume-28", "test-volume-0"}


def test_cases_that_are_left_out_are_not_said_to_be_missing(download: Download) -> None:
    """The fake download has three labelled cases, one that is left out, and two test images."""
    full = replace(download, converter=replace(download.converter, expected={"train": 5, "test": 2}))
    assert len(full.plan().cases) == 6
    assert full.plan().notes == ()
    rewritten(download.root / "test-volume-0.nii", lambda array: array, np.diag([-1.0, -1.0, 1.0, 1.0]))
    assert full.plan().notes == ()


def test_the_liver_includes_its_tumors(lits: Converted) -> None:
    case = "volume-10"  # no tumour was found in it
    assert lits.states(case, "background") == {"liver": "absent", "liver_tumor": "absent"}
    assert lits.states(case, "liver_tissue") == {"liver": "present", "liver_tumor": "absent"}
    assert lits.states(case, "liver_tumor") == {"liver": "present", "liver_tumor": "present"}
    assert lits.annotated(case) == {"liver", "liver_tumor"}
    assert not lits.marked(case, "liver_tumor").any()


def test_test_images_beside_the_batches_or_in_a_folder(lits: Converted) -> None:
    names = sorted(path.name for path in (lits.folder / "imagesTs").iterdir())
    assert names == ["test-volume-0_0000.nii.gz", "test-volume-69_0000.nii.gz"]


def test_a_shifted_slice_is_noted(lits: Converted) -> None:
    assert lits.record["volume-54"]["note"] == "a slice of its label map is reported to be shifted"
    assert "note" not in lits.record["volume-0"]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_labels_that_are_turned_around_are_refused(axis: int, download: Download) -> None:
    rewritten(download.root / BATCH_1 / "segmentation-0.nii", lambda array: np.flip(array, axis))
    with pytest.raises(ProblemsError) as caught:
        download.convert()
    (problem,) = caught.value.problems
    assert problem.startswith("case 'volume-0': ")
    assert "segmentation-0.nii: the image contradicts the labels" in problem
    assert "of 'liver_tissue' have intensities of -50 to 300, expected at least 80%" in problem


def test_labels_of_another_image_are_refused(download: Download) -> None:
    rewritten(download.root / BATCH_2 / "segmentation-54.nii", lambda array: array[:, :-1])
    shutil.copy(download.root / BATCH_2 / "segmentation-130.nii", download.root / BATCH_1 / "segmentation-10.nii")
    with pytest.raises(ProblemsError) as caught:
        download.convert()
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["case 'volume-10'", "case 'volume-54'"]
    assert all("does not lie on its image" in problem for problem in caught.value.problems)


def test_missing_pairs_and_damaged_images_are_named(download: Download) -> None:
    (download.root / BATCH_1 / "volume-0.nii").unlink()
    (download.root / BATCH_2 / "segmentation-130.nii").unlink()
    (download.root / BATCH_2 / "volume-54.nii").write_bytes(b"")
    with pytest.raises(ProblemsError) as caught:
        download.plan()
    assert caught.value.problems == [
        f"case 'volume-0': {BATCH_1}/volume-0.nii is missing",
        f"case 'volume-130': {BATCH_2}/segmentation-130.nii is missing",
    ]
    with pytest.raises(ProblemsError, match=r"case 'volume-54': .*volume-54.nii: the file is empty"):
        download.convert(exclude=("volume-0", "volume-130"))


def test_one_batch_is_enough(download: Download) -> None:
    shutil.rmtree(download.root / BATCH_2)
    plan = download.plan()
    assert [one.case.id for one in plan.cases] == ["volume-0", "volume-10", "test-volume-0", "test-volume-69"]
    assert plan.notes == (
        "2 labelled cases found, the full download has 131",
        "2 test cases found, the full download has 70",
    )
