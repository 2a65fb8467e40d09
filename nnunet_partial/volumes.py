"""Images and label maps on disk: arrays in (x, y, z) order and a voxel-to-world affine, for every format alike.

NIfTI is read by nibabel, which accepts headers that ITK refuses (non-orthonormal directions); NRRD, MetaImage,
PNG, TIFF and BMP are read by SimpleITK.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from nnunet_partial.atomic import atomic_path
from nnunet_partial.errors import VolumeError

__all__ = [
    "INTENSITY_ENDINGS",
    "Geometry",
    "channel_files",
    "from_itk",
    "geometry_difference",
    "read_description",
    "read_geometry",
    "read_intensities",
    "read_label_map",
    "read_volume",
    "value_counts",
    "write_intensities",
    "write_label_map",
]

INTENSITY_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Endings of the formats that hold floating-point intensities and a description."""

_NIFTI = (".nii", ".nii.gz")
_DESCRIPTION = "description"
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TOLERANCE_VOXELS = 0.01
_COUNTED_BY_VALUE = 1 << 16
_PIECE = 1 << 17  # voxels that stay in the cache as 64-bit numbers


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of a volume lie.

    Attributes:
        shape: Voxels along (x, y) or (x, y, z).
        affine: (4, 4), voxel index to RAS+ world coordinates in mm.
        physical: False for formats without world coordinates (PNG and the like); their affine is the identity.
    """

    shape: tuple[int, ...]
    affine: npt.NDArray[np.float64]
    physical: bool = True

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Voxel size along each array axis, in mm."""
        return tuple(float(s) for s in np.linalg.norm(self.affine[:3, : len(self.shape)], axis=0))

    def left_right_axes(self) -> tuple[int, ...]:
        """The array axes along which left and right lie: |cosine| to the world's left-right axis above 0.5."""
        directions = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        return tuple(axis for axis in range(len(self.shape)) if abs(directions[0, axis]) > 0.5)


def channel_files(folder: Path, file_ending: str) -> dict[str, dict[int, Path]]:
    """Images of a folder by nnU-Net's file names, CASE_0000.ending.

    Args:
        folder: Folder; one that is missing counts as empty.
        file_ending: Ending with its dot; other files and hidden ones are left out.

    Returns:
        Case to its files by channel number, sorted by file name.
    """
    cases: dict[str, dict[int, Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.startswith(".") or not path.name.endswith(file_ending):
            continue
        match = _CHANNEL.fullmatch(path.name[: -len(file_ending)])
        if match:
            cases.setdefault(match["case"], {})[int(match["channel"])] = path
    return cases


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(_NIFTI)


def _failed(path: Path, error: Exception) -> VolumeError:
    if not path.exists():
        return VolumeError(f"{path}: no such file")
    if path.stat().st_size == 0:
        return VolumeError(f"{path}: the file is empty (0 bytes); copy or download it again")
    reason = str(error).strip().splitlines()
    return VolumeError(f"{path}: cannot be read as an image ({reason[-1] if reason else type(error).__name__})")


def _nifti_geometry(path: Path, image: Any) -> Geometry:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3):
        raise VolumeError(f"{path}: expected a 2D or 3D image, found shape {shape}; store one channel a file")
    return Geometry(shape, np.asarray(image.affine, dtype=np.float64))


def _itk_geometry(image: Any) -> Geometry:
    dimensions = image.GetDimension()
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(dimensions, dimensions)
    affine[:dimensions, :dimensions] = direction * np.array(image.GetSpacing())
    affine[:dimensions, 3] = image.GetOrigin()
    shape = tuple(int(n) for n in image.GetSize())
    physical = dimensions == 3
    return Geometry(shape, _LPS_TO_RAS @ affine if physical else affine, physical)


def read_geometry(path: Path) -> Geometry:
    """Reads the geometry of an image from its header only.

    Args:
        path: Image or label file.

    Returns:
        Its geometry.

    Raises:
        VolumeError: The file is missing, empty or not an image.
    """
    try:
        if _is_nifti(path):
            return _nifti_geometry(path, nib.load(path))
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        return _itk_geometry(reader)
    except VolumeError:
        raise
    except Exception as error:
        raise _failed(path, error) from error


def read_volume(path: Path) -> tuple[npt.NDArray[Any], Geometry]:
    """Reads an image.

    Args:
        path: Image file.

    Returns:
        The array, (x, y) or (x, y, z), with scaling applied, and its geometry. Colour images keep a last axis.

    Raises:
        VolumeError: The file is missing, empty, cut short or not an image.
    """
    try:
        if _is_nifti(path):
            image: Any = nib.load(path)
            geometry = _nifti_geometry(path, image)
            array = np.asanyarray(image.dataobj).reshape(geometry.shape)
            return array, geometry
        return from_itk(sitk.ReadImage(str(path)))
    except VolumeError:
        raise
    except Exception as error:
        raise _failed(path, error) from error


def from_itk(image: Any) -> tuple[npt.NDArray[Any], Geometry]:
    """Array and geometry, as `read_volume` returns them, of a SimpleITK image."""
    array, geometry = sitk.GetArrayFromImage(image), _itk_geometry(image)
    spatial = tuple(range(len(geometry.shape)))
    return array.transpose(*spatial[::-1], *range(len(spatial), array.ndim)), geometry


def read_label_map(path: Path) -> tuple[npt.NDArray[np.integer[Any]], Geometry]:
    """Reads a label map and insists that it holds integers.

    Args:
        path: Label file; floating-point files are accepted when every value is a whole number.

    Returns:
        The integer array and its geometry.

    Raises:
        VolumeError: The file cannot be read, or holds values that are no whole numbers.
    """
    array, geometry = read_volume(path)
    if array.shape != geometry.shape:
        raise VolumeError(f"{path}: expected one label a voxel, found shape {array.shape} (a colour image?)")
    if np.issubdtype(array.dtype, np.integer):
        return array, geometry
    rounded = np.round(array)
    wrong = array[~(rounded == array)]
    if wrong.size:
        raise VolumeError(
            f"{path}: label values must be whole numbers, found {float(wrong.flat[0]):g} in {wrong.size} voxels; "
            "was the label map resampled with linear interpolation?"
        )
    return rounded.astype(np.int64), geometry


def read_intensities(path: Path) -> npt.NDArray[Any]:
    """Reads an image and insists that it holds one finite number a voxel.

    Args:
        path: Image file.

    Returns:
        The array, (x, y) or (x, y, z), with scaling applied.

    Raises:
        VolumeError: The file cannot be read, is a colour image, or holds NaN or infinite voxels.
    """
    array, geometry = read_volume(path)
    if array.shape != geometry.shape or array.dtype.kind not in "iuf":
        raise VolumeError(
            f"{path}: expected one intensity a voxel, found shape {array.shape} of {array.dtype} (a colour image?)"
        )
    strange = array.size - np.count_nonzero(np.isfinite(array)) if array.dtype.kind == "f" else 0
    if strange:
        raise VolumeError(
            f"{path}: {strange} voxels are NaN or infinite, expected numbers; replace them, e.g. by the value of air"
        )
    return array


def read_description(path: Path) -> str:
    """Reads the description in the header of an image: `descrip` of NIfTI, the key `description` elsewhere.

    Returns:
        The text; empty where there is none.

    Raises:
        VolumeError: The file is missing, empty or not an image.
    """
    try:
        if _is_nifti(path):
            return bytes(nib.load(path).header["descrip"].item()).decode("latin-1")
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        return str(reader.GetMetaData(_DESCRIPTION)) if reader.HasMetaDataKey(_DESCRIPTION) else ""
    except Exception as error:
        raise _failed(path, error) from error


def value_counts(labels: npt.NDArray[np.integer[Any]]) -> dict[int, int]:
    """Counts the voxels of every label value; piece by piece, which needs no copy of the volume and no sorting.

    Args:
        labels: Integer array of any shape.

    Returns:
        Value to its number of voxels, ascending, for the values that occur.
    """
    if labels.size == 0:
        return {}
    flat = _in_memory_order(labels).reshape(-1)
    low, span = int(flat.min()), int(flat.max()) - int(flat.min()) + 1
    if span > _COUNTED_BY_VALUE:
        values, counts = np.unique(flat, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))
    total = np.zeros(span, np.int64)
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE].astype(np.int64)
        total += np.bincount(piece - low if low else piece, minlength=span)
    return {low + int(i): int(total[i]) for i in np.flatnonzero(total)}


def _in_memory_order(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A view whose axes are flipped and ordered such that voxels come as they lie in memory."""
    forward = array[tuple(slice(None, None, -1 if stride < 0 else 1) for stride in array.strides)]
    return forward.transpose(sorted(range(array.ndim), key=lambda axis: -forward.strides[axis]))


def geometry_difference(image: Geometry, label: Geometry) -> str | None:
    """Says how two geometries differ, or None where all corners agree to about a hundredth of a voxel.

    The corners of a large volume may differ by more, as rounding of the spacing adds up along an axis.
    """
    if image.shape != label.shape:
        return f"the image has shape {image.shape}, the label map {label.shape}"
    if not (image.physical and label.physical):
        return None
    corners = np.array(np.meshgrid(*[[0, n - 1] for n in (*image.shape, 1, 1)[:3]])).reshape(3, -1)
    corners = np.vstack([corners, np.ones(corners.shape[1])])
    distance_mm = np.linalg.norm(((image.affine - label.affine) @ corners)[:3], axis=0).max()
    if distance_mm > _TOLERANCE_VOXELS * max(min(image.spacing_mm), 1e-6) * max(image.shape) ** 0.5:
        return (
            f"corners lie up to {distance_mm:.3g} mm apart (image spacing {_rounded(image.spacing_mm)}, "
            f"label spacing {_rounded(label.spacing_mm)} mm)"
        )
    return None


def _rounded(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(v, 4) for v in values)


def write_label_map(path: Path, labels: npt.NDArray[Any], like: Path) -> None:
    """Writes a label map with the geometry of another file, in one step.

    Args:
        path: Target; its ending chooses the format.
        labels: Integer array, (x, y) or (x, y, z), values 0 to 65535. Stored as uint8 where that suffices.
        like: File whose geometry is taken over.

    Raises:
        VolumeError: The geometry file cannot be read, or the target cannot be written.
    """
    stored = labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16)
    try:
        with atomic_path(path) as temporary:
            if _is_nifti(path):
                source: Any = nib.load(like)
                image = nib.Nifti1Image(stored, source.affine)
                image.set_sform(source.affine, code=1)
                image.set_qform(source.affine, code=1, strip_shears=True)
                nib.save(image, temporary)
            else:
                target = sitk.GetImageFromArray(stored.T)
                reference = sitk.ReadImage(str(like))
                target.SetOrigin(reference.GetOrigin())
                target.SetSpacing(reference.GetSpacing())
                target.SetDirection(reference.GetDirection())
                sitk.WriteImage(target, str(temporary), useCompression=True)
    except OSError as error:
        raise VolumeError(f"{path}: cannot be written ({error.strerror or error})") from error


def write_intensities(path: Path, image: npt.NDArray[np.float32], like: Path, description: str) -> None:
    """Writes an image of the voxels of another file, whose geometry it keeps bit for bit, in one step.

    Args:
        path: Target; its ending, one of `INTENSITY_ENDINGS`, chooses the format.
        image: (x, y) or (x, y, z) intensities.
        like: File whose geometry is taken over; of the same format.
        description: Text for `read_description`; NIfTI keeps 79 characters.

    Raises:
        VolumeError: The geometry file cannot be read, or the target cannot be written.
    """
    try:
        with atomic_path(path) as temporary:
            if _is_nifti(path):
                source: Any = nib.load(like)
                header = source.header.copy()
                header.set_data_dtype(np.float32)
                header["descrip"] = description.encode("latin-1", "replace")[:79]
                header["cal_min"] = header["cal_max"] = 0  # the window of a viewer, in the old intensities
                nib.save(type(source)(image.reshape(source.shape), None, header), temporary)
            else:
                target = sitk.GetImageFromArray(image.T)
                reference = sitk.ImageFileReader()
                reference.SetFileName(str(like))
                reference.ReadImageInformation()
                target.SetOrigin(reference.GetOrigin())
                target.SetSpacing(reference.GetSpacing())
                target.SetDirection(reference.GetDirection())
                target.SetMetaData(_DESCRIPTION, description)
                sitk.WriteImage(target, str(temporary), useCompression=True)
    except (OSError, RuntimeError) as error:
        raise VolumeError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from error
