"""AbdomenAtlas Mini: a folder a case, in folders of archives or not; label maps whose origin is not the image's."""

from __future__ import annotations

from pathlib import Path

from tests.conversion_fakes.scene import Fake, make_scene, write_nifti

FIRST = {
    "aorta": 1,
    "gallbladder": 2,
    "kidney_left": 3,
    "kidney_right": 4,
    "liver": 5,
    "pancreas": 6,
    "inferior_vena_cava": 7,
    "spleen": 8,
    "stomach": 9,
}
SECOND = FIRST | {
    "adrenal_gland_left": 10,
    "adrenal_gland_right": 11,
    "urinary_bladder": 12,
    "celiac_trunk": 13,
    "colon": 14,
    "duodenum": 15,
    "esophagus": 16,
    "femur_left": 17,
    "femur_right": 18,
    "liver_vessel": 19,
    "intestine": 20,
    "lung_left": 21,
    "lung_right": 22,
    "portal_vein_and_splenic_vein": 23,
    "prostate": 24,
    "rectum": 25,
}


def make(folder: Path, name: str) -> Fake:
    first = name == "AbdomenAtlas1_0Mini"
    labels = FIRST if first else SECOND
    archives = ("", "") if first else ("AbdomenAtlas1.1Mini_BDMAP_00000001_00000500", "")
    scenes = {"BDMAP_00000001": make_scene(1, list(labels)), "BDMAP_00005195": make_scene(2, list(labels))}
    scenes["BDMAP_00005195"] = scenes["BDMAP_00005195"].without("gallbladder")
    for (case, scene), archive in zip(scenes.items(), archives, strict=True):
        shifted = scene.affine.copy()
        shifted[:3, 3] += (3, -4, 5)
        place = folder / archive / case
        write_nifti(place / "ct.nii.gz", scene.image, scene.affine, "LPS")
        write_nifti(place / "combined_labels.nii.gz", scene.values(labels), shifted, "RAS")
        organ = scene.values({"spleen": 1})
        write_nifti(place / "segmentations" / "spleen.nii.gz", organ, shifted, "RAS")
    if not first:
        lonely = make_scene(3, list(labels))
        path = folder / "BDMAP_00005196" / "combined_labels.nii.gz"
        write_nifti(path, lonely.values(labels), lonely.affine, "RAS")
    return Fake(folder, scenes, left_out=set() if first else {"BDMAP_00005196"})
