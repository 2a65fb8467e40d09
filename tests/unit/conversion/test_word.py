"""WORD: two kidneys, but merged adrenal glands; official splits; labels of test cases as a download of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nnunet_partial.conversion.engine import plan_conversion
from nnunet_partial.dataset_conversion.word import CONVERTER
from nnunet_partial.errors import ProblemsError
from tests.conversion_fakes.scene import Fake
from tests.unit.conversion.conversions import ABSENT, PRESENT, converted, fake_download


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return fake_download(CONVERTER, tmp_path / "download")


def test_adrenal_glands_are_merged_and_kidneys_are_not(fake: Fake, tmp_path: Path) -> None:
    data = converted(CONVERTER, fake, tmp_path / "raw")
    possible = data.labels.set_of("word_0002").possible
    assert possible[data.values["adrenal_glands"]] == CONVERTER.tissues("adrenal_gland_left") | CONVERTER.tissues(
        "adrenal_gland_right"
    )
    assert (data.values["kidney_left"], data.values["kidney_right"]) == (3, 4)
    assert data.states("word_0002", "kidney_left")["kidney_left"] == PRESENT
    assert data.states("word_0002", "kidney_left")["kidney_right"] == ABSENT
    assert data.states("word_0004", "background")["gallbladder"] == ABSENT


def test_the_intestine_is_no_duodenum_and_no_colon(fake: Fake, tmp_path: Path) -> None:
    data = converted(CONVERTER, fake, tmp_path / "raw")
    states = data.states("word_0002", "intestine")
    assert states == {name: PRESENT if name == "intestine" else ABSENT for name in states}


def test_the_official_split(fake: Fake, tmp_path: Path) -> None:
    data = converted(CONVERTER, fake, tmp_path / "raw")
    (fold,) = json.loads((data.folder / "splits_final.json").read_text())
    assert fold == {"train": ["word_0002", "word_0004", "word_0150"], "val": ["word_0001"]}
    assert (data.label_map("word_0003", "Ts") == data.values["colon"]).any()
    assert "word_0003" not in data.labels.cases
    assert "word_0003" in json.loads((data.folder / "labelsTs" / "dataset.json").read_text())["partial_labels"]["cases"]


def test_labels_of_test_cases_may_be_missing_altogether_but_not_in_part(fake: Fake, tmp_path: Path) -> None:
    root = fake.download / "WORD-V0.1.0"
    shutil.copy(root / "imagesTs" / "word_0003.nii.gz", root / "imagesTs" / "word_0009.nii.gz")
    with pytest.raises(ProblemsError, match=r"case 'word_0009': labelsTs/word_0009.nii.gz is missing"):
        plan_conversion(CONVERTER, fake.download)
    shutil.rmtree(root / "labelsTs")
    data = converted(CONVERTER, fake, tmp_path / "raw")
    assert len(list((data.folder / "imagesTs").iterdir())) == 2
    assert not (data.folder / "labelsTs").exists()
