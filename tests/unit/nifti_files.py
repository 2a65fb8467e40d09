"""Small NIfTI files in several orientations, and nnU-Net's readers of them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

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


def write_noise_image(folder: Path) -> Path:
    """A new folder of images with one case 'a'."""
    folder.mkdir()
    array = np.random.default_rng(0).normal(60, 300, (10, 10, 10)).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.diag([1.5, 1.25, 3.0, 1.0])), folder / "a_0000.nii.gz")
    return folder


def read_label_map(folder: Path) -> np.ndarray:
    """The label map of case 'a' in a folder of predictions."""
    return np.asarray(nib.load(folder / "a.nii.gz").dataobj)
