"""FLARE22: images with nnU-Net's _0000, labels without; some headers are not orthonormal."""

from __future__ import annotations

from pathlib import Path

from tests.conversion_fakes.scene import Fake, make_scene, numbered, sheared, write_nifti

LABELS = [
    *("liver", "kidney_right", "spleen", "pancreas", "aorta", "inferior_vena_cava", "adrenal_gland_right"),
    *("adrenal_gland_left", "gallbladder", "esophagus", "stomach", "duodenum", "kidney_left"),
]


def make(folder: Path, name: str) -> Fake:
    values = numbered(LABELS)
    scenes = {
        "FLARE22_Tr_0001": (make_scene(1, LABELS), "RAS"),
        "FLARE22_Tr_0002": (make_scene(2, LABELS).without("gallbladder"), "LPS"),
        "FLARE22_Tr_0010": (sheared(make_scene(10, LABELS)), "LAS"),
    }
    for case, (scene, axes) in scenes.items():
        write_nifti(folder / "images" / f"{case}_0000.nii.gz", scene.image, scene.affine, axes)
        write_nifti(folder / "labels" / f"{case}.nii.gz", scene.values(values), scene.affine, axes)
    unlabelled, tuning = make_scene(20, LABELS), make_scene(21, LABELS)
    write_nifti(folder / "Case_00001_0000.nii.gz", unlabelled.image, unlabelled.affine, "LPS")
    write_nifti(folder / "FLARETs_0001_0000.nii.gz", tuning.image, tuning.affine, "LPS")
    return Fake(
        folder,
        {case: scene for case, (scene, _) in scenes.items()},
        test={"FLARETs_0001": tuning.without(*LABELS)},
        left_out={"Case_00001"},
    )
