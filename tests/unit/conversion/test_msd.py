"""The Medical Segmentation Decathlon: tumours with and without the organ they lie in."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_partial.errors import ProblemsError
from tests.unit.conversion.conversions import CONVERTERS, download_of

TASKS = {
    "MSD_Liver": (131, 70, {"liver", "liver_tumor"}),
    "MSD_Lung": (63, 32, {"lung_tumor"}),
    "MSD_Pancreas": (281, 139, {"pancreas", "pancreas_tumor"}),
    "MSD_HepaticVessel": (303, 140, {"hepatic_vessel", "liver_tumor"}),
    "MSD_Spleen": (41, 20, {"spleen"}),
    "MSD_Colon": (126, 64, {"colon_tumor"}),
}


@pytest.mark.parametrize("name", TASKS)
def test_tasks_annotate_these_classes_and_no_others(name: str, tmp_path: Path) -> None:
    train, test, classes = TASKS[name]
    assert CONVERTERS[name].expected == {"train": train, "test": test}
    converted = download_of(name, tmp_path).convert()
    case = next(iter(converted.fake.train))
    assert set(converted.labels.class_names) == classes == converted.annotated(case)
    assert set(converted.states(case, "background").values()) == {"absent"}


def test_organs_without_their_tumors_and_tumors_without_their_organ(tmp_path: Path) -> None:
    for name, organ in (("MSD_Liver", "liver"), ("MSD_Pancreas", "pancreas")):
        converted = download_of(name, tmp_path / name).convert()
        case, tumor = next(iter(converted.fake.train)), f"{organ}_tumor"
        assert converted.states(case, f"{organ}_tissue") == {organ: "present", tumor: "absent"}
        assert converted.states(case, tumor) == {organ: "present", tumor: "present"}
    for name, organ in (("MSD_HepaticVessel", "liver"), ("MSD_Colon", "colon"), ("MSD_Lung", "lungs")):
        converted = download_of(name, tmp_path / name).convert()
        assert not CONVERTERS[name].tissues(organ) <= converted.labels.space.everything


def test_a_missing_pair_and_labels_of_another_task(tmp_path: Path) -> None:
    download = download_of("MSD_Spleen", tmp_path)
    (download.root / "labelsTr" / "spleen_10.nii.gz").rename(download.root / "labelsTr" / "liver_10.nii.gz")
    with pytest.raises(ProblemsError, match=r"case 'spleen_10': labelsTr/spleen_10.nii.gz is missing"):
        download.plan()
