"""DSAD: pictures of one annotated organ, a split by surgery, a shared subset whose masks overlap and may be missing."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_partial.conversion import Converter
from nnunet_partial.conversion.engine import Options, plan_conversion
from nnunet_partial.dataset_conversion.dsad import CONVERTERS as SUBSETS
from nnunet_partial.dataset_conversion.dsad import ORGANS, SPLIT
from nnunet_partial.errors import PartialError, ProblemsError
from nnunet_partial.labels.raw_dataset import RawDataset
from tests.conversion_fakes.dsad import MULTILABEL, SIZE
from tests.conversion_fakes.scene import Fake, write_picture
from tests.unit.conversion.conversions import ABSENT, CONVERTERS, PRESENT, UNKNOWN, converted, fake_download

LIVER, SHARED = CONVERTERS["DSAD_liver"], CONVERTERS["DSAD_multilabel"]


def array(path: Path) -> np.ndarray:
    """(x, y) or (x, y, colour)."""
    return np.swapaxes(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), 0, 1)


@pytest.fixture
def liver(tmp_path: Path) -> Fake:
    return fake_download(LIVER, tmp_path / "download")


@pytest.fixture
def shared(tmp_path: Path) -> Fake:
    return fake_download(SHARED, tmp_path / "download")


def test_eleven_subsets_and_the_shared_one() -> None:
    assert [c.name for c in SUBSETS] == [*(f"DSAD_{organ}" for organ in ORGANS), "DSAD_multilabel"]
    assert len(ORGANS) == 11
    assert [c.label_names for c in SUBSETS] == [*((organ,) for organ in ORGANS), tuple(MULTILABEL)]
    assert sorted(surgery for part in SPLIT.values() for surgery in part) == list(range(1, 33))


@pytest.mark.parametrize("converter", SUBSETS, ids=lambda c: c.name)
def test_surgeries_never_straddle_the_split(converter: Converter, tmp_path: Path) -> None:
    data = converted(converter, fake_download(converter, tmp_path / "download"), tmp_path / "raw")
    (fold,) = json.loads((data.folder / "splits_final.json").read_text())
    parts = {"train": fold["train"], "val": fold["val"]}
    parts["test"] = [p.name.removesuffix("_0000.png") for p in (data.folder / "imagesTs").iterdir()]
    surgeries = {part: {int(case.partition("_")[0]) for case in cases} for part, cases in parts.items()}
    assert surgeries == {"train": {12, 22}, "val": {3, 21}, "test": {2, 20}}
    for part, found in surgeries.items():
        assert found <= set(SPLIT[part])  # type: ignore[index]
    rows = list(csv.DictReader((data.folder / "patients.csv").open()))
    assert {row["patient"] for row in rows if row["case"].startswith("22_")} == {"DSAD_22"}


def test_nothing_is_known_of_the_other_organs(liver: Fake, tmp_path: Path) -> None:
    data = converted(LIVER, liver, tmp_path / "raw")
    assert data.labels.class_names == ("liver",)
    assert data.states("22_00", "background") == {"liver": ABSENT}
    assert data.states("22_00", "liver") == {"liver": PRESENT}


def test_colours_stay_in_one_file(liver: Fake, tmp_path: Path) -> None:
    data = converted(LIVER, liver, tmp_path / "raw")
    assert data.dataset["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    assert data.dataset["overwrite_image_reader_writer"] == "NaturalImage2DIO"
    image = data.folder / "imagesTr" / "22_91_0000.png"
    np.testing.assert_array_equal(array(image), liver.train["22_91"].image)
    assert RawDataset(data.folder).cases["22_91"].images == (image,)
    assert data.result.images == {"copied": 9}


def test_pictures_of_the_size_of_the_papers(liver: Fake, tmp_path: Path) -> None:
    data = converted(LIVER, liver, tmp_path / "raw", size=(640, 512))
    image = array(data.folder / "imagesTr" / "22_01_0000.png")
    labels = array(data.folder / "labelsTr" / "22_01.png")
    assert image.shape == (640, 512, 3)
    factor = 640 // SIZE[0], 512 // SIZE[1]
    np.testing.assert_array_equal(labels, np.kron(liver.train["22_01"].structures["liver"], np.ones(factor)))
    test = json.loads((data.folder / "labelsTs" / "dataset.json").read_text())
    assert set(test["partial_labels"]["cases"]) == {"02_00", "02_07", "20_00"}


def test_an_empty_mask_says_that_the_organ_is_not_there(liver: Fake, tmp_path: Path) -> None:
    data = converted(LIVER, liver, tmp_path / "raw")
    empty = [case for case, scene in liver.train.items() if not scene.structures["liver"].any()]
    assert empty
    for case in empty:
        assert not array(data.folder / "labelsTr" / f"{case}.png").any()
        assert data.states(case, "background") == {"liver": ABSENT}


@pytest.mark.parametrize(("folder", "reason"), [("33", "knows the surgeries 1 to 32 only"), ("002", "found 2 times")])
def test_surgeries_that_nobody_knows(folder: str, reason: str, liver: Fake) -> None:
    for name in ("image00.png", "mask00.png"):
        write_picture(liver.download / "liver" / folder / name, np.zeros(SIZE, np.uint8))
    with pytest.raises(PartialError, match=reason):
        plan_conversion(LIVER, liver.download)


def test_a_picture_without_mask_is_named(liver: Fake) -> None:
    (liver.download / "liver" / "22" / "mask91.png").unlink()
    with pytest.raises(ProblemsError, match=r"case '22_91': liver/22/mask91.png is missing"):
        plan_conversion(LIVER, liver.download)


def test_masks_of_the_shared_subset_overlap(shared: Fake, tmp_path: Path) -> None:
    data = converted(SHARED, shared, tmp_path / "raw")
    overlap = data.states("22_01", "liver+pancreas")
    assert overlap == {name: UNKNOWN if name in ("liver", "pancreas") else ABSENT for name in MULTILABEL}
    assert set(data.states("22_01", "background").values()) == {ABSENT}
    ignored = converted(SHARED, shared, tmp_path / "ignored", overlaps="ignore")
    assert list(ignored.values) == ["background", *MULTILABEL, "ignore"]


def test_missing_masks_of_the_shared_subset_are_noted(shared: Fake, tmp_path: Path) -> None:
    missing = {
        case: [organ for organ in MULTILABEL if not scene.structures[organ].any()]
        for case, scene in (shared.train | shared.test).items()
        if int(case[3:]) % 2 == 0
    }
    assert any(missing.values())
    data = converted(SHARED, shared, tmp_path / "raw")
    record = json.loads((data.folder / "conversion.json").read_text())["cases"]
    for case, organs in missing.items():
        note = f"no mask, so taken for absent: {', '.join(organs)}"
        assert record[case].get("note") == (note if organs else None)
    assert "note" not in record["22_01"]


def test_the_stomach_must_be_there(shared: Fake) -> None:
    """All pictures show it; where it is missing, another missing mask is no sign that its organ is absent."""
    place = shared.download / "multilabel"
    for lost in ("12/mask03_stomach.png", "22/mask01_liver.png", "22/mask01_stomach.png", "22/mask91_colon.png"):
        (place / lost).unlink()
    with pytest.raises(ProblemsError) as caught:
        plan_conversion(SHARED, shared.download)
    lines = {problem.partition(": ")[2] for problem in caught.value.problems}
    assert {problem.partition(":")[0] for problem in caught.value.problems} == {"case '12_03'", "case '22_01'"}
    lost = ("12/mask03_stomach.png", "22/mask01_liver.png", "22/mask01_stomach.png")
    assert lines >= {f"multilabel/{name} is missing" for name in lost}
    plan = plan_conversion(SHARED, shared.download, Options(exclude=("12_03", "22_01")))
    (other,) = (case for case in plan.cases if case.case.id == "22_91")
    assert "colon" in other.case.note


def test_organs_that_are_not_expected(shared: Fake) -> None:
    write_picture(shared.download / "multilabel" / "12" / "mask03_ureter.png", np.zeros(SIZE, np.uint8))
    with pytest.raises(ProblemsError, match=r"is it another release.*\n.*mask03_ureter.png"):
        plan_conversion(SHARED, shared.download)
