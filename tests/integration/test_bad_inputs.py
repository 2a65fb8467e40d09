"""Cases that cannot be predicted: each is named, the others are done, the status says so, and no file is left half."""

from __future__ import annotations

import errno
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.cli.predict import main
from tests.unit.small_disk import files_up_to
from tests.unit.tiny_models import configuration, make_dataset_json, make_plans, write_model

SHAPE = (12, 10, 8)
AFFINE = np.diag([1.3, 1.5, 3.0, 1.0])
GOOD = ("a", "z")
"""One before the bad case and one after it."""

Change = Callable[[Path], None]


def write_case(images: Path, case: str, shape: tuple[int, ...] = SHAPE, affine: np.ndarray = AFFINE) -> None:
    rng = np.random.default_rng(sum(map(ord, case)))
    for channel in range(2):
        voxels = rng.normal(50, 300, shape).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, affine), images / f"{case}_{channel:04d}.nii.gz")


def in_bytes(change: Callable[[bytearray], None], packed: bool = False) -> Change:
    """Changes the second channel's file, or what is packed in it."""

    def act(images: Path) -> None:
        path = images / "bad_0001.nii.gz"
        content = bytearray(path.read_bytes() if packed else gzip.decompress(path.read_bytes()))
        change(content)
        path.write_bytes(content if packed else gzip.compress(content))

    return act


def voxels(value: float) -> Change:
    def change(content: bytearray) -> None:
        content[-4:] = np.array([value], "<f4").tobytes()

    return in_bytes(change)


def sizes(*mm: float) -> Change:
    def change(content: bytearray) -> None:
        content[80:92] = np.array(mm, "<f4").tobytes()

    def act(images: Path) -> None:
        for channel in ("0000", "0001"):  # alike, or they would be refused for that
            path = images / f"bad_{channel}.nii.gz"
            content = bytearray(gzip.decompress(path.read_bytes()))
            change(content)
            path.write_bytes(gzip.compress(content))

    return act


def cut(content: bytearray) -> None:
    del content[len(content) // 2 :]


def damage(content: bytearray) -> None:
    content[len(content) // 2] ^= 0x10


def emptied(content: bytearray) -> None:
    content.clear()


def axis_without_voxels(content: bytearray) -> None:
    content[44:46] = bytes(2)


def shape(*voxels: int) -> Change:
    return lambda images: write_case(images, "bad", voxels, AFFINE)


def sheared(images: Path) -> None:
    affine = AFFINE.copy()
    affine[0, 1] = 0.6
    write_case(images, "bad", affine=affine)


def without_channel(images: Path) -> None:
    (images / "bad_0001.nii.gz").unlink()


def another_grid(images: Path) -> None:
    (images / "bad_0001.nii.gz").unlink()
    nib.save(nib.Nifti1Image(np.zeros((12, 10, 9), np.float32), AFFINE), images / "bad_0001.nii.gz")


def link_to_nowhere(images: Path) -> None:
    without_channel(images)
    (images / "bad_0001.nii.gz").symlink_to("nowhere")


BAD: dict[str, tuple[Change, str]] = {
    "missing channel": (without_channel, "bad: the model takes 2 channels; missing 0001"),
    "link to nowhere": (link_to_nowhere, "bad_0001.nii.gz: no such file"),
    "NaN": (voxels(np.nan), "bad_0001.nii.gz: expected numbers, found 1 NaN"),
    "infinite": (voxels(np.inf), "bad_0001.nii.gz: expected numbers, found 0 NaN and 1 infinite"),
    "0 bytes": (in_bytes(emptied, packed=True), "bad_0001.nii.gz: the file is empty (0 bytes)"),
    "0 voxels": (in_bytes(axis_without_voxels), "bad_0001.nii.gz: expected voxels along every axis"),
    "2D": (shape(12, 10), "bad_0000.nii.gz: the model takes 3D images, found a 2D one"),
    "5D": (shape(3, 3, 3, 2, 2), "bad_0000.nii.gz: "),
    "another grid": (another_grid, "bad_0001.nii.gz: its shape (z, y, x) is (9"),
    "voxels without size": (sizes(1.3, 0, 3), "bad_0000.nii.gz: expected voxel sizes above 0"),
    "voxels of negative size": (sizes(1.3, -1.5, 3), "bad_0000.nii.gz: expected voxel sizes above 0"),
    "voxels of no size": (sizes(1.3, np.nan, 3), "bad_0000.nii.gz: expected voxel sizes above 0"),
    "voxels of kilometres": (sizes(1e9, 1.5, 3), "bad: voxel size: found 1.5 x 3 x 1e+09 mm"),
    "voxels of nanometres": (sizes(1e-6, 1e-6, 1e-6), "leave no voxel at the network's"),
    "gzip cut short": (in_bytes(cut, packed=True), "bad_0001.nii.gz: "),
    "gzip damaged": (in_bytes(damage, packed=True), "bad_0001.nii.gz: "),
    "voxels cut short": (in_bytes(cut), "bad_0001.nii.gz: the file is cut short"),
    "no image": (in_bytes(lambda content: content.__setitem__(slice(None), b"text")), "not a NIfTI image"),
    "sheared": (sheared, "bad_0000.nii.gz: the axes of the image are not at right angles"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plans = make_plans(**{"3d_fullres": configuration(channels=2)})
    content = make_dataset_json(channels=("CT", "MR"))
    return write_model(tmp_path_factory.mktemp("model") / "model", plans, content)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for case in (*GOOD, "bad"):
        write_case(folder, case)
    return folder


def predict(model: Path, images: Path, output: Path, *more: str) -> int:
    words = ["-i", str(images), "-o", str(output), "-m", str(model), "-device", "cpu", "--mode", "fast", "-f", "0"]
    return main([*words, "--threads", "1", *more])


def listing(folder: Path) -> list[str]:
    """All that lies in a folder and below, hidden files too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


FILES = ["a.nii.gz", "dataset.json", "prediction.json", "z.nii.gz"]


def test_the_cases_are_good_before(model: Path, images: Path, tmp_path: Path) -> None:
    assert predict(model, images, tmp_path / "out") == 0
    assert listing(tmp_path / "out") == sorted([*FILES, "bad.nii.gz"])


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_an_image_that_is_bad(
    change: Change, message: str, model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(images)
    assert predict(model, images, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "1 of 3 cases could not be predicted" in error
    assert "\n  - bad: " in error
    assert message in error
    assert "Traceback" not in error
    assert listing(tmp_path / "out") == FILES


@pytest.mark.parametrize(
    ("kind", "good"),
    [
        ("labels", [f"{case}.nii" for case in GOOD]),
        ("classes", [name for case in GOOD for name in (case, f"{case}/liver.nii", f"{case}/spleen.nii")]),
    ],
)
def test_a_disk_that_is_full(
    kind: str, good: list[str], model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # files that are not packed have a size that is known
    uncompressed = tmp_path / "model"
    shutil.copytree(model, uncompressed)
    content = make_dataset_json(channels=("CT", "MR"), file_ending=".nii")
    (uncompressed / "dataset.json").write_text(json.dumps(content))
    write_case(images, "bad", (24, 24, 20))
    for path in list(images.iterdir()):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    with files_up_to(4096):
        assert predict(uncompressed, images, tmp_path / "out", "--output", kind) == 1
    error = capsys.readouterr().err
    assert "1 of 3 cases could not be predicted" in error
    assert "\n  - bad: " in error
    assert "cannot be written (File too large)" in error
    assert listing(tmp_path / "out") == sorted(["dataset.json", "prediction.json", *good])
    assert predict(uncompressed, images, tmp_path / "out", "--continue_prediction", "--output", kind) == 0
    assert "2 done before, 1 to predict" in capsys.readouterr().out


def test_a_file_that_may_not_be_written(
    model: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = Path.open

    def denied(path: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
        if path.name.endswith(".bad.nii.gz") and "w" in mode:  # root may write anywhere
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, mode, *more, **options)

    monkeypatch.setattr(Path, "open", denied)
    assert predict(model, images, tmp_path / "out") == 1
    assert "bad.nii.gz: cannot be written (Permission denied)" in capsys.readouterr().err
    assert listing(tmp_path / "out") == FILES


def test_a_folder_in_the_place_of_an_output(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "bad.nii.gz" / "folder").mkdir(parents=True)
    assert predict(model, images, tmp_path / "out") == 1
    assert "bad.nii.gz: cannot be written (Is a directory)" in capsys.readouterr().err
    assert listing(tmp_path / "out") == sorted([*FILES, "bad.nii.gz", "bad.nii.gz/folder"])


def test_folders_that_may_not_be_read_or_made(
    model: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    assert predict(model, images, tmp_path / "file" / "out") == 1
    assert "out: the output folder cannot be written (Not a directory)" in capsys.readouterr().err
    real = Path.iterdir

    def denied(path: Path) -> Any:
        if path == images:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "iterdir", denied)
    assert predict(model, images, tmp_path / "out") == 1
    assert f"error: {images}: cannot be read (Permission denied)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
