"""Merging on disk: label maps, images, and what is wrong with single cases."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_partial.errors import LabelError, ProblemsError
from nnunet_partial.labels import load_dataset_json, partial_labels_of
from nnunet_partial.labels.merge import MergeResult
from nnunet_partial.labels.raw_dataset import RawDataset
from nnunet_partial.labels.verify import verify_dataset

Factory = Callable[..., Path]
Merge = Callable[..., MergeResult]

SHAPE = (8, 7, 6)


def label_map(seed: int, values: list[int]) -> np.ndarray:
    return np.random.default_rng(seed).choice(values, SHAPE)


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_label_maps_mean_what_their_sources_said(abdomen: SimpleNamespace, merge: Merge) -> None:
    result = merge(abdomen.text)
    labels = result.folder / "labelsTr"
    content = load_dataset_json(result.folder)
    values = content["labels"]
    assert values == {"background": 0, "liver_tissue": 1, "tumour": 2, "spleen": 3, "liver": 4}
    np.testing.assert_array_equal(read(labels / "lits_a.nii.gz"), abdomen.lits["a"])
    np.testing.assert_array_equal(
        read(labels / "btcv_a.nii.gz"), np.select([abdomen.btcv["a"] == 1, abdomen.btcv["a"] == 6], [3, 4])
    )
    assert not read(labels / "free_x.nii.gz").any()
    assert read(labels / "btcv_a.nii.gz").dtype == np.uint8


def test_dataset_json_is_nnunets_with_our_block(abdomen: SimpleNamespace, merge: Merge) -> None:
    result = merge(abdomen.text)
    content = load_dataset_json(result.folder)
    assert result.written
    assert result.folder.name == "Dataset100_Abdomen"
    assert content["numTraining"] == 5
    assert content["file_ending"] == ".nii.gz"
    assert content["channel_names"] == {"0": "CT"}
    labels = partial_labels_of(content)
    assert labels.cases == {
        "lits_a": "lits",
        "lits_b": "lits",
        "btcv_a": "btcv",
        "btcv_c": "btcv",
        "free_x": "free",
    }
    assert labels.sides.axes == (2,)
    splits = json.loads((result.folder / "splits_final.json").read_text())
    assert sorted(case for split in splits for case in split["val"]) == ["btcv_a", "btcv_c", "lits_a", "lits_b"]
    assert all("free_x" in split["train"] for split in splits)


def test_the_folds_are_put_where_nnunet_looks(abdomen: SimpleNamespace, merge: Merge, nnunet_folders: Path) -> None:
    result = merge(abdomen.text)
    target = nnunet_folders / "preprocessed" / "Dataset100_Abdomen" / "splits_final.json"
    assert json.loads(target.read_text()) == json.loads((result.folder / "splits_final.json").read_text())
    target.write_text("[]")
    assert merge(abdomen.text).splits_kept == target
    assert target.read_text() == "[]"
    assert merge(abdomen.text, overwrite=True).splits_kept is None
    assert len(json.loads(target.read_text())) == 2


@pytest.mark.parametrize("damaged", [b'[{"train": [', b"[1]", b"\xff\xfe"])
def test_damaged_folds_where_nnunet_looks(
    damaged: bytes, abdomen: SimpleNamespace, merge: Merge, nnunet_folders: Path
) -> None:
    merge(abdomen.text)
    target = nnunet_folders / "preprocessed" / "Dataset100_Abdomen" / "splits_final.json"
    target.write_bytes(damaged)
    with pytest.raises(LabelError, match=r"Dataset100_Abdomen/splits_final.json: not nnU-Net's list of folds .*remove"):
        merge(abdomen.text)
    assert target.read_bytes() == damaged
    assert merge(abdomen.text, overwrite=True).splits_kept is None
    assert len(json.loads(target.read_text())) == 2


def test_folds_that_the_datasets_have(lits: Path, btcv: Path, merge: Merge) -> None:
    text = "name: F\nfolds: dataset\nclasses: {liver: , tumour: }\nsources:\n"
    text += "  lits: {dataset: 3, labels: {liver: liver, tumor: tumour}}\n"
    text += "  btcv: {dataset: 4, labels: {liver: liver}, unlisted: background}\n"
    (lits / "splits_final.json").write_text('[{"train": ["a"], "val": ["b"]}]')
    (btcv / "splits_final.json").write_text('[{"train": ["a", "c"], "val": []}]')
    splits = json.loads((merge(text).folder / "splits_final.json").read_text())
    assert splits == [{"train": ["btcv_a", "btcv_c", "lits_a"], "val": ["lits_b"]}]
    assert not merge(text).written
    (btcv / "splits_final.json").write_text('[{"train": ["a"], "val": ["c"]}]')
    with pytest.raises(LabelError, match="was merged differently"):
        merge(text)
    splits = json.loads((merge(text, overwrite=True).folder / "splits_final.json").read_text())
    assert splits == [{"train": ["btcv_a", "lits_a"], "val": ["btcv_c", "lits_b"]}]


def coloured_pictures(folder: Path, seed: int) -> dict[str, np.ndarray]:
    """Writes cases a and b of a dataset of coloured pictures; returns their label maps."""
    rng = np.random.default_rng(seed)
    found = {case: rng.integers(0, 2, (5, 6)).astype(np.uint8) for case in "ab"}
    for case, labels in found.items():
        picture = sitk.GetImageFromArray(rng.integers(0, 256, (5, 6, 3)).astype(np.uint8), isVector=True)
        sitk.WriteImage(picture, str(folder / "imagesTr" / f"{case}_0000.png"))
        sitk.WriteImage(sitk.GetImageFromArray(labels), str(folder / "labelsTr" / f"{case}.png"))
    return found


@pytest.mark.parametrize("images", ["link", "copy", "reference"])
def test_coloured_pictures(images: str, raw_dataset: Factory, merge: Merge) -> None:
    text, expected = "name: P\nfolds: 2\nclasses: {liver: , colon: }\nsources:\n", {}
    for number, organ in enumerate(("liver", "colon"), start=3):
        content = {"channel_names": ("R", "G", "B"), "file_ending": ".png"}
        folder = raw_dataset("Pictures", number, {organ: 1}, {}, **content)
        expected |= {f"{organ}_{case}": labels for case, labels in coloured_pictures(folder, number).items()}
        text += f"  {organ}: {{dataset: {number}, labels: {{{organ}: {organ}}}}}\n"
    merged = merge(text, images=images).folder
    values = load_dataset_json(merged)["labels"]
    cases = RawDataset(merged).cases
    assert set(cases) == set(expected)
    for case, labels in expected.items():
        (image,) = cases[case].images
        assert sitk.GetArrayFromImage(sitk.ReadImage(str(image))).shape == (5, 6, 3)
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(merged / "labelsTr" / f"{case}.png")))
        np.testing.assert_array_equal(found, labels * values[case.partition("_")[0]])
    report = verify_dataset(merged)
    assert (report.problems, report.duplicates) == ([], [])


def test_without_a_preprocessed_folder(abdomen: SimpleNamespace, merge: Merge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_preprocessed")
    assert merge(abdomen.text).splits_kept is None


@pytest.mark.parametrize("images", ["link", "copy", "reference"])
def test_images(images: str, abdomen: SimpleNamespace, merge: Merge, nnunet_folders: Path) -> None:
    folder = merge(abdomen.text, images=images).folder
    source = nnunet_folders / "raw" / "Dataset003_LiTS" / "imagesTr" / "a_0000.nii.gz"
    image = RawDataset(folder).cases["lits_a"].images[0]
    assert image.read_bytes() == source.read_bytes()
    assert image.is_symlink() == (images == "link")
    assert (image == source) == (images == "reference")
    assert (folder / "imagesTr").exists() == (images != "reference")


@pytest.mark.parametrize("images", ["link", "reference"])
def test_nnunet_finds_images_and_labels(images: str, abdomen: SimpleNamespace, merge: Merge) -> None:
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    folder = merge(abdomen.text, images=images).folder
    content = load_dataset_json(folder)
    found = get_filenames_of_train_images_and_targets(str(folder))
    assert sorted(found) == ["btcv_a", "btcv_c", "free_x", "lits_a", "lits_b"]
    for case, files in found.items():
        assert len(files["images"]) == 1
        assert Path(files["images"][0]).is_file()
        assert Path(files["label"]) == folder / "labelsTr" / f"{case}.nii.gz"
        assert Path(files["label"]).is_file()
    if images == "reference":
        assert not any(Path(i).is_absolute() for e in content["dataset"].values() for i in e["images"])


def test_references_hold_where_the_raw_folder_is_a_link(
    abdomen: SimpleNamespace, merge: Merge, nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    (nnunet_folders / "deep" / "er").mkdir(parents=True)
    (nnunet_folders / "deep" / "er" / "link").symlink_to(nnunet_folders / "raw")
    monkeypatch.setenv("nnUNet_raw", str(nnunet_folders / "deep" / "er" / "link"))
    folder = merge(abdomen.text, images="reference").folder
    found = get_filenames_of_train_images_and_targets(str(folder))
    assert all(Path(image).is_file() for files in found.values() for image in files["images"])
    assert all(image.is_file() for case in RawDataset(folder).cases.values() for image in case.images)


def test_two_processes_give_the_same_as_one(abdomen: SimpleNamespace, merge: Merge, nnunet_folders: Path) -> None:
    one = everything_in(merge(abdomen.text, number=100, processes=1).folder)
    two = everything_in(merge(abdomen.text, number=101, processes=2).folder)
    assert one.keys() == two.keys()
    # compressed files hold their time of writing
    assert {n: c for n, c in one.items() if "labelsTr" not in n} == {
        n: c for n, c in two.items() if "labelsTr" not in n
    }
    raw = nnunet_folders / "raw"
    for name in (n for n in one if "labelsTr" in n):
        np.testing.assert_array_equal(read(raw / "Dataset100_Abdomen" / name), read(raw / "Dataset101_Abdomen" / name))


def test_slices_on_disk(raw_dataset: Factory, merge: Merge, nnunet_folders: Path) -> None:
    label = label_map(5, [0, 1, 2])
    label[:, :, 4][label[:, :, 4] == 2] = 0
    raw_dataset("Sparse", 3, {"liver": 1, "spleen": 2}, {"a": label, "b": label_map(6, [0, 1, 2])})
    (nnunet_folders / "slices.csv").write_text("case,axis,first,last,set\na,z,0,1,both\na,z,4,4,liver\n")
    result = merge("""
name: Sparse
folds: 2
classes: {liver: , spleen: }
sources:
  s:
    dataset: 3
    labels: {liver: liver, spleen: spleen}
    annotated: {both: all, liver: [liver]}
    cases: {'*': both}
    slices: slices.csv
""")
    merged = read(result.folder / "labelsTr" / "s_a.nii.gz")
    names = list(load_dataset_json(result.folder)["labels"])
    assert names == ["background", "liver", "spleen", "none of liver, spleen", "none of liver"]
    np.testing.assert_array_equal(merged[:, :, :2], np.array([3, 1, 2])[label[:, :, :2]])
    np.testing.assert_array_equal(merged[:, :, 4], np.array([4, 1])[label[:, :, 4]])
    assert not merged[:, :, [2, 3, 5]].any()


def test_left_and_right_lie_where_the_images_say(raw_dataset: Factory, merge: Merge) -> None:
    text = """
name: Sides
folds: 2
classes: {kidney_left: , kidney_right: }
sources:
  k: {dataset: 3, labels: {l: kidney_left, r: kidney_right}}
"""
    turned = np.array([[0, 0, 2.0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    raw_dataset("K", 3, {"l": 1, "r": 2}, {"a": [1, 2], "b": [1, 2]}, affine=turned)
    sides = partial_labels_of(load_dataset_json(merge(text).folder)).sides
    assert sides.classes == ("kidney_left", "kidney_right")
    # the third array axis, (x, y, z) = 2, is nnU-Net's first, (z, y, x) = 0
    assert sides.axes == (0,)
    given = partial_labels_of(load_dataset_json(merge(text + "sides: {axes: [1]}", number=101).folder)).sides
    assert given.axes == (1,)


def test_a_reader_that_reorients_puts_left_and_right_last(raw_dataset: Factory, merge: Merge) -> None:
    turned = np.array([[0, 0, 2.0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    reader = "NibabelIOWithReorient"
    raw_dataset("K", 3, {"l": 1}, {"a": [1], "b": [1]}, affine=turned, overwrite_image_reader_writer=reader)
    result = merge("name: S\nfolds: 2\nclasses: {liver_left: }\nsources:\n  k: {dataset: 3, labels: {l: liver_left}}\n")
    content = load_dataset_json(result.folder)
    assert content["overwrite_image_reader_writer"] == reader
    assert partial_labels_of(content).sides.axes == (2,)


def _nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def _shifted(mm: float) -> np.ndarray:
    affine = np.eye(4)
    affine[0, 3] = mm
    return affine


@pytest.mark.parametrize(
    ("array", "affine", "message"),
    [
        (
            np.full(SHAPE, 7, np.uint8),
            None,
            r"case 'btcv_a': .*a.nii.gz holds value 7 in 336 voxels .*only \[0, 1, 6\]",
        ),
        (np.full(SHAPE, -1, np.int16), None, "holds value -1 in 336 voxels"),
        (np.zeros((8, 7, 5), np.uint8), None, r"does not lie on its image .*\(8, 7, 6\), the label map \(8, 7, 5\)"),
        (np.zeros(SHAPE, np.uint8), np.diag([2.0, 1, 1, 1]), "does not lie on its image .*label spacing"),
        (np.zeros(SHAPE, np.uint8), _shifted(1.0), "does not lie on its image .*corners lie up to 1 mm apart"),
        (np.full(SHAPE, 0.5, np.float32), None, "label values must be whole numbers, found 0.5"),
    ],
)
def test_bad_label_maps(
    array: np.ndarray,
    affine: np.ndarray | None,
    message: str,
    abdomen: SimpleNamespace,
    merge: Merge,
    nnunet_folders: Path,
) -> None:
    _nifti(nnunet_folders / "raw" / "Dataset004_BTCV" / "labelsTr" / "a.nii.gz", array, affine)
    with pytest.raises(ProblemsError, match=r"the merge stopped, 4 cases are done: 1 problem") as caught:
        merge(abdomen.text)
    assert re.search(message, caught.value.problems[0])


def test_a_value_that_the_annotation_set_does_not_have(raw_dataset: Factory, merge: Merge) -> None:
    raw_dataset("F", 3, {"liver": 1, "spleen": 2}, {"a": [1, 2], "b": [1, 2]})
    with pytest.raises(ProblemsError, match=r"case 'f_b': .* holds value 2 in 1 voxels .*only \[0, 1\] are annotated"):
        merge("""
name: F
folds: 2
classes: {liver: , spleen: }
sources:
  f:
    dataset: 3
    labels: {liver: liver, spleen: spleen}
    annotated: {all: all, liver: [liver]}
    cases: {a: all, b: liver}
""")


def test_slices_beyond_the_volume(raw_dataset: Factory, merge: Merge, nnunet_folders: Path) -> None:
    raw_dataset("S", 3, {"liver": 1}, {"a": [1], "b": [1]})
    (nnunet_folders / "slices.csv").write_text("case,axis,first,last,set\na,z,5,6,s\n")
    text = "name: S\nfolds: 2\nclasses: {liver: }\nsources:\n"
    text += "  s: {dataset: 3, labels: {liver: liver}, slices: slices.csv}\n"
    with pytest.raises(
        ProblemsError, match=r"case 's_a': slices 5 to 6 along z, but the label map has shape \(8, 7, 6\)"
    ):
        merge(text)


def test_all_bad_cases_are_named_at_once(abdomen: SimpleNamespace, merge: Merge, nnunet_folders: Path) -> None:
    raw = nnunet_folders / "raw"
    (raw / "Dataset003_LiTS" / "labelsTr" / "b.nii.gz").write_bytes(b"")
    (raw / "Dataset004_BTCV" / "imagesTr" / "c_0000.nii.gz").write_bytes(b"none")
    for processes in (1, 2):
        with pytest.raises(ProblemsError) as caught:
            merge(abdomen.text, processes=processes)
        assert len(caught.value.problems) == 2
        assert "labelsTr/b.nii.gz: the file is empty" in caught.value.problems[0]
        assert "c_0000.nii.gz: cannot be read as an image" in caught.value.problems[1]


def test_channels_that_do_not_lie_on_each_other(raw_dataset: Factory, merge: Merge) -> None:
    folder = raw_dataset("Two", 3, {"liver": 1}, {"a": [1], "b": [1]}, channel_names=("T1", "T2"))
    _nifti(folder / "imagesTr" / "a_0001.nii.gz", np.zeros(SHAPE, np.int16), _shifted(3))
    with pytest.raises(ProblemsError, match=r"case 't_a': channels a_0000.nii.gz and a_0001.nii.gz: corners"):
        merge("name: T\nfolds: 2\nclasses: {liver: }\nsources:\n  t: {dataset: 3, labels: {liver: liver}}\n")


def test_missing_files_of_listed_cases(raw_dataset: Factory, merge: Merge) -> None:
    listed = {c: {"images": [f"imagesTr/{c}_0000.nii.gz"], "label": f"labelsTr/{c}.nii.gz"} for c in "ab"}
    folder = raw_dataset("L", 3, {"liver": 1}, {"a": [1], "b": [1]}, dataset=listed)
    (folder / "imagesTr" / "a_0000.nii.gz").unlink()
    (folder / "labelsTr" / "b.nii.gz").unlink()
    with pytest.raises(ProblemsError) as caught:
        merge("name: L\nfolds: 2\nclasses: {liver: }\nsources:\n  l: {dataset: 3, labels: {liver: liver}}\n")
    assert [p.rsplit("/", 1)[-1] for p in caught.value.problems] == [
        "a_0000.nii.gz: no such file",
        "b.nii.gz: no such file",
    ]
