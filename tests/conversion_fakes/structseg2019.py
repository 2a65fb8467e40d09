"""StructSeg 2019: four tasks whose files have the same names; two published label tables of the third."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.conversion_fakes.scene import Fake, Scene, make_scene, numbered, write_nifti

ORDERS = {
    "StructSeg2019_Task3": ["lung_left", "lung_right", "heart", "esophagus", "trachea", "spinal_cord"],
    "StructSeg2019_Task3_reordered": ["lung_right", "lung_left", "heart", "trachea", "esophagus", "spinal_cord"],
}
AIR_HU, TISSUE_HU = -950, 30


def make(folder: Path, name: str) -> Fake:
    scenes = {f"thoracic_oar_{number}": _thorax(number, ORDERS[name]) for number in (1, 2, 50)}
    for case, scene in scenes.items():
        place = folder / "Task3_Thoracic_OAR" / case.rpartition("_")[2]
        write_nifti(place / "data.nii.gz", scene.image, scene.affine, "LPS")
        write_nifti(place / "label.nii.gz", scene.values(numbered(ORDERS[name])), scene.affine, "LPS")
    other = make_scene(9, ["lung_tumor"])
    write_nifti(folder / "Task4_Lung_GTV" / "1" / "data.nii.gz", other.image, other.affine, "LPS")
    write_nifti(folder / "Task4_Lung_GTV" / "1" / "label.nii.gz", other.values({"lung_tumor": 1}), other.affine, "LPS")
    return Fake(folder, scenes)


def _thorax(seed: int, names: list[str]) -> Scene:
    """The left lung on the left, a trachea full of air, an esophagus with some."""
    scene = make_scene(seed, names)
    left, right = scene.structures["lung_left"], scene.structures["lung_right"]
    if left.nonzero()[0].mean() > right.nonzero()[0].mean():
        scene.structures |= {"lung_left": right, "lung_right": left}
    scene.image[scene.structures["trachea"]] = AIR_HU
    scene.image[scene.structures["esophagus"]] = np.resize([TISSUE_HU, TISSUE_HU, TISSUE_HU, AIR_HU], 12)
    return scene
