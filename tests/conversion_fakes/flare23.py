"""FLARE23: label maps that hold what was annotated only, some of them one structure, and one that holds nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.conversion_fakes.scene import Fake, make_scene, numbered, sheared, write_nifti

ORGANS = [
    *("liver", "kidney_right", "spleen", "pancreas", "aorta", "inferior_vena_cava", "adrenal_gland_right"),
    *("adrenal_gland_left", "gallbladder", "esophagus", "stomach", "duodenum", "kidney_left"),
]
LABELS = [*ORGANS, "tumor"]


def make(folder: Path, name: str) -> Fake:
    scenes = {
        "FLARE23_0001": (sheared(make_scene(1, LABELS)), "RAS"),
        "FLARE23_0002": (make_scene(2, LABELS).without("aorta", "gallbladder", "tumor"), "LPS"),
        "FLARE23_0010": (make_scene(3, LABELS).without(*ORGANS), "LAS"),
        "FLARE23_2200": (make_scene(4, LABELS).without(*LABELS), "RPS"),
    }
    for case, (scene, axes) in scenes.items():
        write_nifti(folder / "imagesTr2200" / f"{case}_0000.nii.gz", scene.image, scene.affine, axes)
        labels = scene.values(numbered(LABELS), np.float64 if case == "FLARE23_0002" else np.int16)
        write_nifti(folder / "labelsTr2200" / f"{case}.nii.gz", labels, scene.affine, axes)
    tuning = make_scene(21, LABELS)
    for place, number in (("unlabelTr1800", 2201), ("unlabeledTr1800", 4000)):  # copies differ in the name
        scene = make_scene(number, LABELS)
        write_nifti(folder / place / f"FLARE23_{number}_0000.nii.gz", scene.image, scene.affine)
    write_nifti(folder / "validation" / "FLARE23Ts_0001_0000.nii.gz", tuning.image, tuning.affine)
    (folder / "FLARE23-DataInfoTraining.xlsx").write_bytes(b"PK\3\4")
    return Fake(
        folder,
        {case: scene for case, (scene, _) in scenes.items()},
        test={"FLARE23Ts_0001": tuning.without(*LABELS)},
        left_out={"FLARE23_2201", "FLARE23_4000"},
        annotated={case: set(scene.structures) for case, (scene, _) in scenes.items()},
    )
