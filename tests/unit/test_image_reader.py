"""Images are read as nnU-Net's own readers read them, and damaged ones are refused."""

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
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from skimage import io

from nnunet_partial.errors import PartialError, VolumeError
from nnunet_partial.inference.reading.geometry import ItkGeometry, NibabelGeometry, lps_affine
from nnunet_partial.inference.reading.image_reader import READERS, Image, read_image

STOCK = {
    reader.__name__: reader
    for reader in (SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient, NaturalImage2DIO, Tiff3DIO)
}
NIFTI_READERS = ["SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"]
TURN = np.linalg.qr(np.array([[1, 0.2, 0.1], [-0.1, 1, 0.3], [0.2, -0.2, 1]]))[0]
AFFINES = {
    "plain": np.diag([0.8, 0.9, 3, 1.0]),
    "flipped": np.array([[-0.8, 0, 0, 100], [0, -0.8, 0, 50], [0, 0, 5, -20], [0, 0, 0, 1.0]]),
    "permuted": np.array([[0, 0, 3, 1], [-0.7, 0, 0, 2], [0, 0.9, 0, 3], [0, 0, 0, 1.0]]),
    "oblique": np.block([[TURN * [0.8, 0.9, 3], np.array([[10], [-20], [30.5]])], [np.array([0, 0, 0, 1.0])]]),
}
VOXELS = np.random.default_rng(0).integers(-1000, 1000, (6, 5, 4)).astype(np.int16)


def save(path: Path, voxels: np.ndarray = VOXELS, affine: np.ndarray = AFFINES["plain"]) -> Path:
    image = nib.Nifti1Image(voxels, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    nib.save(image, path)
    return path


def assert_as_nnunet(files: list[Path], reader: str) -> Image:
    expected, properties = STOCK[reader]().read_images([str(file) for file in files])
    image = read_image(files, reader)
    assert image.data.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(image.data, expected)
    assert image.spacing == tuple(properties["spacing"])
    if isinstance(image.geometry, ItkGeometry):
        assert image.geometry.spacing_mm == properties["sitk_stuff"]["spacing"]
        assert image.geometry.origin_mm == properties["sitk_stuff"]["origin"]
        assert image.geometry.direction == properties["sitk_stuff"]["direction"]
        assert image.geometry.original_orientation == properties["sitk_stuff"].get("original_orientation")
    if isinstance(image.geometry, NibabelGeometry):
        np.testing.assert_array_equal(image.geometry.affine, properties["nibabel_stuff"]["original_affine"])
        if reader.endswith("Reorient"):
            turned = image.geometry.reoriented_affine
            np.testing.assert_array_equal(turned, properties["nibabel_stuff"]["reoriented_affine"])
    return image


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


def test_real_ct(tmp_path: Path) -> None:
    path = Path(__file__).parents[3] / "shared" / "data" / "abdomen_a" / "ct.nii.gz"
    if not path.is_file():
        pytest.skip("the real volumes are not there")
    for reader in NIFTI_READERS:
        assert_as_nnunet([path], reader)
