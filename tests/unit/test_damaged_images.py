"""Damaged and impossible images are refused, each with a message that names the file."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from nnunet_partial.errors import PartialError, VolumeError
from nnunet_partial.inference.reading.geometry import lps_affine
from nnunet_partial.inference.reading.image_reader import READERS, read_image
from tests.unit.nifti_files import AFFINES, NIFTI_READERS, VOXELS, save
from tests.unit.stock_readers import assert_as_nnunet


@pytest.mark.parametrize("reader", NIFTI_READERS)
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.97])
def test_file_cut_short(reader: str, keep: float, tmp_path: Path) -> None:
    path = save(tmp_path / "whole.nii.gz", np.resize(VOXELS, (30, 30, 30)))
    unpacked = gzip.decompress(path.read_bytes())
    for name, content in (("a.nii.gz", path.read_bytes()), ("a.nii", unpacked)):
        (tmp_path / name).write_bytes(content[: int(keep * len(content))])
        with pytest.raises(VolumeError, match=r"cut short|0 bytes|not a NIfTI") as error:
            read_image([tmp_path / name], reader)
        assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("reader", NIFTI_READERS)
@pytest.mark.parametrize("isal", [True, False])
def test_flipped_bit(reader: str, isal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if isal:
        pytest.importorskip("isal")
    else:
        monkeypatch.setattr("nnunet_partial.gzip_bytes.importlib.util.find_spec", lambda name: None)
    path = save(tmp_path / "a.nii.gz", np.resize(VOXELS, (30, 30, 30)))
    content = bytearray(path.read_bytes())
    for position in (len(content) // 2, len(content) - 6):
        damaged = content.copy()
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(VolumeError, match="damaged or cut short"):
            read_image([path], reader)


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_other_formats_cut_short(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(np.resize(VOXELS, (30, 30, 30))), str(path), True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VolumeError, match="damaged or cut short"):
        read_image([path], "SimpleITKIO")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".png", ".tif"])
def test_not_an_image(reader: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"letter{ending}"
    for content in (b"Dear colleague, " * 100, gzip.compress(b"Dear colleague, " * 100), b"x"):
        path.write_bytes(content)
        with pytest.raises(VolumeError, match="letter"):
            read_image([path], reader)


@pytest.mark.parametrize("reader", READERS)
def test_missing_empty_and_folder(reader: str, tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="no such file"):
        read_image([tmp_path / "a_0000.nii.gz"], reader)
    (tmp_path / "a_0000.nii.gz").touch()
    with pytest.raises(VolumeError, match="0 bytes"):
        read_image([tmp_path / "a_0000.nii.gz"], reader)
    with pytest.raises(VolumeError, match="DICOM"):
        read_image([tmp_path], reader)
    with pytest.raises(VolumeError, match="at least one"):
        read_image([], reader)


def test_unknown_reader(tmp_path: Path) -> None:
    with pytest.raises(PartialError, match=r"'MyIO'.*SimpleITKIO"):
        read_image([save(tmp_path / "a.nii.gz")], "MyIO")


@pytest.mark.parametrize("reader", NIFTI_READERS)
@pytest.mark.parametrize("scaled", [False, True])
def test_nan_and_infinite_voxels_are_counted(reader: str, scaled: bool, tmp_path: Path) -> None:
    voxels = VOXELS.astype(np.float32)
    voxels[0, 0, :3] = np.nan
    voxels[1, 1, 1] = -np.inf
    image = nib.Nifti1Image(voxels, AFFINES["plain"])
    nib.save(image, tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    if scaled:
        content[112:120] = np.array([2, 1], "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(VolumeError, match="found 3 NaN and 1 infinite voxels"):
        read_image([tmp_path / "a.nii"], reader)


def test_nan_in_other_formats(tmp_path: Path) -> None:
    voxels = VOXELS.astype(np.float32)
    voxels[0, 0, 0] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / "a.mha"))
    tifffile.imwrite(tmp_path / "a_0000.tif", voxels)
    (tmp_path / "a.json").write_text('{"spacing": [1, 1, 1]}')
    for name, reader in (("a.mha", "SimpleITKIO"), ("a_0000.tif", "Tiff3DIO")):
        with pytest.raises(VolumeError, match="found 1 NaN and 0 infinite voxels"):
            read_image([tmp_path / name], reader)


@pytest.mark.parametrize("reader", NIFTI_READERS)
def test_axis_without_voxels_and_voxels_without_size(reader: str, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 0, 3), np.int16), np.eye(4)), tmp_path / "empty.nii.gz")
    with pytest.raises(VolumeError, match=r"found shape \(4, 0, 3\)"):
        read_image([tmp_path / "empty.nii.gz"], reader)
    for size in (0.0, np.nan):
        image = nib.Nifti1Image(VOXELS, np.eye(4))
        image.header["pixdim"][2] = size
        content = bytearray(image.to_bytes())
        content[84:88] = np.array([size], "<f4").tobytes()
        (tmp_path / "size.nii").write_bytes(content)
        with pytest.raises(VolumeError, match="voxel sizes above 0"):
            read_image([tmp_path / "size.nii"], reader)


@pytest.mark.parametrize("sizes", [(-1, 2, 3), (1, 2, -3), (-1, -2, -3)])
@pytest.mark.parametrize("reader", NIFTI_READERS)
def test_negative_voxel_sizes_of_nifti_are_refused_by_simpleitk_only(
    reader: str, sizes: tuple[int, ...], tmp_path: Path
) -> None:
    content = bytearray(nib.Nifti1Image(VOXELS, np.diag([1, 2, 3, 1])).to_bytes())
    content[80:92] = np.array(sizes, "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    if reader.startswith("Simple"):
        with pytest.raises(VolumeError, match=r"a\.nii: expected voxel sizes above 0.*mend pixdim"):
            read_image([tmp_path / "a.nii"], reader)
    else:
        assert read_image([tmp_path / "a.nii"], reader).spacing == (3, 2, 1)


@pytest.mark.parametrize("reader", ["SimpleITKIO", "SimpleITKIOWithReorient"])
def test_voxels_without_size_in_other_formats(reader: str, tmp_path: Path) -> None:
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nOffset = 0 0 0\n"
        "ElementSpacing = 1 0 3\nDimSize = 3 4 5\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    (tmp_path / "a.mha").write_bytes(header.encode() + bytes(120))
    with pytest.raises(VolumeError, match=r"a\.mha: expected voxel sizes above 0; mend the header"):
        read_image([tmp_path / "a.mha"], reader)


def test_sheared_image_is_refused_by_simpleitk_only(tmp_path: Path) -> None:
    sheared = np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    nib.save(nib.Nifti1Image(VOXELS, sheared), tmp_path / "a.nii.gz")
    for reader in ("SimpleITKIO", "SimpleITKIOWithReorient"):
        with pytest.raises(VolumeError, match=r"right angles.*resample"):
            read_image([tmp_path / "a.nii.gz"], reader)
    assert_as_nnunet([tmp_path / "a.nii.gz"], "NibabelIO")


@pytest.mark.parametrize("reader", NIFTI_READERS)
def test_channels_that_do_not_fit_together(reader: str, tmp_path: Path) -> None:
    first = save(tmp_path / "a_0000.nii.gz")
    other = save(tmp_path / "a_0001.nii.gz", VOXELS[:-1])
    with pytest.raises(VolumeError, match=r"a_0001.*shape.*\(4.0, 5.0, 5.0\), that of a_0000.*\(4.0, 5.0, 6.0\)"):
        read_image([first, other], reader)
    save(other, affine=np.diag([0.8, 0.9, 2.5, 1]))
    with pytest.raises(VolumeError, match=r"spacing.*\(2.5, 0.9, 0.8\)"):
        read_image([first, other], reader)
    moved = AFFINES["plain"].copy()
    moved[:3, 3] = 40
    save(other, VOXELS + 1, moved)
    with pytest.warns(UserWarning, match="origin or direction"):
        image = read_image([first, other], reader)
    np.testing.assert_array_equal(lps_affine(image.geometry), lps_affine(read_image([first], reader).geometry))
    assert image.data.shape == (2, 4, 5, 6)


def test_number_of_channels(tmp_path: Path) -> None:
    files = [save(tmp_path / f"a_000{c}.nii.gz") for c in range(2)]
    assert len(read_image(files, "SimpleITKIO", channels=2, dimensions=3).data) == 2
    for wrong in (1, 3):
        with pytest.raises(VolumeError, match=f"takes {wrong} channels, found 2 in 2 files"):
            read_image(files, "SimpleITKIO", channels=wrong)


def test_colour_volumes_and_odd_pictures(tmp_path: Path) -> None:
    colours = sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True)
    sitk.WriteImage(colours, str(tmp_path / "a.mha"))
    with pytest.raises(VolumeError, match="3 numbers in 3 dimensions"):
        read_image([tmp_path / "a.mha"], "SimpleITKIO")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((6, 7, 9), np.uint8))
    with pytest.raises(VolumeError, match="grey, RGB or RGBA"):
        read_image([tmp_path / "a.tif"], "NaturalImage2DIO")
