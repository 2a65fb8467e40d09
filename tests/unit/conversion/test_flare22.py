"""FLARE22: kidneys whose values lie far apart, and an older release that is not read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nnunet_partial.errors import ProblemsError
from tests.unit.conversion.conversions import ABSENT, Download, download_of

OLD_IMAGE, OLD_LABEL = "images/Organ12_0001_0000.nii.gz", "labels/Organ12_0001.nii.gz"


@pytest.fixture
def download(tmp_path: Path) -> Download:
    """With a case of the older release, whose kidneys have one label, beside those of FLARE22."""
    made = download_of("FLARE22", tmp_path)
    shutil.copy(made.root / "images" / "FLARE22_Tr_0001_0000.nii.gz", made.root / OLD_IMAGE)
    shutil.copy(made.root / "labels" / "FLARE22_Tr_0001.nii.gz", made.root / OLD_LABEL)
    return made


def test_kidneys_have_values_far_apart(download: Download) -> None:
    data = download.convert()
    assert (data.values["kidney_right"], data.values["kidney_left"]) == (2, 13)
    assert data.states("FLARE22_Tr_0001", "kidney_right")["kidney_left"] == ABSENT


def test_cases_of_the_older_release_are_not_read(download: Download) -> None:
    ids = [case.case.id for case in download.plan(unlabelled=True).cases]
    assert ids == ["FLARE22_Tr_0001", "FLARE22_Tr_0002", "FLARE22_Tr_0010", "Case_00001", "FLARETs_0001"]


def test_the_older_release_alone_is_refused(download: Download) -> None:
    for folder in ("images", "labels"):
        for path in (download.root / folder).glob("FLARE22_Tr_*"):
            path.unlink()
    with pytest.raises(ProblemsError) as caught:
        download.plan()
    assert caught.value.problems == [
        "expected images/FLARE22_Tr_{id}_0000.nii.gz, but the folder images holds Organ12_0001_0000.nii.gz",
        "expected labels/FLARE22_Tr_{id}.nii.gz, but the folder labels holds Organ12_0001.nii.gz",
    ]
    assert any("Organ12_0001_0000.nii.gz" in note for note in download.converter.notes)
