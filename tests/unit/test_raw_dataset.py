"""Raw nnU-Net datasets on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_partial.errors import LabelError
from nnunet_partial.labels.raw_dataset import RawDataset, find_dataset_folder

Factory = Callable[..., Path]


def test_cases_in_order_with_their_channels_and_labels(raw_dataset: Factory) -> None:
    folder = raw_dataset("Two", 7, {"liver": 1}, {"b": [1], "a_0001": [0], "c": None}, channel_names=("CT", "PET"))
    dataset = RawDataset(folder)
    assert list(dataset.cases) == ["a_0001", "b", "c"]
    case = dataset.cases["a_0001"]
    assert [p.name for p in case.images] == ["a_0001_0000.nii.gz", "a_0001_0001.nii.gz"]
    assert case.label == folder / "labelsTr" / "a_0001.nii.gz"
    assert dataset.cases["c"].label is None
    assert dataset.label_values == {"background": 0, "liver": 1}
    assert dataset.channel_names == {"0": "CT", "1": "PET"}


def test_hidden_and_foreign_files_are_no_cases(raw_dataset: Factory) -> None:
    folder = raw_dataset("Liver", 3, {"liver": 1}, {"a": [1]})
    for name in ("._a_0000.nii.gz", "notes.txt", "a.nii.gz"):
        (folder / "imagesTr" / name).touch()
    assert list(RawDataset(folder).cases) == ["a"]


def test_cases_listed_in_dataset_json(raw_dataset: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    images = raw_dataset("Images", 1, {}, {"a": None}) / "imagesTr"
    monkeypatch.setenv("IMAGES", str(images))
    listed = {
        "x": {"images": ["../Dataset001_Images/imagesTr/a_0000.nii.gz"], "label": "labelsTr/x.nii.gz"},
        "w": {"images": ["${IMAGES}/a_0000.nii.gz"]},
    }
    folder = raw_dataset("Listed", 2, {}, {"ignored": [0]}, dataset=listed)
    cases = RawDataset(folder).cases
    assert list(cases) == ["w", "x"]
    assert cases["x"].images == (images / "a_0000.nii.gz",)
    assert cases["w"].images == (images / "a_0000.nii.gz",)
    assert cases["x"].label == folder / "labelsTr" / "x.nii.gz"
    assert cases["w"].label is None


def test_a_case_without_one_of_its_channels(raw_dataset: Factory) -> None:
    folder = raw_dataset("Two", 7, {}, {"a": None}, channel_names=("CT", "PET"))
    (folder / "imagesTr" / "a_0001.nii.gz").unlink()
    with pytest.raises(LabelError, match=r"case 'a' lacks channel 1; expected a_0001.nii.gz"):
        _ = RawDataset(folder).cases


def coloured(raw_dataset: Factory, ending: str, *names: str) -> RawDataset:
    """A dataset of red, green and blue whose images have these names."""
    folder = raw_dataset("Pictures", 7, {}, {}, channel_names=("R", "G", "B"), file_ending=ending)
    (folder / "imagesTr").mkdir(exist_ok=True)
    for name in names:
        (folder / "imagesTr" / f"{name}{ending}").touch()
    return RawDataset(folder)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
def test_a_picture_holds_all_its_colours(raw_dataset: Factory, ending: str) -> None:
    dataset = coloured(raw_dataset, ending, "a_0000", "b_0000")
    assert {name: [p.name for p in case.images] for name, case in dataset.cases.items()} == {
        "a": [f"a_0000{ending}"],
        "b": [f"b_0000{ending}"],
    }


def test_pictures_of_one_colour_each(raw_dataset: Factory) -> None:
    dataset = coloured(raw_dataset, ".png", "a_0000", "a_0001", "a_0002")
    assert len(dataset.cases["a"].images) == 3


@pytest.mark.parametrize(
    ("ending", "names", "missing"),
    [
        (".png", ("a_0000", "a_0001", "a_0002", "b_0000"), "b' lacks channel 1; expected b_0001.png"),
        (".png", ("a_0001",), "a' lacks channel 0; expected a_0000.png"),
        (".nii.gz", ("a_0000",), "a' lacks channel 1; expected a_0001.nii.gz"),
    ],
    ids=["other pictures have more", "no first file", "a volume"],
)
def test_one_file_is_not_enough(raw_dataset: Factory, ending: str, names: tuple[str, ...], missing: str) -> None:
    with pytest.raises(LabelError, match=missing):
        _ = coloured(raw_dataset, ending, *names).cases


def test_no_cases(raw_dataset: Factory) -> None:
    folder = raw_dataset("Empty", 7, {}, {})
    with pytest.raises(LabelError, match=r"no training cases; expected imagesTr/CASE_0000.nii.gz"):
        _ = RawDataset(folder).cases


@pytest.mark.parametrize("key", ["file_ending", "channel_names", "labels"])
def test_missing_keys(raw_dataset: Factory, key: str) -> None:
    folder = raw_dataset("Liver", 3, {"liver": 1}, {"a": [1]})
    content = json.loads((folder / "dataset.json").read_text())
    del content[key]
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(LabelError, match=f"dataset.json: the key '{key}' is missing"):
        getattr(RawDataset(folder), "label_values" if key == "labels" else key)


def test_labels_of_the_old_format(raw_dataset: Factory) -> None:
    folder = raw_dataset("Old", 3, {"1": "liver"}, {"a": [1]})
    with pytest.raises(LabelError, match=r"expected a number for '1', found 'liver'.*nnUNetv2_convert_MSD_dataset"):
        _ = RawDataset(folder).label_values


def test_region_labels_are_tuples(raw_dataset: Factory) -> None:
    folder = raw_dataset("Brats", 3, {"whole": [1, 2], "core": [2]}, {"a": [1]})
    assert RawDataset(folder).label_values == {"background": 0, "whole": (1, 2), "core": (2,)}


def test_finding_by_number_name_and_path(raw_dataset: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = raw_dataset("Liver", 3, {}, {"a": None})
    monkeypatch.chdir(tmp_path)
    assert find_dataset_folder(3) == folder
    assert find_dataset_folder("003") == folder
    assert find_dataset_folder("Dataset003_Liver") == folder
    assert find_dataset_folder(str(folder)) == folder
    assert find_dataset_folder("raw/Dataset003_Liver").samefile(folder)
    assert find_dataset_folder("../raw/Dataset003_Liver", tmp_path / "preprocessed").samefile(folder)


def test_what_cannot_be_found(raw_dataset: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = raw_dataset("Liver", 3, {}, {"a": None})
    with pytest.raises(LabelError, match=r"dataset '4': no such dataset in .*raw and no such folder"):
        find_dataset_folder(4)
    (folder / "dataset.json").unlink()
    with pytest.raises(LabelError, match=r"no dataset.json there; expected a raw nnU-Net dataset"):
        find_dataset_folder(str(folder))
    (tmp_path / "raw" / "Dataset003_Other").mkdir()
    with pytest.raises(LabelError, match=r"dataset 3: several folders in .*; give the name"):
        find_dataset_folder(3)
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(LabelError, match=r"the environment variable nnUNet_raw is not set"):
        find_dataset_folder(3)
