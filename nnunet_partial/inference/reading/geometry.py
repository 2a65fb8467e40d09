"""Where the voxels of a read image lie: what a writer needs to store a label map on the same grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ImageGeometry", "ItkGeometry", "NibabelGeometry", "PixelGeometry", "itk_image", "lps_affine"]

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class ItkGeometry:
    """Geometry as SimpleITK gives it, axes in the order (x, y) or (x, y, z).

    Attributes:
        spacing_mm: Voxel size along each axis.
        origin_mm: Position of the first voxel, LPS.
        direction: Direction cosines, row by row, 4 or 9 numbers.
        original_orientation: Letters such as 'LPS' of the file, where the array was turned; None where it was not.
    """

    spacing_mm: tuple[float, ...]
    origin_mm: tuple[float, ...]
    direction: tuple[float, ...]
    original_orientation: str | None = None


@dataclass(frozen=True, eq=False)
class NibabelGeometry:
    """Geometry as nibabel gives it.

    Attributes:
        affine: (4, 4), index (x, y, z) of the file to RAS+ millimetres.
        reoriented_affine: The same of the array, where it was turned to RAS+; None where it was not.
    """

    affine: npt.NDArray[np.float64]
    reoriented_affine: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class PixelGeometry:
    """Geometry of formats without world coordinates.

    Attributes:
        spacing: Voxel size in the order of the array, (z, y, x); (999, 1, 1) for photographs.
    """

    spacing: tuple[float, ...]


ImageGeometry = ItkGeometry | NibabelGeometry | PixelGeometry


def lps_affine(geometry: ImageGeometry) -> npt.NDArray[np.float64]:
    """Matrix from the index (x, y, z) of the array to LPS millimetres.

    Args:
        geometry: Of an image; a 2D one is a slice of 1 mm at z = 0.

    Returns:
        (4, 4) matrix.
    """
    if isinstance(geometry, NibabelGeometry):
        turned = geometry.affine if geometry.reoriented_affine is None else geometry.reoriented_affine
        return np.asarray(_RAS_TO_LPS @ turned, dtype=np.float64)
    affine = np.eye(4)
    if isinstance(geometry, PixelGeometry):
        flat = geometry.spacing[0] == 999
        affine[[0, 1, 2], [0, 1, 2]] = (*geometry.spacing[:0:-1], 1.0 if flat else geometry.spacing[0])
        return affine
    n = len(geometry.spacing_mm)
    affine[:n, :n] = np.reshape(geometry.direction, (n, n)) * np.asarray(geometry.spacing_mm)
    affine[:n, 3] = geometry.origin_mm
    return affine


def itk_image(voxels: npt.NDArray[Any], geometry: ItkGeometry) -> Any:
    """Makes a SimpleITK image.

    Args:
        voxels: (z, y, x); one slice where the geometry is 2D.
        geometry: Of the image.

    Returns:
        The image, which holds a copy of the voxels.
    """
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(voxels[0] if len(geometry.spacing_mm) == 2 else voxels)
    image.SetSpacing(geometry.spacing_mm)
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    return image
