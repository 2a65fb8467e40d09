"""KiTS21: axes stored (z, y, x); three votes on the masks of the raters beside every image."""

from __future__ import annotations

from pathlib import Path

from tests.conversion_fakes.scene import Fake, make_scene, write_nifti

VALUES = {"kidney_tissue": 1, "kidney_tumor": 2, "kidney_cyst": 3}


def make(folder: Path, name: str) -> Fake:
    scenes = {
        "case_00000": make_scene(1, list(VALUES)),
        "case_00210": make_scene(2, list(VALUES)).without("kidney_cyst"),
        "case_00299": make_scene(3, list(VALUES)),
    }
    for case, scene in scenes.items():
        place = folder / "kits21" / "kits21" / "data" / case  # the repository, and the folder of its package
        write_nifti(place / "imaging.nii.gz", scene.image, scene.affine, "IPL")
        votes = {"MAJ": scene, "AND": scene.without("kidney_tumor"), "OR": make_scene(9, list(VALUES))}
        for vote, voted in votes.items():
            write_nifti(place / f"aggregated_{vote}_seg.nii.gz", voted.values(VALUES), scene.affine, "IPL")
    return Fake(folder, scenes)
