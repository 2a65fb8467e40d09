"""Gibson's labels: two folders of labels, images of BTCV and of the NIH beside them, boxes that were annotated."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.conversion_fakes.nih_pancreas import soft_tissue, write_series, write_turned
from tests.conversion_fakes.scene import SHAPE, Fake, Scene, make_scene, write_nifti

LABELS = {
    "spleen": 1,
    "kidney_right": 2,
    "kidney_left": 3,
    "gallbladder": 4,
    "esophagus": 5,
    "liver": 6,
    "stomach": 7,
    "aorta": 8,
    "inferior_vena_cava": 9,
    "portal_vein_and_splenic_vein": 10,
    "pancreas": 11,
    "adrenal_gland_right": 12,
    "adrenal_gland_left": 13,
    "duodenum": 14,
}
NOT_IN_NIH = (
    *("kidney_right", "aorta", "inferior_vena_cava", "portal_vein_and_splenic_vein", "adrenal_gland_right"),
    "adrenal_gland_left",
)
SQUARE = (8, 8, 7)  # of slices that fit transposed as well, so that only the image tells
COLUMNS = ("part", "id", "x_first", "x_last", "y_first", "y_last", "z_first", "z_last")


def make(folder: Path, name: str) -> Fake:
    btcv = {number: _scene(int(number)) for number in ("0001", "0061")}
    nih = {number: _scene(100 + int(number)).without(*NOT_IN_NIH) for number in ("0002", "0007")}
    nih["0003"] = _scene(103, SQUARE).without(*NOT_IN_NIH)
    inside = annotated_box(btcv["0001"])
    rows = [",".join(COLUMNS)]
    for number, scene in btcv.items():
        part = "Training" if int(number) <= 40 else "Testing"
        write_nifti(folder / "RawData" / part / "img" / f"img{number}.nii.gz", scene.image, scene.affine, "LAS")
        path = folder / "label_btcv_multiorgan" / f"label{number}.nii.gz"
        write_nifti(path, scene.values(LABELS), scene.affine, "LAS")
        rows.append(_row("btcv", number, inside[::-1]))
    for number, scene in nih.items():
        write_series(folder, number, scene)
        inside, turned = annotated_box(scene), scene.values(LABELS)[::-1, ::-1]
        path = folder / "label_tciapancreasct_multiorgan" / "label_tcia_multiorgan" / f"label{number}.nii.gz"
        if number == "0003":
            write_turned(path, turned.transpose(1, 0, 2), "0002")
            rows.append(_row("tcia", number, np.flip(inside.transpose(1, 0, 2), 0)))
        else:
            write_turned(path, turned, number)
            axes = {"0002": (0,), "0007": (0, 1, 2)}[number]  # the way of the series, and that of `write_turned`
            rows.append(_row("tcia", number, np.flip(inside, axes)))
        write_turned(path.with_name("label0025.nii.gz"), turned, "0001")
    (folder / "boxes.csv").write_text("\n".join(rows) + "\n")
    (folder / "cropping.csv").write_text("original_id;crop a;crop b\n7;1;2\n")
    scenes = {f"btcv_{n}": s for n, s in btcv.items()} | {f"tcia_{n}": s for n, s in nih.items()}
    return Fake(
        folder,
        {case: _within(scene) for case, scene in scenes.items()},
        left_out={"tcia_0025"},
        annotated={f"tcia_{number}": set(LABELS) - set(NOT_IN_NIH) for number in nih},
        patients={f"btcv_{n}": f"BTCV_{n}" for n in btcv} | {f"tcia_{n}": f"PANCREAS_{n}" for n in nih},
    )


def annotated_box(scene: Scene) -> np.ndarray:
    """The voxels of a scene in which structures were annotated."""
    inside = np.zeros(scene.image.shape, bool)
    inside[1:8, 2:, :6] = True
    return inside


def _scene(seed: int, shape: tuple[int, int, int] = SHAPE) -> Scene:
    """A patient whose spleen lies on the left and whose liver lies on the right."""
    scene = make_scene(seed, list(LABELS), shape)
    masks = scene.structures
    voxels = np.argwhere(masks["spleen"] | masks["liver"])  # in order of x, which runs to the right
    for name, part in zip(("spleen", "liver"), np.array_split(voxels, 2), strict=True):
        masks[name] = np.zeros_like(masks[name])
        masks[name][tuple(part.T)] = True
    return soft_tissue(scene)


def _row(part: str, number: str, inside: np.ndarray) -> str:
    edges = [f"{axis.min()},{axis.max()}" for axis in inside.nonzero()]
    return ",".join([part, number, *edges])


def _within(scene: Scene) -> Scene:
    inside = annotated_box(scene)
    return Scene(scene.image, {name: mask & inside for name, mask in scene.structures.items()}, scene.affine)
