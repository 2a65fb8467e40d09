"""Images are read as nnU-Net's own readers read them."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from skimage import io

from nnunet_partial.errors import VolumeError
from nnunet_partial.inference.reading.geometry import lps_affine
from nnunet_partial.inference.reading.image_reader import read_image
from tests.unit.nifti_files import AFFINES, NIFTI_READERS, VOXELS, save
from tests.unit.stock_readers import assert_as_nnunet


@pytest.mark.parametrize("reader", NIFTI_READERS)
@pytest.mark.parametrize("affine", AFFINES)
def test_nifti_in_any_orientation(reader: str, affine: str, tmp_path: Path) -> None:
    image = assert_as_nnunet([save(tmp_path / "a_0000.nii.gz", affine=AFFINES[affine])], reader)
    assert image.data.flags.c_contiguous


@pytest.mark.parametrize("reader", NIFTI_READERS)
@pytest.mark.parametrize("stored", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "f4", "f8", ">i2", ">f4"])
def test_every_voxel_type(reader: str, stored: str, tmp_path: Path) -> None:
    limits = np.array([0, 1, 100, 127]) if stored[-2:] in ("u1", "i1") else np.array([0, 1, 16777217, 2**31 - 1])
    voxels = np.resize(limits, (4, 3, 5)).astype(stored)
    if stored[-2] == "f":
        voxels = (voxels + 0.1).astype(stored)
    if stored[-2:] in ("i2", "u2"):
        voxels = np.resize([0, 5, 32767], (4, 3, 5)).astype(stored)
    image = nib.Nifti1Image(voxels, AFFINES["flipped"], dtype=voxels.dtype)
    if stored[0] == ">":
        image = nib.Nifti1Image(voxels, AFFINES["flipped"], image.header.as_byteswapped(">"))
        assert image.header.endianness == ">"
    nib.save(image, tmp_path / "a.nii")
    assert_as_nnunet([tmp_path / "a.nii"], reader)


@pytest.mark.parametrize("reader", NIFTI_READERS)
@pytest.mark.parametrize(("slope", "intercept"), [(2.5, -1024), (1, -1024), (0.1, 0)])
def test_scaled_nifti(reader: str, slope: float, intercept: float, tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOXELS, AFFINES["oblique"])
    image.header.set_slope_inter(slope, intercept)
    nib.save(image, tmp_path / "scaled.nii.gz")
    content = bytearray(gzip.decompress((tmp_path / "scaled.nii.gz").read_bytes()))
    content[112:120] = np.array([slope, intercept], "<f4").tobytes()
    (tmp_path / "scaled.nii").write_bytes(content)
    read = assert_as_nnunet([tmp_path / "scaled.nii"], reader)
    assert read.data.min() < -1024 or slope == 0.1


@pytest.mark.parametrize("reader", NIFTI_READERS)
@pytest.mark.parametrize(("qform", "sform"), [(0, 0), (1, 0), (0, 2), (1, 4)])
def test_header_with_either_transform(reader: str, qform: int, sform: int, tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOXELS, None)
    image.header.set_zooms((0.8, 0.9, 3))
    image.set_qform(AFFINES["flipped"], code=qform)
    image.set_sform(AFFINES["oblique"], code=sform)
    nib.save(image, tmp_path / "a.nii.gz")
    assert_as_nnunet([tmp_path / "a.nii.gz"], reader)


@pytest.mark.parametrize("reader", NIFTI_READERS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 4), (6, 5, 1), (6, 5, 4, 1)])
def test_axes_of_one_voxel(reader: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.resize(VOXELS, shape))
    if len(shape) == 4 and reader.startswith("Nibabel"):
        with pytest.raises(VolumeError, match="takes 3D images"):
            read_image([path], reader)
    else:
        assert_as_nnunet([path], reader)


@pytest.mark.parametrize("reader", NIFTI_READERS)
def test_unicode_spaces_and_a_second_channel(reader: str, tmp_path: Path) -> None:
    folder = tmp_path / "Bäume und Äpfel 图像"
    folder.mkdir()
    files = [save(folder / f"fall 1_000{c}.nii.gz", VOXELS + c, AFFINES["permuted"]) for c in range(2)]
    assert assert_as_nnunet(files, reader).files == tuple(files)


@pytest.mark.parametrize("reader", NIFTI_READERS)
def test_without_isal_the_same_is_read(reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnunet_partial.gzip_bytes.importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "isal", None)
    assert_as_nnunet([save(tmp_path / "a.nii.gz")], reader)


@pytest.mark.parametrize("reader", NIFTI_READERS)
def test_version_2_of_nifti(reader: str, tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(VOXELS, AFFINES["oblique"]), tmp_path / "a.nii.gz")
    if reader.startswith("Nibabel"):
        assert_as_nnunet([tmp_path / "a.nii.gz"], reader)
    else:
        with pytest.raises(VolumeError, match="cannot be read as an image"):
            read_image([tmp_path / "a.nii.gz"], reader)


@pytest.mark.parametrize("reader", ["SimpleITKIO", "SimpleITKIOWithReorient"])
@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_nrrd_and_metaimage(reader: str, ending: str, tmp_path: Path) -> None:
    image = sitk.ReadImage(str(save(tmp_path / "a.nii.gz", affine=AFFINES["oblique"])))
    sitk.WriteImage(image, str(tmp_path / f"a{ending}"), True)
    assert_as_nnunet([tmp_path / f"a{ending}"], reader)


def test_channels_in_a_4d_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a_0000.nii.gz", np.stack([VOXELS, VOXELS + 1, VOXELS + 2], -1), AFFINES["flipped"])
    expected, properties = SimpleITKIO().read_images([str(path)])
    image = read_image([path], "SimpleITKIO", channels=3, dimensions=3)
    np.testing.assert_array_equal(image.data, expected)
    assert image.spacing == tuple(properties["spacing"])
    one = read_image([save(tmp_path / "b_0000.nii.gz", VOXELS, AFFINES["flipped"])], "SimpleITKIO")
    assert image.geometry == one.geometry
    for reader in ("NibabelIO", "NibabelIOWithReorient", "SimpleITKIOWithReorient"):
        with pytest.raises(VolumeError, match="3D image"):
            read_image([path], reader)


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_flat_image_of_simpleitk(ending: str, tmp_path: Path) -> None:
    flat = sitk.GetImageFromArray(VOXELS[:, :, 0])
    flat.SetSpacing((0.5, 0.75))
    sitk.WriteImage(flat, str(tmp_path / f"a{ending}"))
    image = assert_as_nnunet([tmp_path / f"a{ending}"], "SimpleITKIO")
    assert image.data.shape == (1, 1, 6, 5)
    assert image.spacing == (0.75 * 999, 0.75, 0.5)
    with pytest.raises(VolumeError, match="takes 3D images, found a 2D one"):
        read_image([tmp_path / f"a{ending}"], "SimpleITKIO", dimensions=3)


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3), (7, 5, 4), (1, 1)])
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_pictures(shape: tuple[int, ...], ending: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, shape).astype(np.uint8)
    io.imsave(tmp_path / f"a_0000{ending}", pixels, check_contrast=False)
    image = assert_as_nnunet([tmp_path / f"a_0000{ending}"], "NaturalImage2DIO")
    assert image.spacing == (999, 1, 1)
    assert image.flat
    with pytest.raises(VolumeError, match="3D"):
        read_image([tmp_path / f"a_0000{ending}"], "NaturalImage2DIO", dimensions=3)


def test_tiff_stack_with_and_without_its_spacing(tmp_path: Path) -> None:
    for channel in range(2):
        tifffile.imwrite(tmp_path / f"a_000{channel}.tif", VOXELS.astype(np.uint16) + channel)
    files = [tmp_path / "a_0000.tif", tmp_path / "a_0001.tif"]
    with pytest.warns(UserWarning, match=r"no a\.json with its spacing"):
        image = assert_as_nnunet(files, "Tiff3DIO")
    assert image.spacing == (1, 1, 1)
    (tmp_path / "a.json").write_text(json.dumps({"spacing": [3, 0.5, 0.25]}))
    image = assert_as_nnunet(files, "Tiff3DIO")
    np.testing.assert_array_equal(lps_affine(image.geometry), np.diag([0.25, 0.5, 3, 1]))
    for content in ("{}", "[", '{"spacing": [1, 2]}', '{"spacing": 3}', '{"spacing": ["a", 1, 1]}', "[1]"):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(VolumeError, match=r"a\.json: expected"):
            read_image(files, "Tiff3DIO")
    (tmp_path / "a.json").write_text('{"spacing": [0, 1, 1]}')
    with pytest.raises(VolumeError, match="voxel sizes above 0"):
        read_image(files, "Tiff3DIO")
    tifffile.imwrite(tmp_path / "flat.tif", VOXELS[0])
    with pytest.raises(VolumeError, match="expected a TIFF stack"):
        read_image([tmp_path / "flat.tif"], "Tiff3DIO")


@pytest.mark.parametrize("affine", AFFINES)
def test_both_libraries_place_voxels_alike(affine: str, tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", affine=AFFINES[affine])
    places = [lps_affine(read_image([path], reader).geometry) for reader in NIFTI_READERS]
    np.testing.assert_allclose(places[0], places[2], atol=1e-5)
    np.testing.assert_allclose(places[1], places[3], atol=1e-5)


# refused


def test_real_ct(tmp_path: Path) -> None:
    path = Path(__file__).parents[3] / "shared" / "data" / "abdomen_a" / "ct.nii.gz"
    if not path.is_file():
        pytest.skip("the real volumes are not there")
    for reader in NIFTI_READERS:
        assert_as_nnunet([path], reader)
