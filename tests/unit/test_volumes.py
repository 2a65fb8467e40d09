"""Reading and writing images and label maps."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_partial.errors import VolumeError
from nnunet_partial.volumes import (
    Geometry,
    geometry_difference,
    read_geometry,
    read_label_map,
    read_volume,
    value_counts,
    write_label_map,
)

AFFINE = np.array([[-0.8, 0, 0, 100], [0, 0, 3, -50], [0, -0.9, 0, 20], [0, 0, 0, 1]], float)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    array = np.random.default_rng(0).integers(-1000, 1000, (8, 7, 6)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, AFFINE), tmp_path / "image.nii.gz")
    return tmp_path / "image.nii.gz"


def test_geometry_of_nifti(image: Path) -> None:
    geometry = read_geometry(image)
    assert geometry.shape == (8, 7, 6)
    assert geometry.spacing_mm == pytest.approx((0.8, 0.9, 3.0))
    assert geometry.left_right_axes() == (0,)
    assert geometry.physical


def test_nifti_and_metaimage_agree(image: Path, tmp_path: Path) -> None:
    sitk.WriteImage(sitk.ReadImage(str(image)), str(tmp_path / "image.mha"))
    expected, geometry = read_volume(image)
    array, other = read_volume(tmp_path / "image.mha")
    np.testing.assert_array_equal(array, expected)
    np.testing.assert_allclose(other.affine, geometry.affine, atol=1e-4)
    np.testing.assert_allclose(read_geometry(tmp_path / "image.mha").affine, geometry.affine, atol=1e-4)
    assert geometry_difference(geometry, other) is None


def test_scaled_nifti_is_read_in_world_units(tmp_path: Path) -> None:
    scaled = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(4, 3, 2), np.eye(4))
    scaled.header.set_slope_inter(2, -1024)
    nib.save(scaled, tmp_path / "scaled.nii")
    array, _ = read_volume(tmp_path / "scaled.nii")
    np.testing.assert_array_equal(array, nib.load(tmp_path / "scaled.nii").get_fdata())


def test_a_trailing_axis_of_one_is_dropped_and_a_longer_one_is_an_error(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 3, 2, 1), np.uint8), np.eye(4)), tmp_path / "a.nii")
    nib.save(nib.Nifti1Image(np.zeros((4, 3, 2, 5), np.uint8), np.eye(4)), tmp_path / "b.nii")
    assert read_volume(tmp_path / "a.nii")[0].shape == (4, 3, 2)
    with pytest.raises(VolumeError, match=r"found shape \(4, 3, 2, 5\); store one channel a file"):
        read_geometry(tmp_path / "b.nii")


def test_png_has_no_world_coordinates(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(12, dtype=np.uint8).reshape(3, 4)), str(tmp_path / "a.png"))
    array, geometry = read_volume(tmp_path / "a.png")
    assert array[1, 2] == 9
    assert geometry.shape == (4, 3)
    assert not geometry.physical


def test_a_colour_image_is_no_label_map(tmp_path: Path) -> None:
    colour = sitk.GetImageFromArray(np.zeros((3, 4, 3), np.uint8), isVector=True)
    sitk.WriteImage(colour, str(tmp_path / "a.png"))
    assert read_volume(tmp_path / "a.png")[0].shape == (4, 3, 3)
    with pytest.raises(VolumeError, match=r"expected one label a voxel"):
        read_label_map(tmp_path / "a.png")


def test_whole_numbers_in_floating_point_are_labels(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.full((4, 3, 2), 2, np.float32), np.eye(4)), tmp_path / "a.nii")
    labels, _ = read_label_map(tmp_path / "a.nii")
    assert np.issubdtype(labels.dtype, np.integer)
    assert (labels == 2).all()


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_fractions_are_no_labels(tmp_path: Path, value: float) -> None:
    array = np.zeros((4, 3, 2), np.float32)
    array[0, 0, :] = value
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(VolumeError, match=f"whole numbers, found {value:g} in 2 voxels; was the label map resampled"):
        read_label_map(tmp_path / "a.nii")


@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
def test_missing_empty_and_broken_files(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    for read in (read_geometry, read_volume):
        path.unlink(missing_ok=True)
        with pytest.raises(VolumeError, match=r"no such file"):
            read(path)
        path.touch()
        with pytest.raises(VolumeError, match=r"the file is empty \(0 bytes\)"):
            read(path)
        path.write_bytes(b"no image at all")
        with pytest.raises(VolumeError, match=r"cannot be read as an image"):
            read(path)


def test_a_file_cut_short(image: Path) -> None:
    image.write_bytes(image.read_bytes()[:-200])
    with pytest.raises(VolumeError, match=r"cannot be read as an image"):
        read_volume(image)


def _moved(shape: tuple[int, ...] = (8, 7, 6), scale: float = 1.0, shift_mm: float = 0.0) -> Geometry:
    affine = AFFINE.copy()
    affine[:3, :3] *= scale
    affine[0, 3] += shift_mm
    return Geometry(shape, affine)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (_moved(shape=(8, 7, 5)), r"the image has shape \(8, 7, 6\), the label map \(8, 7, 5\)"),
        (_moved(scale=1.5), r"corners lie up to .* mm apart .*\(0.8, 0.9, 3.0\).*\(1.2, 1.35, 4.5\)"),
        (_moved(shift_mm=0.8), r"corners lie up to 0.8 mm apart"),
    ],
)
def test_differing_geometries(other: Geometry, message: str) -> None:
    found = geometry_difference(_moved(), other)
    assert found is not None
    assert re.search(message, found)


def test_rounding_is_no_difference() -> None:
    assert geometry_difference(_moved(), _moved(shift_mm=0.001)) is None
    assert geometry_difference(_moved(), _moved(scale=1 + 1e-6)) is None


@pytest.mark.parametrize(("largest", "dtype"), [(255, np.uint8), (256, np.uint16)])
def test_written_label_maps_lie_on_their_image(image: Path, tmp_path: Path, largest: int, dtype: type) -> None:
    labels = np.random.default_rng(1).integers(0, largest + 1, (8, 7, 6))
    labels[0, 0, 0] = largest
    write_label_map(tmp_path / "new" / "label.nii.gz", labels, image)
    back, geometry = read_label_map(tmp_path / "new" / "label.nii.gz")
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, labels)
    assert geometry_difference(read_geometry(image), geometry) is None
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["label.nii.gz"]


def test_itk_sees_a_written_nifti_at_the_same_place(image: Path, tmp_path: Path) -> None:
    write_label_map(tmp_path / "label.nii.gz", np.zeros((8, 7, 6), int), image)
    expected, found = sitk.ReadImage(str(image)), sitk.ReadImage(str(tmp_path / "label.nii.gz"))
    assert found.GetOrigin() == pytest.approx(expected.GetOrigin(), abs=1e-4)
    assert found.GetDirection() == pytest.approx(expected.GetDirection(), abs=1e-4)
    assert found.GetSpacing() == pytest.approx(expected.GetSpacing(), abs=1e-4)


def test_written_metaimage(image: Path, tmp_path: Path) -> None:
    sitk.WriteImage(sitk.ReadImage(str(image)), str(tmp_path / "image.mha"))
    labels = np.random.default_rng(1).integers(0, 9, (8, 7, 6))
    write_label_map(tmp_path / "label.mha", labels, tmp_path / "image.mha")
    back, geometry = read_label_map(tmp_path / "label.mha")
    np.testing.assert_array_equal(back, labels)
    assert geometry_difference(read_geometry(tmp_path / "image.mha"), geometry) is None


def test_value_counts() -> None:
    rng = np.random.default_rng(0)
    for labels in (
        rng.integers(-3, 40, (5, 4, 3)),
        rng.integers(0, 5, (5, 4)).astype(np.uint8),
        np.array([[[0, 1_000_000], [0, 7]]]),
    ):
        values, counts = np.unique(labels, return_counts=True)
        assert value_counts(labels) == dict(zip(values.tolist(), counts.tolist(), strict=True))
    assert value_counts(np.zeros((0, 3), int)) == {}


def test_value_counts_in_any_memory_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnunet_partial.volumes._PIECE", 7)
    labels = np.random.default_rng(0).integers(-2, 3, (6, 5, 4)).astype(np.int16)
    values, counts = np.unique(labels, return_counts=True)
    expected = dict(zip(values.tolist(), counts.tolist(), strict=True))
    for view in (labels, np.asfortranarray(labels), labels[::-1, :, ::-1], labels.transpose(1, 2, 0)[:, ::-1]):
        assert value_counts(view) == expected
    assert value_counts(labels[::2, 1:4]) == value_counts(labels[::2, 1:4].copy())
    assert value_counts(np.broadcast_to(np.uint8(3), (4, 5))) == {3: 20}
    assert value_counts(labels.ravel()) == expected
    assert value_counts(np.array(5)) == {5: 1}


@pytest.mark.parametrize(
    ("directions", "axes"),
    [
        (np.eye(3), (0,)),
        (np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]]), (2,)),
        (np.array([[0.8, 0.6, 0], [-0.6, 0.8, 0], [0, 0, 1]]), (0, 1)),
    ],
)
def test_left_right_axes(directions: np.ndarray, axes: tuple[int, ...]) -> None:
    affine = np.eye(4)
    affine[:3, :3] = directions * [0.7, 0.7, 5.0]
    assert Geometry((4, 4, 4), affine).left_right_axes() == axes
