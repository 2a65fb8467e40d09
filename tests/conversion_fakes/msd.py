"""Tasks of the Medical Segmentation Decathlon; names have leading zeros in some tasks only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.conversion_fakes.scene import Fake, make_scene, numbered, write_nifti

TASKS = {
    "MSD_Liver": ("Task03_Liver", "liver_{}", ["liver_tissue", "liver_tumor"]),
    "MSD_Lung": ("Task06_Lung", "lung_{:03d}", ["lung_tumor"]),
    "MSD_Pancreas": ("Task07_Pancreas", "pancreas_{:03d}", ["pancreas_tissue", "pancreas_tumor"]),
    "MSD_HepaticVessel": ("Task08_HepaticVessel", "hepaticvessel_{:03d}", ["hepatic_vessel", "liver_tumor"]),
    "MSD_Spleen": ("Task09_Spleen", "spleen_{}", ["spleen"]),
    "MSD_Colon": ("Task10_Colon", "colon_{:03d}", ["colon_tumor"]),
}


def make(folder: Path, name: str) -> Fake:
    task, pattern, labels = TASKS[name]
    root = folder / task
    train = {pattern.format(number): make_scene(number, labels) for number in (2, 10, 63)}
    for case, scene in train.items():
        write_nifti(root / "imagesTr" / f"{case}.nii.gz", scene.image.astype(np.float32), scene.affine)
        write_nifti(root / "labelsTr" / f"{case}.nii.gz", scene.values(numbered(labels)), scene.affine)
    case, scene = pattern.format(1), make_scene(1, labels)
    write_nifti(root / "imagesTs" / f"{case}.nii.gz", scene.image, scene.affine)
    (root / "dataset.json").write_text(json.dumps({"name": name, "tensorImageSize": "3D"}))
    return Fake(folder, train, test={case: scene.without(*labels)})
