"""AMOS22: CT and MR in the same folders, numbers with gaps, headers whose axes are not at right angles."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conversion_fakes.scene import Fake, make_scene, numbered, sheared, write_nifti

LABELS = [
    *("spleen", "kidney_right", "kidney_left", "gallbladder", "esophagus", "liver", "stomach", "aorta"),
    *("inferior_vena_cava", "pancreas", "adrenal_gland_right", "adrenal_gland_left", "duodenum", "urinary_bladder"),
    "prostate_or_uterus",
]
NUMBERS = {"CT": {"Tr": (1, 4, 405), "Va": (410,), "Ts": (3,)}, "MR": {"Tr": (507, 540), "Va": (600,), "Ts": (601,)}}


def make(folder: Path, name: str) -> Fake:
    root, fake = folder / "amos22", Fake(folder, {})
    for modality, parts in NUMBERS.items():
        for part, numbers in parts.items():
            for number in numbers:
                case, scene = f"amos_{number:04d}", make_scene(number, LABELS)
                if modality == "MR":
                    scene = scene.without("urinary_bladder", "prostate_or_uterus")
                if number in (4, 540):
                    scene = sheared(scene)
                axes = "LAS" if number % 2 else "RAS"
                write_nifti(root / f"images{part}" / f"{case}.nii.gz", scene.image, scene.affine, axes)
                if part != "Ts":
                    labels = scene.values(numbered(LABELS))
                    write_nifti(root / f"labels{part}" / f"{case}.nii.gz", labels, scene.affine, axes)
                if name == f"AMOS22_{modality}":
                    (fake.test if part == "Ts" else fake.train)[case] = (
                        scene.without(*LABELS) if part == "Ts" else scene
                    )
                    fake.validation |= {case} if part == "Va" else set()
    (root / "dataset.json").write_text(json.dumps({"name": "AMOS", "tensorImageSize": "3D"}))
    (root / "readme.md").write_text("AMOS\n")
    return fake
