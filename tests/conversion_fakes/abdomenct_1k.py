"""AbdomenCT-1K: images in three folders, some without labels, one scan twice, odd headers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.conversion_fakes.scene import Fake, make_scene, numbered, sheared, write_nifti

LABELS = ["liver", "kidneys", "spleen", "pancreas"]


def make(folder: Path, name: str) -> Fake:
    scenes = {number: make_scene(int(number), LABELS) for number in ("00001", "00219", "00276", "00297", "00433")}
    scenes |= {"00656": make_scene(656, LABELS), "00928": scenes["00297"]}
    for number in ("00219", "00656"):
        scenes[number] = scenes[number].without("spleen")
    scenes["00048"] = make_scene(48, LABELS)
    scenes["00276"].affine[:3, :3] = np.eye(3)  # a voxel size that was lost
    scenes["00433"] = sheared(scenes["00433"])
    for number, scene in scenes.items():
        write_nifti(_image(folder, number), scene.image, scene.affine, "LPS")
        write_nifti(folder / "Mask" / f"Case_{number}.nii.gz", scene.values(numbered(LABELS)), scene.affine, "LPS")
    unlabelled = make_scene(10, LABELS)
    write_nifti(_image(folder, "00010"), unlabelled.image, unlabelled.affine, "LPS")
    scenes.pop("00276")
    patients = {f"Case_{number}": f"AbdomenCT-1K_{number}" for number in scenes}
    return Fake(
        folder,
        {f"Case_{number}": scene for number, scene in scenes.items()},
        left_out={"Case_00010", "Case_00276"},
        patients={**patients, "Case_00928": "AbdomenCT-1K_00297"},
    )


def _image(folder: Path, number: str) -> Path:
    part = 1 if int(number) <= 400 else 2 if int(number) <= 800 else 3
    return folder / f"AbdomenCT-1K-ImagePart{part}" / f"Case_{number}_0000.nii.gz"
