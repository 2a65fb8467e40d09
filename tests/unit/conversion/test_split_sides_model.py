"""`--split-sides`: what the label model says afterwards, what the command says, and which datasets can be split."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.cli import convert
from nnunet_partial.conversion import OCCURRING, Case, Converter, sides
from nnunet_partial.conversion.engine import plan_conversion
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
from tests.unit.conversion.conftest import Toy, plain_cases, toy
from tests.unit.conversion.sides_of_toys import (
    LEFT,
    RIGHT,
    SPACING,
    body,
    converter_of,
    drawn,
    marked,
    outcome,
)


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
