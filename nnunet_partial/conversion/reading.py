"""Reading the files of a download, whole: a damaged file is an error, and what was read is recorded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from nnunet_partial.conversion.case import Dicom, ImageSource
from nnunet_partial.conversion.intensities import compact, scaled, slices_of, smallest_integer
from nnunet_partial.conversion.source_files import SourceRecord
from nnunet_partial.dicom import read_series
from nnunet_partial.errors import VolumeError
from nnunet_partial.gzip_bytes import unpack
from nnunet_partial.volumes import Geometry, from_itk, read_volume

__all__ = ["Volume", "read_grey", "read_image", "read_labels", "read_source"]

_WHOLE = 1e-3
"""How far scaled label values may be from whole numbers."""
_HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume or picture.

    Attributes:
        array: (x, y), (x, y, z) or, for coloured pictures, (x, y, colour).
        geometry: Where its voxels lie.
        path: The file; the folder of a DICOM series.
        usable: The file could stand in a raw dataset as it is, but for its name.
    """

    array: npt.NDArray[Any]
    geometry: Geometry
    path: Path
    usable: bool = False


def read_image(source: ImageSource, record: SourceRecord, file_ending: str) -> Volume:
    """Reads an image.

    Args:
        source: File or DICOM series.
        record: Takes down what was read.
        file_ending: Ending of the new dataset; files that have it may be usable as they are.

    Returns:
        The image.

    Raises:
        VolumeError: It is missing, empty, damaged, not of the kind that the new dataset holds, or voxels are NaN or
            infinite.
    """
    if isinstance(source, Dicom):
        return _read_dicom(source, record)
    volume = read_source(source, record)
    array, shape = volume.array, volume.geometry.shape
    dimensions = 3 if file_ending == ".nii.gz" else 2
    if len(shape) != dimensions:
        raise VolumeError(f"{source}: expected {dimensions} dimensions, found shape {shape}")
    if array.dtype.kind not in "iufb" or (array.ndim > len(shape) and dimensions == 3):
        raise VolumeError(f"{source}: expected one intensity a voxel, found {array.dtype} of shape {array.shape}")
    if array.dtype.kind == "f":
        strange = array.size - int(np.count_nonzero(np.isfinite(array)))
        if strange:
            raise VolumeError(f"{source}: {strange} voxels are NaN or infinite, expected numbers")
    usable = source.name.endswith(file_ending) and volume.usable
    return Volume(array, volume.geometry, source, usable)


def _read_dicom(source: Dicom, record: SourceRecord) -> Volume:
    image, files = read_series(source.folder, source.series)
    image = _small(image)
    array, geometry = from_itk(image)
    del image  # the array is a copy of its voxels
    if array.ndim != 3 or len(geometry.shape) != 3:
        raise VolumeError(f"{source.folder}: expected a DICOM series of grey slices, found {array.shape}")
    try:
        for file in files:
            record.add_file(file, group=str(source.folder))
    except OSError as error:
        raise VolumeError(f"{error.filename}: cannot be read ({error.strerror or error})") from error
    return Volume(compact(array), geometry, source.folder)


def _small(image: Any) -> Any:
    """A SimpleITK image in 16 bits, where those are enough: scanners fill 12, but files often declare all 16."""
    import SimpleITK as sitk

    voxels = sitk.GetArrayViewFromImage(image)
    limits = np.iinfo(np.int16)
    if voxels.dtype != np.int32 or int(voxels.min()) < limits.min or int(voxels.max()) > limits.max:
        return image
    return sitk.Cast(image, sitk.sitkInt16)


def read_source(path: Path, record: SourceRecord, group: str = "") -> Volume:
    """Reads any image file and records it.

    Raises:
        VolumeError: It is missing, empty or damaged, or its geometry makes no sense.
    """
    try:
        if path.stat().st_size == 0:
            raise VolumeError(f"{path}: the file is empty (0 bytes); copy or download it again")
        if path.name.lower().endswith((".nii", ".nii.gz")):
            return _nifti(path, record, group)
        record.add_file(path, group)
        for part in _data_files(path):
            record.add_file(part, group)
        array, geometry = read_volume(path)
    except FileNotFoundError as error:
        raise VolumeError(f"{path}: no such file") from error
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read ({error.strerror or error})") from error
    _check_geometry(path, geometry)
    return Volume(array, geometry, path, usable=True)


def read_labels(path: Path, record: SourceRecord, group: str = "") -> Volume:
    """Reads a file of label values or a mask.

    Args:
        path: File.
        record: Takes down what was read.
        group: Files of one group are recorded together.

    Returns:
        Integers, (x, y) or (x, y, z).

    Raises:
        VolumeError: It cannot be read, is coloured, or holds values that are no whole numbers.
    """
    volume = read_source(path, record, group)
    array, geometry = volume.array, volume.geometry
    del volume  # its array, where another takes its place
    if array.ndim > len(geometry.shape):
        array = _grey(path, array)
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    if array.dtype.kind not in "iuf":
        raise VolumeError(f"{path}: expected one label a voxel, found {array.dtype} of shape {array.shape}")
    if array.dtype.kind == "f":
        array = _whole(path, array)
    return Volume(array, geometry, path)


def read_grey(path: Path, record: SourceRecord, group: str = "") -> Volume:
    """Reads a picture of label values.

    Raises:
        VolumeError: As `read_labels`, or it is no picture.
    """
    volume = read_labels(path, record, group)
    if volume.array.ndim == 3 and volume.array.shape[-1] == 1:
        return Volume(volume.array[..., 0], Geometry(volume.array.shape[:2], np.eye(4), physical=False), path)
    if volume.array.ndim != 2:
        raise VolumeError(f"{path}: expected a picture, one slice of a volume, found shape {volume.array.shape}")
    return volume


def _grey(path: Path, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Label values that were stored as a coloured picture; its alpha channel says nothing."""
    colours = array[..., : array.shape[-1] - 1] if array.shape[-1] in (2, 4) else array
    if (colours != colours[..., :1]).any():
        raise VolumeError(f"{path}: expected a grey picture of label values, found colours")
    return colours[..., 0]


def _whole(path: Path, array: npt.NDArray[Any]) -> npt.NDArray[np.integer[Any]]:
    """Whole numbers in an integer type, made a slice at a time."""
    largest = max(-float(array.min()), float(array.max()))
    dtype = smallest_integer(-largest - 1, largest + 1)
    found: npt.NDArray[Any] = np.empty_like(array, dtype or np.int32)
    strange: list[npt.NDArray[Any]] = []
    with np.errstate(invalid="ignore"):  # infinite less infinite is no number, which is no whole number either
        for index in slices_of(array):
            piece = array[index]
            rounded = np.round(piece)
            strange.append(piece[~(np.abs(piece - rounded) <= _WHOLE)])
            found[index] = rounded
    wrong = np.concatenate(strange)
    if wrong.size:
        raise VolumeError(
            f"{path}: label values must be whole numbers, found {float(wrong[0]):g} in {wrong.size} voxels; was the "
            "label map resampled with linear interpolation?"
        )
    if dtype is None:
        raise VolumeError(f"{path}: expected label values, found {largest:g}")
    return found


def _data_files(path: Path) -> list[Path]:
    """The files that hold the voxels of a header file (.mhd, .nhdr), where it names one that is there."""
    if path.suffix.lower() not in (".mhd", ".nhdr"):
        return []
    found = []
    for line in path.read_text("latin-1").splitlines():
        key, _, value = line.replace("=", ":").partition(":")
        if key.strip().lower() in ("elementdatafile", "data file", "datafile"):
            found.append(path.parent / value.strip())
    return [file for file in found if file.is_file()]


# NIfTI


def _nifti(path: Path, record: SourceRecord, group: str) -> Volume:
    unpacked = _content(path, record, group)
    shape, dtype, start, affine, scale = _header(path, unpacked)
    count = math.prod(shape)
    needed = start + count * dtype.itemsize
    if len(unpacked) < needed:
        raise VolumeError(
            f"{path}: the file is cut short: {len(unpacked)} bytes, but its header asks for {needed} (shape {shape}); "
            "copy or download it again"
        )
    squeezed = shape
    while len(squeezed) > 3 and squeezed[-1] == 1:
        squeezed = squeezed[:-1]
    geometry = Geometry(squeezed, affine)
    if len(squeezed) not in (2, 3):
        raise VolumeError(f"{path}: expected a 2D or 3D image, found shape {shape}")
    _check_geometry(path, geometry)
    array = np.frombuffer(unpacked, dtype, count, start).reshape(squeezed, order="F")
    if scale != (1, 0) and dtype.kind in "iuf":  # other types are refused by who asked
        array = scaled(array, *scale)
    return Volume(array, geometry, path, usable=squeezed == shape)


def _content(path: Path, record: SourceRecord, group: str) -> bytes:
    """The unpacked file; the packed one is not kept."""
    content = path.read_bytes()
    record.add_content(path, content, group)
    return unpack(path, content)


def _header(
    path: Path, unpacked: bytes
) -> tuple[tuple[int, ...], np.dtype[Any], int, npt.NDArray[np.float64], tuple[float, float]]:
    """Shape, type and first byte of the voxels, their affine, and slope and intercept."""
    sizes = (int.from_bytes(unpacked[:4], "little"), int.from_bytes(unpacked[:4], "big"))
    size, header_class = next(((n, found) for n, found in _HEADERS.items() if n in sizes), (0, None))
    if header_class is None:
        raise VolumeError(f"{path}: not a NIfTI image, though its name says so; nothing in it looks like a header")
    try:
        header = header_class.from_fileobj(_Bytes(unpacked), check=False)
        affine = np.asarray(header.get_best_affine(), np.float64)
        shape, dtype = tuple(int(n) for n in header.get_data_shape()), header.get_data_dtype()
        slope, intercept = header.get_slope_inter()
        start = int(header.get_data_offset())
    except Exception as error:  # nibabel has errors of many kinds
        reason = str(error).strip().splitlines()
        raise VolumeError(f"{path}: not a NIfTI image ({reason[-1] if reason else type(error).__name__})") from error
    if not shape or any(n < 1 for n in shape):
        raise VolumeError(f"{path}: expected voxels along every axis, found shape {shape}")
    if dtype.itemsize == 0:
        raise VolumeError(
            f"{path}: not a NIfTI image (its header says {int(header['datatype'])} for the type of the voxels, which "
            "is none that can be read); copy or download it again"
        )
    if start < size:
        raise VolumeError(
            f"{path}: not a NIfTI image (its voxels are said to begin at byte {start}, but its header takes {size}); "
            "copy or download it again"
        )
    return shape, dtype, start, affine, (1.0, 0.0) if slope is None else (float(slope), float(intercept))


class _Bytes:
    """The start of a file in memory, for nibabel's header reader, without copying the rest."""

    def __init__(self, content: bytes) -> None:
        self._content, self._position = content, 0

    def read(self, size: int) -> bytes:
        piece = self._content[self._position : self._position + size]
        self._position += len(piece)
        return piece

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        self._position = position


def _check_geometry(path: Path, geometry: Geometry) -> None:
    matrix = geometry.affine[:3, :3]
    if not np.isfinite(geometry.affine).all() or abs(np.linalg.det(matrix)) < 1e-9:
        raise VolumeError(
            f"{path}: the header's axes make no sense (voxel size {geometry.spacing_mm} mm); a voxel must have three "
            "different directions and sizes above 0"
        )
