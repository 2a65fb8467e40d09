"""`--split-sides`: organs of both sides under one label, told apart where there is no doubt."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.conversion import Case, Masks
from nnunet_partial.conversion.sides import SPLIT
from nnunet_partial.labels import load_dataset_json, partial_labels_of
from tests.conversion_fakes.scene import write_nifti
from tests.unit.conversion.conftest import Toy, one_case
from tests.unit.conversion.sides_of_toys import (
    KITS,
    LEFT,
    RIGHT,
    SHAPE,
    SPACING,
    Region,
    assert_same,
    body,
    box,
    converter_of,
    drawn,
    marked,
    outcome,
    split,
    turned,
    write,
)

# what is split


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize(
    ("affine", "axes"),
    [
        (SPACING, "RAS"),
        (SPACING, "LPS"),
        (SPACING, "SAR"),
        (turned(25, 2) @ SPACING, "RAS"),
        (turned(-20, 1) @ SPACING, "LAS"),
        (turned(30, 0) @ turned(15, 2) @ SPACING, "PIR"),
        (np.diag([1, 1, 1, 1]) + np.eye(4, k=3) * -300.0, "RAS"),
    ],
    ids=["RAS", "LPS", "SAR", "turned around z", "around y", "around x and z", "far away"],
)
def test_two_kidneys_are_told_apart(affine: np.ndarray, axes: str, modality: str, download: Toy) -> None:
    structures = drawn(liver=box(20, 14, 14, 5), kidneys=[LEFT, RIGHT])
    table = {"labels": ["liver", "kidneys"], "modality": modality}
    found, result = split(download, structures, table, affine, axes=axes)
    expected = drawn(liver=box(20, 14, 14, 5), kidney_left=LEFT, kidney_right=RIGHT)
    assert_same(found, expected)
    assert outcome(result) == {"kidneys": {SPLIT: 1}}


def test_turned_to_ras(download: Toy) -> None:
    found, result = split(
        download, drawn(kidneys=[LEFT, RIGHT]), {"labels": ["kidneys"]}, axes="LPS", orientation="RAS"
    )
    assert_same(found, drawn(kidney_left=LEFT, kidney_right=RIGHT))
    assert nib.aff2axcodes(nib.load(result.folder / "labelsTr" / "a.nii.gz").affine) == tuple("RAS")


def test_adrenal_glands_and_lungs(download: Toy) -> None:
    """As in WORD: thin adrenal glands near the middle, of unlike size."""
    glands = [(slice(16, 19), 8, slice(8, 12)), (slice(24, 26), 8, slice(9, 12))]
    lungs = [(slice(6, 16), slice(4, 18), slice(14, 19)), (slice(26, 38), slice(4, 18), slice(13, 19))]
    found, result = split(download, drawn(lungs=lungs, adrenal_glands=glands), {"labels": ["adrenal_glands", "lungs"]})
    sides = ("left", "right")
    expected = drawn(
        **{f"lung_{side}": lung for side, lung in zip(sides, lungs, strict=True)},
        **{f"adrenal_gland_{side}": gland for side, gland in zip(sides, glands, strict=True)},
    )
    assert_same(found, expected)
    assert outcome(result) == {"adrenal_glands": {SPLIT: 1}, "lungs": {SPLIT: 1}}


def test_lesions_lie_on_the_side_of_their_kidney(download: Toy) -> None:
    """A tumour that divides the left kidney, and a cyst that touches nothing, larger than a piece of an organ."""
    divides = (slice(8, 14), slice(6, 12), slice(8, 10))
    cyst = box(25, 14, 8, 5)
    structures = drawn(kidney_tissue=[LEFT, RIGHT], kidney_tumor=[divides, box(31, 7, 7, 2)], kidney_cyst=cyst)
    found, result = split(download, structures, KITS)
    expected = drawn(
        kidney_left_tissue=LEFT,
        kidney_right_tissue=RIGHT,
        kidney_left_tumor=divides,
        kidney_right_tumor=box(31, 7, 7, 2),
        kidney_cyst_right=cyst,
    )
    assert_same(found, expected)
    model = partial_labels_of(load_dataset_json(result.folder))
    assert {"kidneys", "kidney_left", "kidney_right", "kidney_mass", "kidney_left_mass"} <= set(model.class_names)
    assert "kidney_left" in model.sides.classes


def test_a_mass_that_may_be_a_cyst_keeps_that_doubt(download: Toy) -> None:
    structures = drawn(kidney_tissue=[LEFT, RIGHT], kidney_mass=box(9, 7, 7, 2))
    found, result = split(download, structures, {"labels": ["kidney_tissue", "kidney_mass"]})
    np.testing.assert_array_equal(found["kidney_left_mass"], structures["kidney_mass"])
    model = partial_labels_of(load_dataset_json(result.folder))
    value = load_dataset_json(result.folder)["labels"]["kidney_left_mass"]
    assert model.sets["all"].possible[value] == {"kidney_left_tumor", "kidney_cyst_left"}


def test_the_organ_tells_the_side_where_only_its_lesions_are_converted(download: Toy) -> None:
    structures = drawn(kidney_tissue=[LEFT, RIGHT], kidney_tumor=box(9, 7, 7, 2), kidney_cyst=box(31, 7, 7, 2))
    found, _ = split(download, structures, KITS, labels=("kidney_tumor",))
    assert_same(found, {"kidney_left_tumor": structures["kidney_tumor"]})


def test_small_pieces_take_the_side_they_lie_on_or_none(download: Toy) -> None:
    pieces = {"left": box(17, 9, 9), "right": box(27, 9, 9), "middle": (slice(20, 24), 9, 9)}
    found, result = split(download, drawn(kidneys=[LEFT, RIGHT, *pieces.values()]), {"labels": ["kidneys"]})
    expected = drawn(
        kidney_left=[LEFT, pieces["left"]], kidney_right=[RIGHT, pieces["right"]], kidneys=pieces["middle"]
    )
    assert_same(found, expected)
    assert outcome(result) == {"kidneys": {SPLIT: 1}}


def test_other_structures_share_voxels_with_a_side(download: Toy) -> None:
    structures = drawn(kidneys=[LEFT, RIGHT])
    structures["aorta"] = drawn(aorta=[box(9, 7, 7, 2), box(31, 7, 7, 2), box(20, 9, 9)])["aorta"]
    write_nifti(download.image("a"), body(), SPACING)
    files = {name: download.download / f"{name}.nii.gz" for name in structures}
    for name, mask in structures.items():
        write_nifti(files[name], mask.astype(np.uint8), SPACING)
    masks = one_case(lambda root: Case("a", image=download.image("a"), label=Masks(files)), labels=["kidneys", "aorta"])
    result = download.convert(masks, split_sides=True)
    found = marked(result)
    left, right = drawn(x=LEFT)["x"], drawn(x=RIGHT)["x"]
    assert_same(
        found,
        {
            "kidney_left": left & ~structures["aorta"],
            "kidney_right": right & ~structures["aorta"],
            "aorta": structures["aorta"] & ~left & ~right,
            "aorta+kidney_left": left & structures["aorta"],
            "aorta+kidney_right": right & structures["aorta"],
        },
    )
    assert dict(result.overlaps) == {"aorta+kidney_left": 1, "aorta+kidney_right": 1}


# what is not split

UNLIKE = "not split: a part too large for a piece and too small for an organ"
SIDE = "not split: a part on the wrong side of the body, or across its middle"


@pytest.mark.parametrize(
    ("regions", "why"),
    [
        ([LEFT, RIGHT, (slice(13, 31), slice(7, 9), slice(7, 9))], "not split: in one part"),
        ([LEFT], "not split: in one part"),
        ([LEFT, RIGHT, box(20, 14, 6, 6)], "not split: in 3 parts"),
        ([LEFT, RIGHT, box(20, 14, 6, 3)], UNLIKE),
        ([LEFT, box(30, 6, 6, 3)], UNLIKE),
        ([LEFT, (slice(19, 25), slice(6, 12), slice(6, 14))], SIDE),
        ([(slice(6, 11), slice(6, 12), slice(6, 14)), (slice(13, 18), slice(6, 12), slice(6, 14))], SIDE),
        ([(slice(26, 30), slice(6, 12), slice(6, 14)), (slice(34, 38), slice(6, 12), slice(6, 14))], SIDE),
        (
            [(slice(30, 36), slice(6, 12), slice(1, 7)), (slice(31, 37), slice(6, 12), slice(9, 15))],
            "not split: two parts that do not lie beside each other",
        ),
        (
            [(slice(17, 24), slice(4, 9), slice(6, 12)), (slice(20, 27), slice(12, 17), slice(6, 12))],
            "not split: two parts that do not lie beside each other",
        ),
    ],
    ids=[
        "horseshoe",
        "one kidney",
        "three",
        "a third of doubtful size",
        "a second of doubtful size",
        "across the middle",
        "both on the left",
        "both on the right",
        "one above the other",
        "one before the other",
    ],
)
def test_the_label_of_both_sides_stays_where_there_is_doubt(regions: list[Region], why: str, download: Toy) -> None:
    structures = drawn(kidneys=regions)
    found, result = split(download, structures, {"labels": ["kidneys"]})
    assert_same(found, structures)
    assert outcome(result) == {"kidneys": {why: 1}}
    record = json.loads((result.folder / "conversion.json").read_text())
    assert record["cases"]["a"]["sides"] == {"kidneys": why}
    assert record["options"]["split_sides"] is True


def test_no_body_no_side(download: Toy) -> None:
    write(download, drawn(kidneys=[LEFT, RIGHT]), ["kidneys"])
    write_nifti(download.image("a"), np.full(SHAPE, -1000, np.int16), SPACING)
    for modality in ("CT", "MR"):
        made = download.convert(
            converter_of(download, labels=["kidneys"], modality=modality), split_sides=True, overwrite=True
        )
        assert outcome(made) == {"kidneys": {"not split: no body is seen in the image": 1}}


def test_a_kidney_that_is_all_tumour_leaves_the_side_open(download: Toy) -> None:
    structures = drawn(kidney_tissue=LEFT, kidney_tumor=RIGHT)
    found, result = split(download, structures, KITS)
    assert_same(found, structures)
    assert outcome(result) == {"kidneys": {"not split: in one part": 1}}


def test_what_does_not_occur_is_not_counted(download: Toy) -> None:
    found, result = split(download, drawn(liver=LEFT), {"labels": ["liver", "kidneys"]})
    assert set(found) == {"liver"}
    assert outcome(result) == {}
    assert "sides" not in json.loads((result.folder / "conversion.json").read_text())["cases"]["a"]
