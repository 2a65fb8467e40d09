"""SegTHOR: a folder a training case, with a label map called GT; test images lie side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.conversion_fakes.scene import Fake, make_scene, numbered, write_nifti

LABELS = ["esophagus", "heart", "trachea", "aorta"]


def make(folder: Path, name: str) -> Fake:
    scenes = {f"Patient_{number:02d}": make_scene(number, LABELS) for number in (1, 9, 40)}
    for case, scene in scenes.items():
        write_nifti(folder / "train" / case / f"{case}.nii.gz", scene.image, scene.affine, "LAS")
        label = scene.values(numbered(LABELS), np.uint16)
        write_nifti(folder / "train" / case / "GT.nii.gz", label, scene.affine, "LAS")
    test = make_scene(41, LABELS)
    write_nifti(folder / "test" / "Patient_41.nii.gz", test.image, test.affine, "LAS")
    return Fake(folder, scenes, test={"Patient_41": test.without(*LABELS)})
