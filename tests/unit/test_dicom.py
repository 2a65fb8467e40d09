"""DICOM series as volumes."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_partial.dicom import holds_dicom
from nnunet_partial.errors import VolumeError
from nnunet_partial.inference.reading.geometry import lps_affine
from nnunet_partial.inference.reading.image_reader import read_image
from nnunet_partial.inference.writing.label_writer import output_ending, write_labels

VOXELS = np.random.default_rng(0).integers(-1000, 1000, (5, 7, 6)).astype(np.int16)
TILT = np.deg2rad(20)
UPRIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
TURNED = (1.0, 0.0, 0.0, 0.0, float(np.cos(TILT)), float(np.sin(TILT)))


def write_series(
    folder: Path,
    positions: Sequence[Sequence[float]],
    orientations: Sequence[Sequence[float]] | None = None,
    series: str = "1.2.3.4",
    name: str = "abdomen",
    order: Callable[[int], int] = lambda index: index,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for index, position in enumerate(positions):
        piece = sitk.GetImageFromArray(VOXELS[index % len(VOXELS)])
        piece.SetSpacing((0.75, 0.5))
        orientation = orientations[index] if orientations else UPRIGHT
        tags = {
            "0008|0060": "CT",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"{series}.{index + 1}",
            "0020|000d": "1.2.3",
            "0020|000e": series,
            "0008|103e": name,
            "0020|0013": str(index + 1),
            "0020|0032": "\\".join(f"{value:.6f}" for value in position),
            "0020|0037": "\\".join(f"{value:.6f}" for value in orientation),
            "0028|1052": "-1024",
            "0028|1053": "1",
        }
        for key, value in tags.items():
            piece.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{series}_{order(index):03d}.dcm"))
        writer.Execute(piece)
    return folder


def steps(count: int = 5, step: float = 2.5) -> list[tuple[float, float, float]]:
    return [(-10.0, 20.0, 30.0 + step * index) for index in range(count)]


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
def test_series_is_one_volume_in_the_order_of_its_slices(reader: str, tmp_path: Path) -> None:
    folder = write_series(tmp_path / "Fall ä 1" / "series", steps(), order=lambda index: (3 * index) % 5)
    (folder / "notes.txt").write_text("from the archive")
    image = read_image([folder.parent], reader, channels=1, dimensions=3)
    np.testing.assert_array_equal(image.data[0], VOXELS)
    assert image.spacing == (2.5, 0.5, 0.75)
    assert image.from_dicom
    expected = np.array([[0.75, 0, 0, -10], [0, 0.5, 0, 20], [0, 0, 2.5, 30], [0, 0, 0, 1]])
    np.testing.assert_allclose(lps_affine(image.geometry), expected)


@pytest.mark.parametrize("reader", ["SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"])
def test_series_equals_its_nifti_file(reader: str, tmp_path: Path) -> None:
    normal = np.cross(TURNED[:3], TURNED[3:])
    positions = [tuple(np.array([-10, 20, 30]) + 2.5 * index * normal) for index in range(5)]
    folder = write_series(tmp_path / "case", positions, [TURNED] * 5)
    image = read_image([folder], reader)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    sitk.WriteImage(sitk.ReadImage(names), str(tmp_path / "case.nii.gz"))
    same = read_image([tmp_path / "case.nii.gz"], reader)
    np.testing.assert_array_equal(image.data, same.data)
    np.testing.assert_allclose(image.spacing, same.spacing, rtol=1e-5)
    np.testing.assert_allclose(lps_affine(image.geometry), lps_affine(same.geometry), atol=1e-4)
    labels = np.random.default_rng(1).integers(0, 5, image.data.shape[1:]).astype(np.uint8)
    for name, one in (("dicom", image), ("nifti", same)):
        write_labels(labels, one, tmp_path / f"{name}{output_ending(one, '.nii.gz')}")
    a, b = (sitk.ReadImage(str(tmp_path / f"{name}.nii.gz")) for name in ("dicom", "nifti"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(a), sitk.GetArrayFromImage(b))
    np.testing.assert_allclose(a.GetOrigin(), b.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(a.GetDirection(), b.GetDirection(), atol=1e-5)


def test_a_single_slice(tmp_path: Path) -> None:
    image = read_image([write_series(tmp_path / "case", steps(1))], "SimpleITKIO")
    np.testing.assert_array_equal(image.data[0], VOXELS[:1])


def test_two_series_are_listed(tmp_path: Path) -> None:
    write_series(tmp_path / "case" / "a", steps(5), series="1.2.3.4", name="portal")
    write_series(tmp_path / "case" / "b", steps(3), series="1.2.3.5", name="scout")
    with pytest.raises(VolumeError, match="found 2; put") as error:
        read_image([tmp_path / "case"], "SimpleITKIO")
    assert "- 1.2.3.4: 5 files (portal)" in str(error.value)
    assert "- 1.2.3.5: 3 files (scout)" in str(error.value)
    assert len(read_image([tmp_path / "case" / "a"], "SimpleITKIO").data[0]) == 5


def test_missing_slice_and_uneven_spacing(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "case", steps(6))
    (folder / "1.2.3.4_002.dcm").unlink()
    with pytest.raises(
        VolumeError, match=r"2\.5 mm apart mostly, but 5 mm after the slice at 32\.5 mm \(1 such gaps\)"
    ):
        read_image([folder], "SimpleITKIO")
    almost = [(x, y, z + 0.002 * (-1) ** index) for index, (x, y, z) in enumerate(steps(5))]
    assert read_image([write_series(tmp_path / "rounded", almost)], "SimpleITKIO").data.shape == (1, 5, 7, 6)


def test_two_slices_in_one_place(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "case", [position for position in steps(3) for _ in range(2)])
    with pytest.raises(VolumeError, match=r"3 of 6 slices .* lie where another one lies"):
        read_image([folder], "SimpleITKIO")


def test_gantry_tilt(tmp_path: Path) -> None:
    tilted = write_series(tmp_path / "tilted", steps(5), [TURNED] * 5)
    with pytest.raises(VolumeError, match="gantry tilt"):
        read_image([tilted], "SimpleITKIO")


def test_slices_of_several_orientations(tmp_path: Path) -> None:
    mixed = write_series(tmp_path / "mixed", steps(5), [UPRIGHT] * 4 + [TURNED])
    with pytest.raises(VolumeError, match="turned against each other"):
        read_image([mixed], "SimpleITKIO")


def test_damaged_slice(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "case", steps(5))
    for last in ("1.2.3.4_002.dcm", "1.2.3.4_004.dcm"):  # without the latter the others would be an even stack
        content = (folder / last).read_bytes()
        (folder / last).write_bytes(content[:-40])
        with pytest.raises(VolumeError, match=rf"1 DICOM file.* such as {last}"):
            read_image([folder], "SimpleITKIO")
        (folder / last).write_bytes(content)


def test_slices_of_different_size(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "case", steps(5))
    other = sitk.ReadImage(str(folder / "1.2.3.4_002.dcm"))
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    cut = other[:3]
    for key in other.GetMetaDataKeys():
        cut.SetMetaData(key, other.GetMetaData(key))
    writer.SetFileName(str(folder / "1.2.3.4_002.dcm"))
    writer.Execute(cut)
    with pytest.raises(VolumeError, match="5 files cannot be read"):
        read_image([folder], "SimpleITKIO")


def test_folders_without_dicom(tmp_path: Path) -> None:
    assert not holds_dicom(tmp_path)
    (tmp_path / "short.dcm").write_bytes(b"DICM")
    assert not holds_dicom(tmp_path)
    with pytest.raises(VolumeError, match="found no DICOM image"):
        read_image([tmp_path], "SimpleITKIO")
    write_series(tmp_path / "case", steps(1))
    assert holds_dicom(tmp_path)
    shutil.copy(tmp_path / "case" / "1.2.3.4_000.dcm", tmp_path / "DICOMDIR")
    shutil.rmtree(tmp_path / "case")
    assert not holds_dicom(tmp_path)


def test_what_cannot_be_read_hides_no_dicom(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("nowhere")
    with pytest.raises(VolumeError, match=r"a: cannot be read \(No such file"):
        holds_dicom(tmp_path)
    write_series(tmp_path / "z", steps(1))
    assert holds_dicom(tmp_path)
    # but a series is read whole or not at all
    with pytest.raises(VolumeError, match=r"a: cannot be read \(No such file"):
        read_image([tmp_path], "SimpleITKIO")


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "case" / "open", steps(1))
    (tmp_path / "case" / "closed").mkdir()
    real = os.scandir

    def scandir(path: str) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr("nnunet_partial.dicom.os.scandir", scandir)
    assert holds_dicom(tmp_path / "case")
    for look in (
        lambda: holds_dicom(tmp_path / "case" / "closed"),
        lambda: read_image([tmp_path / "case"], "NibabelIO"),
    ):
        with pytest.raises(VolumeError, match=r"closed: cannot be read \(Permission denied\)"):
            look()


@pytest.mark.parametrize("number", [2, 4])
def test_a_slice_that_was_emptied(number: int, tmp_path: Path) -> None:
    folder = write_series(tmp_path / "case", steps(5))
    (folder / "notes.txt").touch()
    assert read_image([folder], "SimpleITKIO").data.shape[1] == 5
    (folder / f"1.2.3.4_{number:03d}.dcm").write_bytes(b"")
    with pytest.raises(VolumeError, match=rf"1 DICOM file\(s\) cannot be read, such as 1\.2\.3\.4_00{number}\.dcm"):
        read_image([folder], "SimpleITKIO")
