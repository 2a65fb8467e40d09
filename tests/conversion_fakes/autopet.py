"""autoPET: a folder a patient, in it a folder a study with a long name, with CT and PET before and after resampling."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.conversion_fakes.scene import Fake, Scene, make_scene, write_nifti

LESION = "fdg_avid_lesion"
STUDIES = {  # made-up names in the published form, with double blanks and dates that start with the month
    "PETCT_00a1b2c3d4_0": ("PETCT_00a1b2c3d4", "08-13-2005-NA-PET-CT Ganzkoerper  primaer mit KM-11111"),
    "PETCT_00e5f60718_0": ("PETCT_00e5f60718", "09-02-2001-NA-PET-CT Ganzkoerper  primaer mit KM-22222"),
    "PETCT_00e5f60718_1": ("PETCT_00e5f60718", "12-22-2000-NA-PET-CT Ganzkoerper  primaer mit KM-33333"),
    "PETCT_0123456789_0": ("PETCT_0123456789", "10-20-2004-NA-Unspecified CT ABDOMEN-44444"),
    "PETCT_0abcdef012_0": ("PETCT_0abcdef012", "07-31-2004-NA-PET-CT Teilkoerper  primaer mit KM-55555"),
    "PETCT_0fedcba987_0": ("PETCT_0fedcba987", "04-29-2002-NA-PET-CT Ganzkoerper nativ u. mit KM-66666"),
}
HEALTHY = "PETCT_0abcdef012_0"


def make(folder: Path, name: str) -> Fake:
    top = folder / "FDG-PET-CT-Lesions"
    scenes = {case: make_scene(seed, [LESION]) for seed, case in enumerate(STUDIES)}
    scenes[HEALTHY] = scenes[HEALTHY].without(LESION)
    for seed, (case, (patient, study)) in enumerate(STUDIES.items()):
        _write(top / patient / study, scenes[case], seed)
    (top / "fdg_metadata.csv").write_text("Subject ID,diagnosis,sex\nPETCT_00a1b2c3d4,NEGATIVE,F\n")
    return Fake(folder, scenes, patients={case: patient for case, (patient, _) in STUDIES.items()})


def uptake(case: str) -> np.ndarray:
    """What the second channel of a case holds, in axes that run right, front and up."""
    return make_scene(100 + list(STUDIES).index(case), []).image.astype(np.float32) / 8


def _write(place: Path, scene: Scene, seed: int) -> None:
    case = list(STUDIES)[seed]
    write_nifti(place / "CTres.nii.gz", scene.image.astype(np.float32), scene.affine, "LAS")
    write_nifti(place / "SUV.nii.gz", uptake(case), scene.affine, "LAS")
    write_nifti(place / "SEG.nii.gz", scene.values({LESION: 1}), scene.affine, "LAS")
    before = make_scene(seed, [], shape=(18, 16, 7), spacing=(0.75, 1.0, 2.5))
    write_nifti(place / "CT.nii.gz", before.image, before.affine, "LAS")
    write_nifti(place / "PET.nii.gz", 1000 * uptake(case), scene.affine, "LAS")
