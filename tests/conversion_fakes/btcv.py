"""BTCV and BTCV_Cervix: images and label maps have different names; test images have numbers of their own."""

from __future__ import annotations

from pathlib import Path

from tests.conversion_fakes.scene import Fake, make_scene, numbered, write_nifti

ABDOMEN = [
    *("spleen", "kidney_right", "kidney_left", "gallbladder", "esophagus", "liver", "stomach", "aorta"),
    *("inferior_vena_cava", "portal_vein_and_splenic_vein", "pancreas", "adrenal_gland_right", "adrenal_gland_left"),
]
CERVIX = ["urinary_bladder", "uterus", "rectum", "small_bowel"]


def make(folder: Path, name: str) -> Fake:
    return _cervix(folder) if name == "BTCV_Cervix" else _abdomen(folder)


def _abdomen(folder: Path) -> Fake:
    training, testing = folder / "RawData" / "Training", folder / "RawData" / "Testing"
    scenes = {number: make_scene(int(number), ABDOMEN) for number in ("0001", "0010", "0021", "0040")}
    scenes["0010"] = scenes["0010"].without("kidney_right", "gallbladder")
    for number, scene in scenes.items():
        write_nifti(training / "img" / f"img{number}.nii.gz", scene.image, scene.affine, "LAS")
        labels = scene.values(numbered(ABDOMEN))
        write_nifti(training / "label" / f"label{number}.nii.gz", labels, scene.affine, "LAS")
    test = make_scene(61, ABDOMEN)
    write_nifti(testing / "img" / "img0061.nii.gz", test.image, test.affine, "LAS")
    return Fake(
        folder,
        {f"img{number}": scene for number, scene in scenes.items()},
        test={"img0061": test.without(*ABDOMEN)},
        patients={f"img{number}": f"BTCV_{number}" for number in scenes},
    )


def _cervix(folder: Path) -> Fake:
    training = folder / "CervixRawData" / "Training"
    scenes = {"0507688": make_scene(1, CERVIX), "1410012": make_scene(2, CERVIX).without("uterus")}
    for number, scene in scenes.items():
        write_nifti(training / "img" / f"{number}-Image.nii.gz", scene.image, scene.affine, "LAS")
        write_nifti(training / "label" / f"{number}-Mask.nii.gz", scene.values(numbered(CERVIX)), scene.affine, "LAS")
    return Fake(folder, scenes)
