"""StructSeg 2019, task 3: two published label tables, of which the images tell which is right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnunet_partial.conversion.engine import plan_conversion
from nnunet_partial.errors import ProblemsError
from tests.unit.conversion.conversions import CONVERTERS, Download, download_of, rewritten

NAMES = ("StructSeg2019_Task3", "StructSeg2019_Task3_reordered")


@pytest.mark.parametrize("name", NAMES)
def test_labels_keep_the_meaning_that_the_images_confirm(name: str, tmp_path: Path) -> None:
    converted = download_of(name, tmp_path).convert()
    case = "thoracic_oar_50"
    for structure, voxels in converted.fake.train[case].structures.items():
        assert (converted.marked(case, structure) == voxels).all()
    assert converted.annotated(case) == set(CONVERTERS[name].label_names)
    left = converted.possible(case, "lung_left")
    assert left == CONVERTERS[name].tissues("lung_left")
    assert {"lung_upper_lobe_left_tissue", "lung_lower_lobe_left_tumor"} < left
    assert left.isdisjoint(converted.possible(case, "lung_right") | converted.possible(case, "background"))
    assert set(converted.labels.sides.classes) == {"lung_left", "lung_right"}


@pytest.mark.parametrize("name", NAMES)
def test_the_other_label_table_is_refused(name: str, tmp_path: Path) -> None:
    download = download_of(name, tmp_path)
    other = CONVERTERS[NAMES[1 - NAMES.index(name)]]
    with pytest.raises(ProblemsError) as caught:
        replace(download, converter=other).convert()
    assert len(caught.value.problems) == 3
    for problem in caught.value.problems:
        assert "the image contradicts the labels" in problem
        assert "'lung_left' lies on the patient's right of 'lung_right'" in problem
        assert "25% of 'trachea' have intensities of -3000 to -300, expected at least 50%" in problem
        assert "0% of 'esophagus' have intensities of -300 to 3000, expected at least 50%" in problem
    assert not list(download.raw.glob("Dataset*"))


def test_the_other_label_table_is_refused_for_one_chosen_label_as_well(tmp_path: Path) -> None:
    download = replace(download_of(NAMES[0], tmp_path), converter=CONVERTERS[NAMES[1]])
    for chosen in ("lung_left", "heart"):
        with pytest.raises(ProblemsError, match="'lung_left' lies on the patient's right of 'lung_right'"):
            download.convert(labels=(chosen,))
    right = download_of(NAMES[0], tmp_path / "right").convert(labels=("lung_left",))
    assert right.values == {"background": 0, "lung_left": 1}
    case = "thoracic_oar_50"
    np.testing.assert_array_equal(right.label_map(case) == 1, right.fake.train[case].structures["lung_left"])


@pytest.mark.parametrize("pair", [(1, 2), (4, 5)])
def test_a_case_that_differs_from_the_others_is_refused(pair: tuple[int, int], tmp_path: Path) -> None:
    download = download_of(NAMES[0], tmp_path)
    exchange = np.arange(7, dtype=np.uint8)
    exchange[list(pair)] = pair[::-1]
    rewritten(download.root / "Task3_Thoracic_OAR" / "2" / "label.nii.gz", lambda array: exchange[array])
    with pytest.raises(ProblemsError, match=r"case 'thoracic_oar_2': .*the image contradicts the labels") as caught:
        download.convert()
    assert len(caught.value.problems) == 1
    assert set(download.convert(exclude=("thoracic_oar_2",)).labels.cases) == {"thoracic_oar_1", "thoracic_oar_50"}


def test_tasks_with_the_same_file_names_are_not_taken(tmp_path: Path) -> None:
    download = download_of(NAMES[0], tmp_path)
    for given in ("Task4_Lung_GTV", "Task3_Thoracic_OAR"):  # the name of the folder is what tells them apart
        with pytest.raises(
            ProblemsError, match=r"expected Task3_Thoracic_OAR/\{id\}/data.nii.gz, but this folder holds"
        ):
            plan_conversion(download.converter, download.fake.download / given)
    assert not any("Task4" in str(case.case.image) for case in download.plan().cases)


def test_missing_pairs_are_named(tmp_path: Path) -> None:
    download: Download = download_of(NAMES[0], tmp_path)
    (download.root / "Task3_Thoracic_OAR" / "1" / "data.nii.gz").unlink()
    (download.root / "Task3_Thoracic_OAR" / "50" / "label.nii.gz").unlink()
    with pytest.raises(ProblemsError) as caught:
        download.plan()
    assert caught.value.problems == [
        "case 'thoracic_oar_1': Task3_Thoracic_OAR/1/data.nii.gz is missing",
        "case 'thoracic_oar_50': Task3_Thoracic_OAR/50/label.nii.gz is missing",
    ]
