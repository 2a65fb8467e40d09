"""The table of a converter: what it says, and contradictions that it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nnunet_partial.conversion import Annotated, Intensity, LabelMap, Slices
from nnunet_partial.conversion.structures import STRUCTURES, tissues
from nnunet_partial.errors import LabelError
from tests.unit.conversion.conftest import toy


def test_values_and_names() -> None:
    converter = toy(labels={4: "liver", 2: "spleen", 63: "liver", -1: None, 255: "ignore"})
    assert converter.label_names == ("liver", "spleen")
    assert toy(labels=["spleen", "liver"]).values == {1: "spleen", 2: "liver"}
    assert converter.channel_names == ("CT",)
    assert toy(channels=("CT", "PET")).channel_names == ("CT", "PET")


def test_structures_are_made_of_tissues() -> None:
    assert tissues("aorta") == ("aorta",)
    assert tissues("spleen") == ("spleen_tissue", "spleen_tumor")
    assert set(tissues("kidneys")) == set(tissues("kidney_left")) | set(tissues("kidney_right"))
    assert set(tissues("liver")) == set(tissues("liver_tissue")) | set(tissues("liver_tumor"))
    assert set(tissues("kidney_left")).isdisjoint(tissues("kidney_right"))
    for tumor in ("kidney_tumor", "spleen_tumor", "adrenal_gland_left_tumor", "liver_tumor"):
        assert set(tissues(tumor)) < set(tissues("tumor"))
    assert set(tissues("kidney_mass")) == set(tissues("kidney_tumor")) | set(tissues("kidney_cyst"))
    for name in STRUCTURES:
        assert len(tissues(name)) > 1
    own = toy(labels=["liver"], structures={"liver": ("a", "b")})
    assert own.tissues("liver") == {"a", "b"}


def test_a_structure_cannot_be_part_of_itself() -> None:
    with pytest.raises(LabelError, match="structure 'a' is part of itself: a > b > a"):
        tissues("a", {"a": ("b",), "b": ("a",)})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "Toy set"}, "the name must consist of"),
        ({"dataset_id": 1000}, "dataset_id: expected 1 to 999, found 1000"),
        ({"labels": {}}, "'labels' names no structure"),
        ({"labels": {1: None}}, "'labels' names no structure"),
        ({"labels": {0: "liver"}}, "value 0 is what no label marks"),
        ({"labels": ["left kidney"]}, "'left kidney' cannot be a name"),
        ({"labels": ["background"]}, "'background' cannot be a name"),
        ({"sets": {"all": Annotated()}}, "'all' cannot be a name"),
        ({"classes": ("pancreas",)}, "class 'pancreas': no label marks"),
        ({"sets": {"part": Annotated(("aorta",))}}, r"part: \['aorta'\] have no label"),
        ({"checks": (Intensity("aorta", 0, 1),)}, r"checks: \['aorta'\] have no label"),
        ({"file_ending": ".nii"}, "file_ending: expected"),
        ({"expected": {"training": 3}}, r"expected: \['training'\] are unknown"),
    ],
)
def test_contradictions(table: dict[str, Any], message: str) -> None:
    with pytest.raises(LabelError, match=f"^converter '.*': {message}"):
        toy(**table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": "header"}, "grid: expected 'own', 'axes' or 'image'"),
        ({"axes": ("xyy",), "grid": "image"}, "axes: expected orders of 'xyz'"),
        ({"axes": ("xyz", "xy"), "grid": "image"}, "axes: expected orders of 'xyz'"),
        ({"axes": "xyz", "grid": "image"}, "axes: expected orders of 'xyz'"),
        ({"axes": (), "grid": "image"}, "axes: expected orders of 'xyz'"),
        ({"flips": ("q",), "grid": "image"}, "flips: expected letters of 'xyz'"),
        ({"flips": (), "grid": "image"}, "flips: expected letters of 'xyz'"),
        ({"flips": ("z",)}, "need grid='image'"),
        ({"axes": ("yxz",)}, "need grid='image'"),
    ],
)
def test_contradictory_placements(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelMap(Path("x"), **options)


def test_pictures_of_slices_have_no_header_to_trust() -> None:
    assert Slices((Path("x"),)).grid == "image"
    with pytest.raises(ValueError, match="pictures have no world coordinates"):
        Slices((Path("x"),), grid="own")


def test_the_top_folder_is_found_below_the_download(tmp_path: Path) -> None:
    converter = toy(top=("v2", "v1"))
    assert converter.top_folder(tmp_path) == tmp_path
    (tmp_path / "v1").mkdir()
    assert converter.top_folder(tmp_path) == tmp_path / "v1"
