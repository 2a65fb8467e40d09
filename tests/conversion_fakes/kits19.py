"""KiTS19: axes stored (z, y, x); training and test cases side by side; one case has slices that are not square."""

from __future__ import annotations

from pathlib import Path

from tests.conversion_fakes.scene import Fake, make_scene, write_nifti

VALUES = {"kidney_tissue": 1, "kidney_mass": 2}


def make(folder: Path, name: str) -> Fake:
    scenes = {
        "case_00000": make_scene(1, list(VALUES)),
        "case_00015": make_scene(2, list(VALUES)).without("kidney_mass"),
        "case_00160": make_scene(3, list(VALUES), shape=(12, 8, 7)),
        "case_00209": make_scene(4, list(VALUES)),
    }
    test = {"case_00210": make_scene(5, list(VALUES))}
    data = folder / "kits19" / "data"
    for case, scene in (scenes | test).items():
        write_nifti(data / case / "imaging.nii.gz", scene.image, scene.affine, "IPL")
    for case, scene in scenes.items():
        write_nifti(data / case / "segmentation.nii.gz", scene.values(VALUES), scene.affine, "IPL")
    return Fake(folder, scenes, test={case: scene.without(*VALUES) for case, scene in test.items()})
