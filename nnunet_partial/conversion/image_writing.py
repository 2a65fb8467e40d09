"""Writing images that could not be taken as they are: as compressed NIfTI, or as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from nnunet_partial.volumes import Geometry

__all__ = ["resized_labels", "resized_picture", "write_image"]

_INT16 = np.iinfo(np.int16)


def write_image(path: Path, array: npt.NDArray[Any], geometry: Geometry) -> None:
    """Writes an image.

    Args:
        path: Target; its ending, .nii.gz or .png, chooses the format.
        array: (x, y, z), (x, y) or (x, y, colour).
        geometry: Where its voxels lie.

    Raises:
        OSError: It cannot be written.
    """
    if path.name.endswith(".png"):
        axes = (1, 0, *range(2, array.ndim))
        try:
            sitk.WriteImage(sitk.GetImageFromArray(array.transpose(axes), isVector=array.ndim > 2), str(path))
        except RuntimeError as error:
            raise OSError(str(error).strip().splitlines()[-1]) from error
        return
    image = nib.Nifti1Image(_compact(array), geometry.affine)
    image.set_sform(geometry.affine, code=1)
    image.set_qform(geometry.affine, code=1, strip_shears=True)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def _compact(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same intensities in a small type that every reader of NIfTI knows."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind == "f":
        rounded = np.round(array)
        whole = bool((rounded == array).all())
        fits = whole and _INT16.min <= array.min() and array.max() <= _INT16.max
        return array.astype(np.int16 if fits else np.float32)
    if array.dtype.itemsize > 2:
        low, high = int(array.min()), int(array.max())
        fitting = [t for t in (np.int16, np.int32) if np.iinfo(t).min <= low and high <= np.iinfo(t).max]
        return array.astype(fitting[0] if fitting else np.float64)
    return array


def resized_picture(array: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """A picture of another size, with linear interpolation and, where it shrinks, smoothing.

    Args:
        array: (x, y) or (x, y, colour), unsigned integers.
        size: Pixels along x and y.
    """
    from skimage import transform

    resize: Any = transform.resize
    wanted = (*size, *array.shape[2:])
    resized: npt.NDArray[Any] = np.round(resize(array, wanted, order=1, preserve_range=True, anti_aliasing=True))
    return resized.clip(0, np.iinfo(array.dtype).max).astype(array.dtype)


def resized_labels(array: npt.NDArray[np.uint16], size: tuple[int, int]) -> npt.NDArray[np.uint16]:
    """A label map of another size: the values at the nearest pixels."""
    pixels = [
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.intp), old - 1)
        for new, old in zip(size, array.shape, strict=True)
    ]
    return array[np.ix_(*pixels)]
