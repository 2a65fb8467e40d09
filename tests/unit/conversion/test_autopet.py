"""autoPET: studies of patients, with and without lesions, on CT alone and with PET."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.errors import ProblemsError
from tests.conversion_fakes.autopet import HEALTHY, LESION, STUDIES, uptake
from tests.unit.conversion.conversions import Converted, download_of, rewritten

TWICE = "PETCT_00e5f60718"


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return download_of("autoPET_CT", tmp_path_factory.mktemp("ct")).convert()


@pytest.fixture(scope="module")
def petct(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return download_of("autoPET_PETCT", tmp_path_factory.mktemp("petct")).convert()


def test_ct_alone_or_with_uptake(ct: Converted, petct: Converted) -> None:
    assert ct.dataset["channel_names"] == {"0": "CT"}
    assert petct.dataset["channel_names"] == {"0": "CT", "1": "CT"}
    assert len(list((ct.folder / "imagesTr").iterdir())) == len(STUDIES)
    assert len(list((petct.folder / "imagesTr").iterdir())) == 2 * len(STUDIES)
    for case in STUDIES:
        first = nib.as_closest_canonical(nib.load(petct.folder / "imagesTr" / f"{case}_0000.nii.gz"))
        second = nib.as_closest_canonical(nib.load(petct.folder / "imagesTr" / f"{case}_0001.nii.gz"))
        np.testing.assert_array_equal(first.get_fdata(), petct.fake.train[case].image)
        np.testing.assert_array_equal(second.get_fdata(), uptake(case))
        np.testing.assert_allclose(second.affine, petct.fake.train[case].affine)
    assert {s.modality for s in petct.labels.sets.values()} == {"PET+CT"}
    assert {s.modality for s in ct.labels.sets.values()} == {"CT"}


def test_files_on_other_voxels_or_in_other_units_are_not_read(petct: Converted) -> None:
    for record in petct.record.values():
        names = {Path(source["path"]).name for source in record["sources"]}
        assert names == {"CTres.nii.gz", "SUV.nii.gz", "SEG.nii.gz"}


@pytest.mark.parametrize("kind", ["ct", "petct"])
def test_a_study_without_lesions_says_that_there_are_none(kind: str, request: pytest.FixtureRequest) -> None:
    converted: Converted = request.getfixturevalue(kind)
    assert not converted.marked(HEALTHY, LESION).any()
    assert converted.states(HEALTHY, "background") == {LESION: "absent"}
    assert converted.annotated(HEALTHY) == {LESION}
    assert converted.possible(HEALTHY, "background") == {"background"}
    assert converted.possible(HEALTHY, LESION) == {LESION}


def test_studies_are_counted_in_the_order_of_their_names(ct: Converted) -> None:
    assert set(ct.record) == set(STUDIES)
    for case, (patient, study) in STUDIES.items():
        assert ct.record[case]["note"] == f"study {study}"
        assert ct.record[case]["sources"][0]["path"] == f"{patient}/{study}/CTres.nii.gz"


def test_studies_of_a_patient_stay_in_one_fold(petct: Converted) -> None:
    folds = json.loads((petct.folder / "splits_final.json").read_text())
    assert len(folds) == 5
    assert sorted(case for fold in folds for case in fold["val"]) == sorted(STUDIES)
    (fold,) = [fold for fold in folds if f"{TWICE}_0" in fold["val"]]
    assert f"{TWICE}_1" in fold["val"]


def test_missing_files_and_studies_in_parts_are_named(tmp_path: Path) -> None:
    download = download_of("autoPET_PETCT", tmp_path)
    (download.root / TWICE / "notes.txt").write_text("a file beside the studies is none of them")
    (download.root / TWICE / STUDIES[f"{TWICE}_1"][1] / "SUV.nii.gz").unlink()
    (download.root / TWICE / STUDIES[f"{TWICE}_0"][1] / "SEG.nii.gz").unlink()
    with pytest.raises(ProblemsError) as caught:
        download.plan()
    assert caught.value.problems == [
        f"case '{TWICE}_0': {TWICE}/{STUDIES[f'{TWICE}_0'][1]}/SEG.nii.gz is missing",
        f"case '{TWICE}_1': {TWICE}/{STUDIES[f'{TWICE}_1'][1]}/SUV.nii.gz is missing",
    ]


def test_uptake_on_other_voxels_is_refused(tmp_path: Path) -> None:
    download = download_of("autoPET_PETCT", tmp_path)
    patient, study = STUDIES[HEALTHY]
    rewritten(download.root / patient / study / "SUV.nii.gz", lambda array: array[::2])
    with pytest.raises(ProblemsError, match=rf"case '{HEALTHY}': .*SUV.nii.gz: does not lie on the first channel"):
        download.convert()
