"""LiTS: uncompressed, in two folders, with axes of any direction; headers of label maps and some images are lost."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from tests.conversion_fakes.scene import Fake, Scene, make_scene, write_nifti

VALUES = {"liver_tissue": 1, "liver_tumor": 2}
LIVER_HU, TUMOR_HU, AIR_HU = 110, 60, -1000


def make(folder: Path, name: str) -> Fake:
    scenes = {case: _liver(seed) for seed, case in enumerate(("volume-0", "volume-10", "volume-54", "volume-130"))}
    scenes["volume-10"] = scenes["volume-10"].without("liver_tumor")
    lost = _liver(28)
    lost.affine = np.eye(4)
    _write(folder / "Training Batch 1", "volume-0", scenes["volume-0"], "LPS", header=np.eye(4))
    _write(folder / "Training Batch 1", "volume-10", scenes["volume-10"], "RAS")
    _write(folder / "Training Batch 2", "volume-28", lost, "RAS")
    _write(folder / "Training Batch 2", "volume-54", scenes["volume-54"], "RPI", header=np.diag([-1.5, 2.0, 2.5, 1.0]))
    _write(folder / "Training Batch 2", "volume-130", scenes["volume-130"], "SAR", header=np.diag([2.5, 2.0, 1.5, 1]))
    test = {"test-volume-0": _liver(40), "test-volume-69": _liver(41)}
    for place, (case, scene) in zip((folder, folder / "Test-Data"), test.items(), strict=True):
        write_nifti(place / f"{case}.nii", scene.image, scene.affine, "LPS")
    return Fake(
        folder, scenes, test={case: scene.without(*VALUES) for case, scene in test.items()}, left_out={"volume-28"}
    )


def _liver(seed: int) -> Scene:
    """A scene that is air but for the liver, so that an image tells where its labels lie."""
    scene = make_scene(seed, list(VALUES))
    noise = np.random.default_rng(seed).integers(0, 50, scene.image.shape)
    scene.image = (AIR_HU + noise).astype(np.int16)
    scene.image[scene.structures["liver_tissue"]] = LIVER_HU
    scene.image[scene.structures["liver_tumor"]] = TUMOR_HU
    return scene


def _write(folder: Path, case: str, scene: Scene, axes: str, header: np.ndarray | None = None) -> None:
    """Image and label map, voxel for voxel in the same order, whatever the header of the label map says."""
    write_nifti(folder / f"{case}.nii", scene.image, scene.affine, axes)
    label = folder / f"{case.replace('volume', 'segmentation')}.nii"
    write_nifti(label, scene.values(VALUES), scene.affine, axes)
    if header is not None:
        nib.save(nib.Nifti1Image(np.array(nib.load(label).dataobj), header), label)
