"""TotalSegmentator: a folder of masks a subject, which overlap here and there, and meta.csv with semicolons."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunet_partial.dataset_conversion import totalsegmentator
from tests.conversion_fakes.scene import Fake, Scene, make_scene, sheared, write_nifti

RELEASES = {
    "TotalSegmentator_v1": ("Totalsegmentator_dataset", "ct.nii.gz", totalsegmentator.CT_1, "s0864"),
    "TotalSegmentator_v2": ("Totalsegmentator_dataset_v201", "ct.nii.gz", totalsegmentator.CT_2, None),
    "TotalSegmentator_MRI": ("", "mri.nii.gz", totalsegmentator.MR, "s0026"),
}
SPLITS = {"s0000": "train", "s0011": "val", "s0013": "test"}


def make(folder: Path, name: str) -> Fake:
    top, image, labels, left_out = RELEASES[name]
    root = folder / top
    scenes = {case: make_scene(seed, labels) for seed, case in enumerate(SPLITS)}
    scenes["s0000"] = sheared(scenes["s0000"])
    first = scenes["s0000"].structures
    if "kidney_cyst_left" in first:
        first["kidney_left"] |= first["kidney_cyst_left"]
        first["sacrum"] |= first["vertebrae_S1"]
    first["urinary_bladder"][:] = False  # out of the image: an empty mask
    if left_out:
        scenes[left_out] = make_scene(9, labels)
    for case, scene in scenes.items():
        write_nifti(root / case / image, scene.image, scene.affine)
        for structure in labels:
            path = root / case / "segmentations" / f"{structure}.nii.gz"
            write_nifti(path, scene.structures[structure].astype(np.uint8), scene.affine)
    rows = [f"{case};50;m;institute A;ct abdomen;{split}" for case, split in SPLITS.items()]
    (root / "meta.csv").write_text("\n".join(["image_id;age;gender;institute;study_type;split", *rows]) + "\n")
    shown: dict[str, Scene] = {case: scenes[case] for case in SPLITS}
    return Fake(
        folder,
        train={case: shown[case] for case in ("s0000", "s0011")},
        test={"s0013": shown["s0013"]},
        left_out={left_out} if left_out else set(),
        validation={"s0011"},
    )
