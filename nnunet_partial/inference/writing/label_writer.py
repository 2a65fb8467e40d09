"""Label maps and other volumes of small whole numbers on the grid of the image they were predicted from.

Files equal those of nnU-Net's own writers, voxels and header alike, but for the packing of compressed ones.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_partial.atomic import atomic_path, write_json
from nnunet_partial.errors import VolumeError
from nnunet_partial.gzip_bytes import compress
from nnunet_partial.inference.reading.geometry import (
    ImageGeometry,
    ItkGeometry,
    NibabelGeometry,
    PixelGeometry,
    itk_image,
)
from nnunet_partial.inference.reading.image_reader import Image
from nnunet_partial.inference.reading.nifti_bytes import is_nifti

__all__ = [
    "class_masks",
    "file_safe",
    "original_grid",
    "output_ending",
    "write_class_files",
    "write_labels",
    "write_probabilities",
]

_UNSAFE = re.compile(r"[^\w.+-]+")
_TIFF_STACK = (".tif", ".tiff")
_HEADER_BYTES = 352
"""Of a NIfTI-1 file, before its voxels."""
_MORE = bytes(1 << 20)
"""More than fits where the little that SimpleITK wrote last did not."""
_DIM_BYTES = slice(40, 56)
"""Where a NIfTI-1 header says how many axes there are, and their lengths: 8 numbers of 16 bits."""


def output_ending(image: Image, file_ending: str) -> str:
    """Ending of predictions: that of the model's images, but .nii.gz for a DICOM series."""
    return ".nii.gz" if image.from_dicom else file_ending


def write_labels(labels: npt.NDArray[np.integer[Any]], image: Image, target: Path) -> None:
    """Writes a label map, in one step.

    Args:
        labels: (z, y, x) of the image's shape; values 0 to 65535, stored in 8 bits where all are below 255, else 16.
        image: What was predicted; the axes are turned back to those of its file.
        target: File; its ending chooses the format. A TIFF stack gets a .json with its spacing beside it.

    Raises:
        VolumeError: Shape or values do not fit, the format cannot hold this image, or the file cannot be written.
    """
    highest = int(labels.max(initial=0))
    if int(labels.min(initial=0)) < 0 or highest > 65535:
        raise VolumeError(f"{target}: expected labels from 0 to 65535, found {int(labels.min())} to {highest}")
    _write(labels.astype(np.uint8 if highest < 255 else np.uint16, copy=False), image, target)


def class_masks(
    labels: npt.NDArray[np.integer[Any]], classes: Mapping[str, Collection[int]]
) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Yields the mask of one class after the other from a label map.

    Args:
        labels: (z, y, x).
        classes: Class to the values that belong to it; values may belong to several.
    """
    for name, values in classes.items():
        yield name, np.isin(labels, list(values))


def write_class_files(
    masks: Iterable[tuple[str, npt.NDArray[Any]]], image: Image, folder: Path, ending: str
) -> list[Path]:
    """Writes one file of zeros and ones a class.

    Args:
        masks: Class and its mask (z, y, x), drawn one by one, so that one is in memory at a time.
        image: What was predicted.
        folder: Folder of the case.
        ending: Of the files, which are named after the classes; see `file_safe`.

    Returns:
        The files, in order.

    Raises:
        VolumeError: Two classes would get the same file, or one cannot be written.
    """
    written = []
    for path, mask in _targets(masks, folder, ending):
        _write(np.not_equal(mask, 0).astype(np.uint8), image, path)
        written.append(path)
    return written


def write_probabilities(
    probabilities: Iterable[tuple[str, npt.NDArray[np.floating[Any]]]], image: Image, folder: Path, ending: str
) -> list[Path]:
    """Writes one file of probabilities a class, as whole numbers 0 to 255: round(255 p).

    Args:
        probabilities: Class and its probabilities (z, y, x) in 0 to 1, drawn one by one.
        image: What was predicted.
        folder: Folder of the case.
        ending: Of the files, which are named after the classes.

    Returns:
        The files, in order.

    Raises:
        VolumeError: A value is outside 0 to 1, two classes would get the same file, or one cannot be written.
    """
    written = []
    for path, array in _targets(probabilities, folder, ending):
        low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
        if not (low >= 0 and high <= 1):
            raise VolumeError(f"{path}: expected probabilities from 0 to 1, found {low:g} to {high:g}")
        eighth = np.empty(array.shape, np.uint8)
        for plane, probability in zip(eighth, array, strict=True):  # a slice at a time, for memory's sake
            plane[...] = np.rint(probability * np.float32(255))
        _write(eighth, image, path)
        written.append(path)
    return written


def file_safe(name: str) -> str:
    """A class name as a file name: everything but letters, digits, '_', '.', '+' and '-' becomes '_'."""
    return _UNSAFE.sub("_", name).strip("._") or "_"


def _targets(
    arrays: Iterable[tuple[str, npt.NDArray[Any]]], folder: Path, ending: str
) -> Iterator[tuple[Path, npt.NDArray[Any]]]:
    owners: dict[str, str] = {}
    for name, array in arrays:
        stem = file_safe(name)
        other = owners.setdefault(stem.casefold(), name)
        if other != name:
            raise VolumeError(f"{folder}: the classes {other!r} and {name!r} would both be {stem}{ending}; rename one")
        yield folder / f"{stem}{ending}", array


def _write(voxels: npt.NDArray[Any], image: Image, target: Path) -> None:
    if voxels.shape != image.data.shape[1:]:
        raise VolumeError(
            f"{target}: expected the image's shape {image.data.shape[1:]} (z, y, x), found {voxels.shape}"
        )
    try:
        if isinstance(image.geometry, PixelGeometry):
            _write_pixels(voxels, image, image.geometry, target)
            return
        turned, geometry = original_grid(voxels, image.geometry)
        if is_nifti(target):
            _write_nifti(turned, geometry, target)
        elif isinstance(geometry, ItkGeometry):
            with atomic_path(target) as temporary:
                _write_itk(turned, geometry, temporary)
        else:
            raise VolumeError(f"{target}: the model's writer knows .nii and .nii.gz only")
    except OSError as error:
        raise VolumeError(f"{target}: cannot be written ({error.strerror or error})") from error
    except RuntimeError as error:  # SimpleITK's
        reason = str(error).strip().splitlines()[-1].strip()
        raise VolumeError(f"{target}: cannot be written ({reason}); is its ending that of an image format?") from error


def original_grid(
    voxels: npt.NDArray[Any], geometry: ImageGeometry
) -> tuple[npt.NDArray[Any], ItkGeometry | NibabelGeometry | PixelGeometry]:
    """Turns an array back to the axes of the file it came from.

    Args:
        voxels: (z, y, x) in the axes of the read image.
        geometry: Of the read image.

    Returns:
        The array (z, y, x) in the axes of the file, and its geometry, which asks for no more turning.
    """
    if isinstance(geometry, ItkGeometry) and geometry.original_orientation is not None:
        import SimpleITK as sitk

        back = sitk.DICOMOrient(itk_image(voxels, geometry), geometry.original_orientation)
        return sitk.GetArrayFromImage(back), ItkGeometry(back.GetSpacing(), back.GetOrigin(), back.GetDirection())
    if isinstance(geometry, NibabelGeometry) and geometry.reoriented_affine is not None:
        import nibabel as nib
        from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

        to_file = ornt_transform(axcodes2ornt("RAS"), io_orientation(geometry.affine))
        turned = nib.Nifti1Image(voxels.transpose(2, 1, 0), geometry.reoriented_affine).as_reoriented(to_file)
        return np.asanyarray(turned.dataobj).transpose(2, 1, 0), NibabelGeometry(np.asarray(turned.affine))
    return voxels, geometry


def _write_nifti(voxels: npt.NDArray[Any], geometry: ImageGeometry, target: Path) -> None:
    """Puts the header of a single voxel, written by the library of the reader, in front of all voxels.

    So the voxels are packed where they lie, without a copy, and the header is the library's to the byte: of what it
    holds, only the lengths of the axes depend on the number of voxels.
    """
    flat = isinstance(geometry, ItkGeometry) and len(geometry.spacing_mm) == 2
    lengths = voxels.shape[:0:-1] if flat else voxels.shape[::-1]
    if max(lengths) > np.iinfo(np.int16).max:
        raise VolumeError(f"{target}: NIfTI holds at most 32767 voxels along an axis, found {lengths}; use .nrrd")
    one = np.zeros((1, 1, 1), voxels.dtype)
    with atomic_path(target) as temporary:
        if isinstance(geometry, ItkGeometry):
            import SimpleITK as sitk

            single = temporary.with_name(temporary.name + ".one.nii")
            try:
                sitk.WriteImage(itk_image(one, geometry), str(single), False)
                content = single.read_bytes()
                if len(content) != _HEADER_BYTES + one.nbytes:  # SimpleITK does not notice a full disk here
                    _ask_why(single)
                    raise OSError(errno.EIO, f"SimpleITK wrote {len(content)} bytes of a header")
            finally:
                single.unlink(missing_ok=True)
        else:
            import nibabel as nib

            assert isinstance(geometry, NibabelGeometry)
            content = nib.Nifti1Image(one, geometry.affine).to_bytes()
        header = bytearray(content[: -one.nbytes])
        dim = np.frombuffer(header[_DIM_BYTES], np.int16).copy()
        dim[1 : 1 + len(lengths)] = lengths
        header[_DIM_BYTES] = dim.tobytes()
        parts = (bytes(header), np.ascontiguousarray(voxels).reshape(-1).view(np.uint8).data)
        with temporary.open("wb") as file:
            file.writelines(compress(*parts) if target.name.lower().endswith(".gz") else parts)


def _write_itk(voxels: npt.NDArray[Any], geometry: ItkGeometry, path: Path) -> None:
    import SimpleITK as sitk

    try:
        sitk.WriteImage(itk_image(voxels, geometry), str(path), True)
        # read again, because the end of a file may be lost on a full disk without a word, that of .nrrd for one
        whole = np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).ravel(), voxels.ravel())
    except RuntimeError:
        _ask_why(path)
        raise
    if not whole:
        _ask_why(path)
        raise OSError(errno.EIO, "it reads back as something else; is its ending that of a lossless format?")


def _ask_why(path: Path) -> None:
    """Makes the system say why a file could not be written, which SimpleITK keeps to itself: by writing more to it.

    Args:
        path: What was written so far. Where the system takes more, that is in the file afterwards.

    Raises:
        OSError: The disk is full, or whatever else the system says.
    """
    with path.open("ab") as file:
        file.write(_MORE)
        file.flush()
        os.fsync(file.fileno())


def _write_pixels(voxels: npt.NDArray[Any], image: Image, geometry: PixelGeometry, target: Path) -> None:
    with atomic_path(target) as temporary:
        if image.flat:
            from skimage import io

            io.imsave(temporary, voxels[0], check_contrast=False)
        elif target.suffix.lower() in _TIFF_STACK:
            import tifffile

            tifffile.imwrite(temporary, voxels, compression="zlib")
            write_json(target.with_suffix(".json"), {"spacing": list(geometry.spacing)})
        else:
            raise VolumeError(f"{target}: the model's writer knows {' and '.join(_TIFF_STACK)} only")
