"""Label maps on a disk that is full: the system's own words, and nothing left behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_partial.errors import VolumeError
from nnunet_partial.inference.reading.image_reader import Image, read_image
from nnunet_partial.inference.writing import label_writer
from nnunet_partial.inference.writing.label_writer import write_labels
from tests.unit.small_disk import files_up_to

RANDOM = np.random.default_rng(0)


def image_of(path: Path, reader: str = "SimpleITKIO") -> Image:
    sitk.WriteImage(sitk.GetImageFromArray(RANDOM.integers(0, 99, (20, 20, 20)).astype(np.int16)), str(path))
    return read_image([path], reader)


@pytest.mark.parametrize("size", [0, 100, 400, 5000])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_files_that_are_cut_short(ending: str, size: int, tmp_path: Path) -> None:
    image = image_of(tmp_path / f"a{ending}")
    labels = RANDOM.integers(0, 200, (20, 20, 20)).astype(np.uint8)
    target = tmp_path / "out" / f"x{ending}"
    with (
        files_up_to(size),
        pytest.raises(VolumeError, match=rf"x{ending}: cannot be written \(File too large\)$"),
    ):
        write_labels(labels, image, target)
    assert list(target.parent.iterdir()) == []
    write_labels(labels, image, target)
    assert [path.name for path in target.parent.iterdir()] == [f"x{ending}"]


def test_nibabels_files_that_are_cut_short(tmp_path: Path) -> None:
    image = image_of(tmp_path / "a.nii.gz", "NibabelIO")
    with files_up_to(100), pytest.raises(VolumeError, match="File too large"):
        write_labels(RANDOM.integers(0, 200, (20, 20, 20)), image, tmp_path / "out" / "x.nii")
    assert list((tmp_path / "out").iterdir()) == []


def cut_short(_: Any, path: str, *__: Any) -> None:
    """A writer of SimpleITK's that says nothing."""
    Path(path).write_bytes(bytes(100))


def no_space(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_header_that_is_cut_short_without_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, labels = image_of(tmp_path / "a.nii.gz"), np.zeros((20, 20, 20), np.uint8)
    monkeypatch.setattr(sitk, "WriteImage", cut_short)
    target = tmp_path / "out" / "x.nii.gz"
    with pytest.raises(VolumeError, match="SimpleITK wrote 100 bytes of a header"):  # there is room again
        write_labels(labels, image, target)
    monkeypatch.setattr(label_writer.os, "fsync", no_space)
    with pytest.raises(VolumeError, match=r"x\.nii\.gz: cannot be written \(No space left on device\)"):
        write_labels(labels, image, target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_voxels_that_were_lost_without_an_error(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, labels, write = image_of(tmp_path / f"a{ending}"), np.ones((20, 20, 20), np.uint8), sitk.WriteImage
    monkeypatch.setattr(sitk, "WriteImage", lambda image, *more: write(image * 0, *more))
    with pytest.raises(VolumeError, match="reads back as something else"):
        write_labels(labels, image, tmp_path / "out" / f"x{ending}")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_the_disk_is_not_to_blame_for_keeps_simpleitks_words(tmp_path: Path) -> None:
    image = image_of(tmp_path / "a.mha")
    with pytest.raises(VolumeError, match="is its ending that of an image format"):
        write_labels(np.zeros((20, 20, 20), np.uint8), image, tmp_path / "out" / "x.odd")
    assert list((tmp_path / "out").iterdir()) == []
