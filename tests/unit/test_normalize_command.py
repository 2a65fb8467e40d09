"""nnUNetv2_partial_normalize: new images get what the merge gave the model's images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_partial.cli import normalize
from nnunet_partial.errors import PartialError
from nnunet_partial.labels import load_dataset_json, partial_labels_of, with_region_labels
from nnunet_partial.labels.merge import MergeResult
from nnunet_partial.normalisation import Clip, normalise_folder
from nnunet_partial.volumes import channel_files

Factory = Callable[..., Path]
Merge = Callable[..., MergeResult]

TEXT = """
name: Both
folds: 2
normalisation: {CT: fingerprint, MR: RULE}
classes: {liver: }
sources:
  ct: {dataset: 3, labels: {liver: liver}, modality: CT}
  mr: {dataset: 4, labels: {liver: liver}, modality: MR}
"""


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.fixture
def merged(raw_dataset: Factory, merge: Merge) -> Path:
    """A merged dataset of two CT and two MR."""
    raw_dataset("CT", 3, {"liver": 1}, {"a": [1] * 40, "b": [1] * 30})
    raw_dataset("MR", 4, {"liver": 1}, {"c": [1], "d": [1, 1]})
    return merge(TEXT.replace("RULE", "{percentiles: [1, 99]}")).folder


@pytest.fixture
def ct(merged: Path) -> Path:
    """Folder of the original CT images."""
    return merged.parent / "Dataset003_CT" / "imagesTr"


@pytest.fixture
def mr(merged: Path) -> Path:
    """Folder of the original MR images."""
    return merged.parent / "Dataset004_MR" / "imagesTr"


@pytest.fixture
def both(ct: Path, mr: Path, tmp_path: Path) -> Path:
    """All four images in one folder, with a file that says which is which."""
    (tmp_path / "both").mkdir()
    for path in (*ct.iterdir(), *mr.iterdir()):
        (tmp_path / "both" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "both.csv").write_text("case,modality\na,CT\nb,CT\nc,MR\nd,MR\nelsewhere,PET\n")
    return tmp_path / "both"


def run(*arguments: object) -> int:
    return normalize.main([*map(str, arguments), "-np", "1"])


def failed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The message of a run that fails."""
    capsys.readouterr()
    assert run(*arguments) == 1
    return capsys.readouterr().err


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("rule", ["{percentiles: [1, 99]}", "zscore", "{clip: [-7, 300]}"])
def test_voxel_for_voxel_what_the_merge_wrote(
    rule: str, merged: Path, ct: Path, mr: Path, tmp_path: Path, merge: Merge
) -> None:
    merged = merge(TEXT.replace("RULE", rule), number=101).folder
    for source, images, modality in (("ct", ct, "CT"), ("mr", mr, "MR")):
        assert run("-i", images, "-o", tmp_path / source, "-d", 101, "--modality", modality) == 0
        for path in images.iterdir():
            expected = merged / "imagesTr" / f"{source}_{path.name}"
            found = nib.load(tmp_path / source / path.name)
            np.testing.assert_array_equal(np.asarray(found.dataobj), read(expected))
            assert found.header.binaryblock == nib.load(expected).header.binaryblock


def test_the_model_folder_knows_the_rules(merged: Path, ct: Path, tmp_path: Path) -> None:
    """As the trainer writes it; the datasets need not be there any more."""
    content = load_dataset_json(merged)
    model = tmp_path / "model"
    model.mkdir()
    (model / "dataset.json").write_text(json.dumps(with_region_labels(content, partial_labels_of(content))))
    for number, place in enumerate((model, model / "dataset.json")):
        assert run("-i", ct, "-o", tmp_path / f"out{number}", "-m", place, "--modality", "CT") == 0
        np.testing.assert_array_equal(
            read(tmp_path / f"out{number}" / "b_0000.nii.gz"), read(merged / "imagesTr" / "ct_b_0000.nii.gz")
        )


def test_modalities_from_a_file(merged: Path, both: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run("-i", both, "-o", out, "-d", merged, "--modalities", tmp_path / "both.csv") == 0
    assert f"4 images normalised, 0 were there already: {out}" in capsys.readouterr().out
    for name in ("ct_a", "ct_b", "mr_c", "mr_d"):
        expected = read(merged / "imagesTr" / f"{name}_0000.nii.gz")
        np.testing.assert_array_equal(read(out / f"{name[-1]}_0000.nii.gz"), expected)


def test_two_processes(merged: Path, both: Path, tmp_path: Path) -> None:
    rules = partial_labels_of(load_dataset_json(merged)).normalisation
    modalities = {"a": "CT", "b": "CT", "c": "MR", "d": "MR"}
    out = tmp_path / "out"
    assert normalise_folder(both, out, rules, modalities, file_ending=".nii.gz", processes=2) == (4, 0)
    np.testing.assert_array_equal(read(out / "d_0000.nii.gz"), read(merged / "imagesTr" / "mr_d_0000.nii.gz"))


def test_finished_images_are_not_made_again(
    merged: Path, ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ("-i", ct, "-o", out, "-d", 100, "--modality", "CT")
    assert run(*arguments) == 0
    first = times(out)
    (out / "b_0000.nii.gz").unlink()
    for name in (".77.b_0000.nii.gz", "._a_0000.nii.gz"):  # of a run that was killed, and somebody else's
        (out / name).write_bytes(b"half")
    assert run(*arguments) == 0
    assert sorted(times(out)) == ["._a_0000.nii.gz", "a_0000.nii.gz", "b_0000.nii.gz"]
    assert "1 images normalised, 1 were there already" in capsys.readouterr().out
    assert times(out)["a_0000.nii.gz"] == first["a_0000.nii.gz"]
    assert times(out)["b_0000.nii.gz"] > first["b_0000.nii.gz"]
    assert run(*arguments, "--overwrite") == 0
    assert times(out)["a_0000.nii.gz"] > first["a_0000.nii.gz"]


def test_images_of_another_rule_are_not_taken_for_finished(
    merged: Path, ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("-i", ct, "-o", out, "-d", 100, "--modality", "MR") == 0
    message = failed(capsys, "-i", ct, "-o", out, "-d", 100, "--modality", "CT")
    assert "0 of 2 images are done: 2 problems" in message
    assert 'a_0000.nii.gz: exists, but was not normalised by the rule {"clip": [' in message
    assert "--overwrite" in message
    assert run("-i", ct, "-o", out, "-d", 100, "--modality", "CT", "--overwrite") == 0
    np.testing.assert_array_equal(read(out / "a_0000.nii.gz"), read(merged / "imagesTr" / "ct_a_0000.nii.gz"))


def test_bad_images_do_not_stop_the_others(
    merged: Path, both: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (both / "a_0000.nii.gz").write_bytes(b"")
    nib.save(nib.Nifti1Image(np.full((3, 3, 3), np.nan), np.eye(4)), both / "c_0000.nii.gz")
    out = tmp_path / "out"
    message = failed(capsys, "-i", both, "-o", out, "-d", 100, "--modalities", tmp_path / "both.csv")
    assert "2 of 4 images are done: 2 problems" in message
    assert "a_0000.nii.gz: the file is empty" in message
    assert "c_0000.nii.gz: 27 voxels are NaN or infinite" in message
    assert sorted(times(out)) == ["b_0000.nii.gz", "d_0000.nii.gz"]


def test_normalised_images_are_refused(
    merged: Path, ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("-i", ct, "-o", tmp_path / "once", "-d", 100, "--modality", "CT") == 0
    for images in (tmp_path / "once", merged / "imagesTr"):
        message = failed(capsys, "-i", images, "-o", tmp_path / "twice", "-d", 100, "--modality", "CT")
        assert "_0000.nii.gz: is normalised already, and would be normalised twice; give the original image" in message
    assert not (tmp_path / "twice").exists()


def test_a_model_without_rules(merged: Path, ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = "error: this model needs no normalisation: give the images to nnUNetv2_predict as they are\n"
    content = load_dataset_json(merged)
    del content["partial_labels"]["normalisation"]
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    for place in (("-d", 3), ("-m", tmp_path)):
        assert failed(capsys, "-i", ct, "-o", tmp_path / "out", *place, "--modality", "CT") == expected
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_with_the_command(
    merged: Path, both: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table = tmp_path / "out", tmp_path / "table.csv"
    (tmp_path / "link").symlink_to(both)
    for same in (both, tmp_path / "link"):
        message = failed(capsys, "-i", both, "-o", same, "-d", 100, "--modality", "CT")
        assert "the normalised images would replace the originals" in message
    message = failed(capsys, "-i", tmp_path, "-o", out, "-d", 100, "--modality", "CT")
    assert f"{tmp_path}: no images found; expected files CASE_0000.nii.gz" in message
    message = failed(capsys, "-i", tmp_path / "none", "-o", out, "-d", 100, "--modality", "CT")
    assert f"{tmp_path / 'none'}: no images found" in message
    message = failed(capsys, "-i", both, "-o", out, "-d", 100, "--modality", "PET")
    assert "the model has no rule for the modality ['PET']; expected some of ['CT', 'MR']" in message
    table.write_text("case,modality\na,CT\nc,MR\n")
    message = failed(capsys, "-i", both, "-o", out, "-d", 100, "--modalities", table)
    assert "no modality is given for the cases ['b', 'd']; add them to the CSV file" in message
    table.write_text("case,kind\na,CT\n")
    message = failed(capsys, "-i", both, "-o", out, "-d", 100, "--modalities", table)
    assert "columns ['modality'] are missing" in message
    message = failed(capsys, "-i", both, "-o", out, "-m", tmp_path / "none", "--modality", "CT")
    assert "none: no such file; expected the dataset.json" in message
    message = failed(capsys, "-i", both, "-o", out, "-d", 99, "--modality", "CT")
    assert "dataset '99': no such dataset" in message
    assert not out.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "o", "-d", "1", "--modality", "CT"],
        ["-i", "i", "-d", "1", "--modality", "CT"],
        ["-i", "i", "-o", "o", "--modality", "CT"],
        ["-i", "i", "-o", "o", "-d", "1"],
        ["-i", "i", "-o", "o", "-d", "1", "-m", "m", "--modality", "CT"],
        ["-i", "i", "-o", "o", "-d", "1", "--modality", "CT", "--modalities", "f.csv"],
    ],
)
def test_flags_that_must_be_given_once(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        normalize.main(arguments)
    assert caught.value.code == 2


def test_other_formats(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
    (tmp_path / "in").mkdir()
    for channel in range(2):
        sitk.WriteImage(sitk.GetImageFromArray(array + channel), str(tmp_path / "in" / f"a_000{channel}.mha"))
    rules = {"CT": Clip(-400, 400)}
    for expected in ((2, 0), (0, 2)):
        assert normalise_folder(tmp_path / "in", tmp_path / "out", rules, "CT", file_ending=".mha") == expected
    for channel in range(2):
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / f"a_000{channel}.mha")))
        np.testing.assert_array_equal(found, ((np.clip(array + channel, -400, 400) + 400.0) / 800).astype(np.float32))
    with pytest.raises(PartialError, match=r"file ending .png: expected one of \['.nii.gz', '.nii', '.nrrd', '.mha'\]"):
        normalise_folder(tmp_path / "in", tmp_path / "out", rules, "CT", file_ending=".png")


def test_which_files_are_images(tmp_path: Path) -> None:
    names = [
        "a_0000.nii.gz",
        "a_0001.nii.gz",
        "b_1_0000.nii.gz",
        ".c_0000.nii.gz",
        "d.nii.gz",
        "e_0000.mha",
        "f_00000.nii.gz",
    ]
    for name in names:
        (tmp_path / name).touch()
    assert channel_files(tmp_path, ".nii.gz") == {
        "a": {0: tmp_path / "a_0000.nii.gz", 1: tmp_path / "a_0001.nii.gz"},
        "b_1": {0: tmp_path / "b_1_0000.nii.gz"},
    }
    assert channel_files(tmp_path / "none", ".nii.gz") == {}
