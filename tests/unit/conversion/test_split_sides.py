"""`--split-sides`: organs of both sides under one label, told apart where there is no doubt."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.cli import convert
from nnunet_partial.conversion import OCCURRING, Case, Converter, LabelMap, Masks, sides
from nnunet_partial.conversion.engine import ConversionResult, plan_conversion
from nnunet_partial.conversion.sides import SPLIT
from nnunet_partial.conversion.structures import PAIRED_ORGANS, tissues
from nnunet_partial.dataset_conversion import converters
from nnunet_partial.errors import PartialError
from nnunet_partial.labels import PartialLabels, load_dataset_json, partial_labels_of
from nnunet_partial.labels.table import ABSENT, PRESENT, UNKNOWN
from nnunet_partial.labels.verify import verify_dataset
from tests import documents
from tests.conversion_fakes.scene import write_nifti
from tests.integration.real_ct import real_data_folder
from tests.unit.conversion.conftest import Toy, canonical, one_case, plain_cases, toy

SHAPE = (40, 24, 20)
"""Axes run to the right, to the front and up; the middle of the body lies between voxels 21 and 22 of the first."""
LEFT, RIGHT = (slice(8, 14), slice(6, 12), slice(5, 13)), (slice(30, 36), slice(6, 12), slice(6, 14))
SPACING = np.diag([1.5, 1.5, 2.0, 1.0])
KITS = {"labels": ["kidney_tissue", "kidney_tumor", "kidney_cyst"], "classes": ("kidneys", "kidney_mass")}

Region = tuple[slice, ...]


def body() -> np.ndarray:
    """Tissue in air, to the right of the middle of the image."""
    image = np.full(SHAPE, -1000, np.int16)
    image[4:40, 3:21] = 40
    image[10:12, 8:10] = 300
    return image


def drawn(**regions: Region | list[Region]) -> dict[str, np.ndarray]:
    """Structure to its voxels; later ones take the place of earlier ones."""
    found: dict[str, np.ndarray] = {}
    for name, listed in regions.items():
        mask = np.zeros(SHAPE, bool)
        for region in listed if isinstance(listed, list) else [listed]:
            mask[region] = True
        found = {other: earlier & ~mask for other, earlier in found.items()} | {name: mask}
    return found


def box(x: int, y: int, z: int, size: int = 1) -> Region:
    return tuple(slice(first, first + size) for first in (x, y, z))


def write(
    download: Toy, structures: dict[str, np.ndarray], names: list[str], affine: np.ndarray = SPACING, axes: str = "RAS"
) -> None:
    values = sum((mask * (names.index(name) + 1) for name, mask in structures.items()), np.zeros(SHAPE, int))
    write_nifti(download.image("a"), body(), affine, axes)
    write_nifti(download.label("a"), values.astype(np.uint8), affine, axes)


def converter_of(download: Toy, **table: Any) -> Converter:
    """Of case a."""
    return one_case(lambda root: Case("a", image=download.image("a"), label=LabelMap(download.label("a"))), **table)


def split(
    download: Toy, structures: dict[str, np.ndarray], table: dict[str, Any], affine: np.ndarray = SPACING, **how: Any
) -> tuple[dict[str, np.ndarray], ConversionResult]:
    """Label to its voxels after splitting, for labels that occur; and the dataset."""
    write(download, structures, table["labels"], affine, how.pop("axes", "RAS"))
    result = download.convert(converter_of(download, **table), split_sides=True, **how)
    assert verify_dataset(result.folder).problems == []
    return marked(result), result


def marked(result: ConversionResult, case: str = "a") -> dict[str, np.ndarray]:
    values = load_dataset_json(result.folder)["labels"]
    image = nib.load(result.folder / "labelsTr" / f"{case}.nii.gz")
    labels = canonical(result.folder / "labelsTr" / f"{case}.nii.gz")
    assert image.ndim == 3
    found = {name: labels == value for name, value in values.items() if name != "background"}
    return {name: mask for name, mask in found.items() if mask.any()}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, mask in expected.items():
        np.testing.assert_array_equal(found[name], mask, err_msg=name)


def turned(degrees: float, axis: int) -> np.ndarray:
    """A rotation of world coordinates."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    first, second = (other for other in range(3) if other != axis)
    rotation = np.eye(4)
    rotation[[first, first, second, second], [first, second, first, second]] = cosine, -sine, sine, cosine
    return rotation


def outcome(result: ConversionResult) -> dict[str, dict[str, int]]:
    return {organ: dict(counts) for organ, counts in result.sides.items()}


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


# what it means


def three_cases(download: Toy, change: Callable[[Case], Case] = lambda case: case) -> Converter:
    """Two kidneys, a horseshoe kidney, and no kidney beside a liver."""
    bridge = (slice(13, 31), slice(7, 9), slice(7, 9))
    kidneys: dict[str, dict[str, Any]] = {
        "a": {"kidneys": [LEFT, RIGHT]},
        "b": {"kidneys": [LEFT, RIGHT, bridge]},
        "c": {"liver": LEFT},
    }
    for case, regions in kidneys.items():
        values = sum(mask * {"liver": 1, "kidneys": 2}[name] for name, mask in drawn(**regions).items())
        image = body()
        image[0, 0, 0] = -ord(case)  # no two are the same scan
        write_nifti(download.image(case), image, SPACING)
        write_nifti(download.label(case), np.asarray(values, np.uint8), SPACING)

    def cases(root: Path) -> Iterator[Case]:
        yield from map(change, plain_cases(root))

    return toy(labels=["liver", "kidneys"], cases=cases)


def states(model: PartialLabels, case: str, value: int) -> dict[str, int]:
    return dict(zip(model.class_names, model.states[model.row_of(case), value].tolist(), strict=True))


def test_sides_are_known_where_they_were_split_and_open_elsewhere(download: Toy) -> None:
    converter = three_cases(download)
    result = download.convert(converter, split_sides=True, processes=2)
    assert verify_dataset(result.folder).problems == []
    dataset = load_dataset_json(result.folder)
    names = ["background", "liver", "kidneys", "kidney_left", "kidney_right"]
    assert dataset["labels"] == {name: value for value, name in enumerate(names)}
    assert set(marked(result, "a")) == {"kidney_left", "kidney_right"}
    assert set(marked(result, "b")) == {"kidneys"}
    assert outcome(result) == {"kidneys": {SPLIT: 1, "not split: in one part": 1}}
    model = partial_labels_of(dataset)
    assert set(model.sets) == {"all"}
    assert set(model.class_names) == set(names[1:])
    assert set(model.sides.classes) == {"kidney_left", "kidney_right"}
    kidneys = {"liver": ABSENT, "kidneys": PRESENT}
    assert states(model, "a", 3) == {**kidneys, "kidney_left": PRESENT, "kidney_right": ABSENT}
    assert states(model, "b", 2) == {**kidneys, "kidney_left": UNKNOWN, "kidney_right": UNKNOWN}
    assert set(states(model, "c", 0).values()) == {ABSENT}
    again = download.convert(converter, split_sides=True)
    assert not again.written
    assert outcome(again) == outcome(result)


def test_sides_where_the_label_map_tells_what_was_annotated(download: Toy) -> None:
    converter = three_cases(download, lambda case: replace(case, annotated=OCCURRING))
    result = download.convert(converter, split_sides=True)
    model = partial_labels_of(load_dataset_json(result.folder))
    assert dict(model.cases) == {"a": "kidneys", "b": "kidneys", "c": "liver"}
    assert set(model.sets["kidneys"].possible) == {0, 2, 3, 4}
    assert set(states(model, "a", 0).values()) == {ABSENT, UNKNOWN}
    assert states(model, "c", 0)["kidney_left"] == UNKNOWN


def test_sets_keep_their_names(download: Toy) -> None:
    converter = three_cases(download, lambda case: replace(case, annotated=("liver",)) if case.id == "c" else case)
    planned = plan_conversion(converter, download.download)
    result = download.convert(converter, split_sides=True)
    assert [case.set_name for case in result.plan.cases] == [case.set_name for case in planned.cases]
    assert [case.annotated for case in result.plan.cases] == [
        *[("liver", "kidneys", "kidney_left", "kidney_right")] * 2,
        ("liver",),
    ]
    assert result.plan.fingerprint() != planned.fingerprint()


def test_the_command_counts(download: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    known = {"Toy": three_cases(download), "FLARE22": converters()["FLARE22"]}
    monkeypatch.setattr("nnunet_partial.dataset_conversion.converters", lambda: known)
    monkeypatch.setenv("nnUNet_raw", str(download.raw))
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    assert convert.main(["Toy", "-i", str(download.download), "-np", "1", "--split-sides"]) == 0
    assert "sides of kidneys: 1 not split: in one part, 1 split ('sides'" in capsys.readouterr().out
    assert convert.main(["FLARE22", "-i", str(download.download), "--split-sides"]) == 1
    assert "--split-sides: FLARE22 has no label that joins left and right" in capsys.readouterr().err


def test_nothing_to_split(download: Toy) -> None:
    for table in (
        {"labels": ["liver"]},
        {"labels": ["kidney_tumor"]},  # without a kidney, nothing tells its side
        {"labels": ["kidneys", "kidney_left"]},
        {"labels": ["kidneys"], "structures": {"kidneys": ("kidney_left", "kidney_right", "transplant")}},
    ):
        with pytest.raises(PartialError, match="has no label that joins left and right"):
            download.convert(toy(**table), split_sides=True)  # type: ignore[arg-type]


def test_the_documents_say_what_is_split() -> None:
    page = documents.ROOT / "docs" / "how-to-convert.md"
    rows = documents.table(page, "organ").column("labels that are split")
    known = {name for organ in PAIRED_ORGANS for name in organ.structures}
    listed = [set(re.findall(r"\w+", row)) & known for row in rows]
    assert listed == [set(organ.structures) for organ in PAIRED_ORGANS]
    text = page.read_text("utf-8")
    assert f"at least {sides._LIKE:.0%} as large".replace("%", " %") in text
    assert f"smaller than {sides._PIECE:.0%} of the larger one".replace("%", " %") in text
    assert f"and {sides._OWN_SIDE:.0%} or more of each".replace("%", " %") in text


def test_sides_make_up_the_whole() -> None:
    for organ in PAIRED_ORGANS:
        for name, (left, right) in organ.structures.items():
            assert set(tissues(left)).isdisjoint(tissues(right))
            assert set(tissues(left)) | set(tissues(right)) == set(tissues(name))


@pytest.mark.real_data
@pytest.mark.parametrize("reader", [1, 2])
def test_sides_of_a_real_scan(reader: int, download: Toy) -> None:
    folder = real_data_folder() / "abdomen_a"
    if not folder.is_dir():
        pytest.skip("the real volumes are not there")
    drawing = nib.load(folder / f"labels_flare13_reader{reader}.nii.gz")
    right = np.asarray(drawing.dataobj)
    sided = {"kidney_right": 2, "kidney_left": 13, "adrenal_gland_right": 7, "adrenal_gland_left": 8}
    joined = np.isin(right, (2, 13)) * 1 + np.isin(right, (7, 8)) * 2
    download.label("a").unlink()
    nib.save(nib.Nifti1Image(joined.astype(np.uint8), drawing.affine), download.label("a"))
    download.image("a").unlink()
    download.image("a").symlink_to(folder / "ct.nii.gz")
    converter = converter_of(download, labels=["kidneys", "adrenal_glands"])
    result = download.convert(converter, split_sides=True, link=True)
    assert outcome(result) == {"kidneys": {SPLIT: 1}, "adrenal_glands": {SPLIT: 1}}
    values = load_dataset_json(result.folder)["labels"]
    written = np.asarray(nib.load(result.folder / "labelsTr" / "a.nii.gz").dataobj)
    for name, value in sided.items():
        np.testing.assert_array_equal(written == values[name], right == value, err_msg=name)


def test_datasets_whose_sides_can_be_split(tmp_path: Path) -> None:
    from nnunet_partial.conversion.engine import Options
    from tests.unit.conversion.conversions import fake_download

    found = {}
    for name, converter in converters().items():
        if any(label in organ.structures for organ in PAIRED_ORGANS for label in converter.label_names):
            download = fake_download(converter, tmp_path / name).download
            try:
                found[name] = set(plan_conversion(converter, download, Options(split_sides=True)).sided.values())
            except PartialError:
                found[name] = set()
    kits = {"kidney_tissue", "kidney_tumor", "kidney_cyst"}
    assert found == {
        "AbdomenCT-1K": {"kidneys"},
        "KiTS19": {"kidney_tissue", "kidney_mass"},
        "KiTS21": kits,
        "KiTS23": kits,
        "MSD_Lung": set(),
        "WORD": {"adrenal_glands"},
    }
