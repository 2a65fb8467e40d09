"""Writing images that could not be taken as they are: as compressed NIfTI, or as PNG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from nnunet_partial.conversion.intensities import compact
from nnunet_partial.volumes import Geometry, value_counts

__all__ = ["resized_labels", "resized_picture", "write_image"]

_ROUNDING = 1e-9


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
    image = nib.Nifti1Image(compact(array), geometry.affine)
    image.set_sform(geometry.affine, code=1)
    image.set_qform(geometry.affine, code=1, strip_shears=True)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


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


def resized_labels(
    array: npt.NDArray[np.uint16], size: tuple[int, int], structures: Iterable[Sequence[int]]
) -> npt.NDArray[np.uint16]:
    """A label map of another size, by area; and structures thinner than a new pixel keep their middle line.

    A pixel is labelled where labels cover half of its box or more, with the value that covers most of it. That keeps
    the areas of structures, but breaks vessels, nerves and instruments that are thinner than a box. So wherever a
    structure is thinner than a box, and this part of it larger than one, the boxes along its middle line take the value
    that is found there. Lines become one new pixel wide, two where their middle lies in another box than most of them;
    nothing else grows.

    Args:
        array: (x, y) values; 0 is background.
        size: Pixels along x and y.
        structures: The values of each structure, overlaps with others included: where two structures share a line of
            pixels, neither of them is thin.

    Returns:
        (x, y) values.
    """
    factors = np.array(array.shape) / size
    resized = _by_area(array, size)
    for values in structures:
        pixels = np.argwhere(_thin_line(np.isin(array, values), factors))
        boxes = ((pixels + 0.5) / factors).astype(np.intp)
        lost = ~np.isin(resized[tuple(boxes.T)], values)
        resized[tuple(boxes[lost].T)] = array[tuple(pixels[lost].T)]
    return resized


def _by_area(array: npt.NDArray[np.uint16], size: tuple[int, int]) -> npt.NDArray[np.uint16]:
    along_x, along_y = (_box_shares(old, new) for old, new in zip(array.shape, size, strict=True))

    def share(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        shares: npt.NDArray[np.float64] = (along_y @ (along_x @ mask.astype(np.float64)).T).T
        return shares

    resized, most = np.zeros(size, np.uint16), np.zeros(size)
    for value in value_counts(array):
        covered = share(array == value) if value else most
        larger = covered > most
        resized[larger], most[larger] = value, covered[larger]
    resized[share(array > 0) < 0.5 - _ROUNDING] = 0
    return resized


def _box_shares(old: int, new: int) -> Any:
    """(new, old) sparse matrix: the share of each new pixel's box that each old pixel takes."""
    from scipy import sparse

    edges = np.union1d(np.arange(old + 1), np.arange(new + 1) * (old / new))
    middles = (edges[:-1] + edges[1:]) / 2
    rows, columns = (middles * (new / old)).astype(np.intp), middles.astype(np.intp)
    return sparse.csr_array((np.diff(edges) * (new / old), (rows, columns)), shape=(new, old))


def _thin_line(mask: npt.NDArray[np.bool_], factors: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """The middle lines of those parts of a mask into which a box does not fit, where they are larger than a box."""
    from scipy import ndimage
    from skimage import morphology

    skeletonize: Any = morphology.skeletonize
    box = [math.ceil(factor) for factor in factors]
    found = np.zeros_like(mask)
    if math.prod(box) == 1 or not mask.any():
        return found
    extent = ndimage.find_objects(mask.astype(np.uint8))[0]
    part = np.pad(mask[extent], [(n, n) for n in box])
    thin = part & ~ndimage.binary_opening(part, np.ones(box))
    numbers, _ = ndimage.label(thin, np.ones((3, 3)))
    thin &= np.bincount(numbers.ravel())[numbers] > math.prod(box)
    inside = tuple(slice(n, -n) for n in box)
    found[extent] = skeletonize(thin)[inside]
    return found
