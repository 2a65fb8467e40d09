"""KiTS23: axes stored (z, y, x), masks of single raters beside the segmentation, cases 300 to 399 missing."""

from __future__ import annotations

from pathlib import Path

from tests.conversion_fakes.scene import Fake, make_scene, write_nifti

VALUES = {"kidney_tissue": 1, "kidney_tumor": 2, "kidney_cyst": 3}


def make(folder: Path, name: str) -> Fake:
    scenes = {
        "case_00000": make_scene(1, list(VALUES)),
        "case_00299": make_scene(2, list(VALUES)).without("kidney_cyst"),
        "case_00400": make_scene(3, list(VALUES)),
    }
    for case, scene in scenes.items():
        place = folder / "dataset" / case
        write_nifti(place / "imaging.nii.gz", scene.image, scene.affine, "IPL")
        write_nifti(place / "segmentation.nii.gz", scene.values(VALUES), scene.affine, "IPL")
        rater = scene.values({"kidney_tissue": 1})
        write_nifti(place / "instances" / "kidney_instance-1_annotation-1.nii.gz", rater, scene.affine, "IPL")
    test = make_scene(4, list(VALUES))
    write_nifti(folder / "dataset" / "case_00589" / "imaging.nii.gz", test.image, test.affine, "IPL")
    (folder / "dataset" / "kits23.json").write_text("[]")
    return Fake(folder, scenes, test={"case_00589": test.without(*VALUES)})
