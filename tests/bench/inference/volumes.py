"""Volumes made of a phantom: scans to predict, and patients to train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_partial.atomic import atomic_path
from nnunet_partial.inference.resampling import AxisMap
from nnunet_partial.phantoms.hard import TISSUES, make_hard_phantom
from tests.bench.inference.presets import Grid, Triple

__all__ = ["CASE", "CLASSES", "training_phantom", "write_volume"]

CASE = "phantom"
CLASSES: tuple[str, ...] = (
    "liver_tissue",
    "liver_tumour",
    "spleen",
    "kidney_left",
    "kidney_right",
    "pancreas",
    "adrenal",
    "stomach",
    "bowel",
    "lung",
    "bone",
    "vessel",
    "muscle",
)
"""The tissues of a phantom that the network learns."""

_COARSER = 2  # in plane: a phantom of all voxels would take several times the memory
_SEED = 1000
_NOISE_HU = 10.0


def training_phantom(
    seed: int, shape: Triple, spacing_mm: tuple[float, float, float]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """A patient to train on.

    Args:
        seed: Of the patient.
        shape: Voxels, (z, y, x).
        spacing_mm: Their size.

    Returns:
        Hounsfield units, float32, and the number of the class, counted from 1, 0 for none; both `shape`.
    """
    z, y, x = shape
    phantom = make_hard_phantom(seed, shape=(x, y, z), spacing_mm=(spacing_mm[2], spacing_mm[1], spacing_mm[0]))
    names = tuple(TISSUES)
    value_of = np.array([CLASSES.index(name) + 1 if name in CLASSES else 0 for name in names], np.uint8)
    labels = value_of[phantom.tissues]
    return np.ascontiguousarray(phantom.image.transpose(2, 1, 0)), np.ascontiguousarray(labels.transpose(2, 1, 0))


def write_volume(path: Path, grid: Grid) -> None:
    """Writes a scan of a patient that is in no training set, as int16 NIfTI, if it is not there.

    The phantom is made with larger voxels in plane and interpolated; noise is added at the full resolution, so that
    the file is packed about as well as a scan.

    Args:
        path: .nii.gz.
        grid: Its voxels.
    """
    if path.is_file():
        return
    planes, rows, columns = grid.shape
    dz, dy, dx = grid.spacing_mm
    coarse = (-(-columns // _COARSER), -(-rows // _COARSER), planes)
    sizes = (dx * columns / coarse[0], dy * rows / coarse[1], dz)
    phantom = make_hard_phantom(_SEED, shape=coarse, spacing_mm=sizes)
    along_y, along_x = AxisMap.linear(coarse[1], rows), AxisMap.linear(coarse[0], columns)
    rng = np.random.default_rng(_SEED)
    scan = np.empty(grid.shape, np.int16)
    for plane in range(planes):
        slice_yx = np.ascontiguousarray(phantom.image[:, :, plane].T)
        fine = along_x.along(along_y.along(slice_yx, 0), 1)
        fine += rng.standard_normal(fine.shape, np.float32) * np.float32(_NOISE_HU)
        scan[plane] = np.rint(fine)
    image = sitk.GetImageFromArray(scan)
    image.SetSpacing((dx, dy, dz))
    with atomic_path(path) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)
