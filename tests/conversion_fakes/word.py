"""WORD: cases of the three parts are numbered through; labels of the test cases are a download of their own."""

from __future__ import annotations

from pathlib import Path

from tests.conversion_fakes.scene import Fake, make_scene, numbered, write_nifti

LABELS = [
    *("liver", "spleen", "kidney_left", "kidney_right", "stomach", "gallbladder", "esophagus", "pancreas", "duodenum"),
    *("colon", "intestine", "adrenal_glands", "rectum", "urinary_bladder", "femoral_head_left", "femoral_head_right"),
]
PARTS = {"Tr": ("0002", "0004", "0150"), "Val": ("0001",), "Ts": ("0003",)}


def make(folder: Path, name: str) -> Fake:
    root, scenes = folder / "WORD-V0.1.0", {}
    for part, numbers in PARTS.items():
        for number in numbers:
            case, scene = f"word_{number}", make_scene(int(number), LABELS)
            scenes[case] = scene.without("gallbladder") if number == "0004" else scene
            write_nifti(root / f"images{part}" / f"{case}.nii.gz", scene.image, scene.affine, "LPS")
            labels = scenes[case].values(numbered(LABELS))
            write_nifti(root / f"labels{part}" / f"{case}.nii.gz", labels, scene.affine, "LPS")
    return Fake(
        folder,
        {case: scene for case, scene in scenes.items() if case != "word_0003"},
        test={"word_0003": scenes["word_0003"]},
        validation={"word_0001"},
    )
