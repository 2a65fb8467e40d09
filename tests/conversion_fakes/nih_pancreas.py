"""NIH Pancreas-CT: DICOM series two folders deep, and label maps turned against them in one way or another."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from tests.conversion_fakes.scene import Fake, Scene, make_scene, write_dicom

FLIPS = {"0001": (), "0002": (1,), "0007": (2,), "0082": (0, 2)}


def make(folder: Path, name: str) -> Fake:
    scenes = {number: soft_tissue(make_scene(int(number), ["pancreas"])) for number in FLIPS}
    for number, scene in scenes.items():
        write_series(folder, number, scene)
        write_turned(folder / f"TCIA_pancreas_labels-02-05-2017/label{number}.nii.gz", label_array(scene), number)
    withdrawn = label_array(make_scene(25, ["pancreas"]))  # labels of withdrawn images are still in the archive
    write_turned(folder / "TCIA_pancreas_labels-02-05-2017/label0025.nii.gz", withdrawn, "0001")
    write_series(folder, "0070", make_scene(70, []))
    return Fake(
        folder,
        {f"PANCREAS_{number}": scene for number, scene in scenes.items()},
        left_out={"PANCREAS_0025", "PANCREAS_0070"},
        patients={f"PANCREAS_{number}": f"PANCREAS_{number}" for number in scenes},
    )


def soft_tissue(scene: Scene) -> Scene:
    """Structures in fat and air, with intensities of soft tissue."""
    rng = np.random.default_rng(0)
    scene.image[:] = rng.integers(-900, -50, scene.image.shape)
    for mask in scene.structures.values():
        scene.image[mask] = rng.integers(60, 160, int(mask.sum()))
    return scene


def write_series(folder: Path, number: str, scene: Scene) -> None:
    """An image as the NIH published it."""
    series = f"1.2.826.{int(number)}"
    place = folder / "Pancreas-CT" / f"PANCREAS_{number}" / "11-24-2015-PANCREAS" / "Pancreas-99667"
    write_dicom(place, scene, series=series, backwards=True)


def label_array(scene: Scene, names: tuple[str, ...] = ("pancreas",)) -> np.ndarray:
    """Label values 1, 2, ... in the voxels of the DICOM series, whose axes run to the left, to the back and up."""
    return scene.values({name: value for value, name in enumerate(names, start=1)})[::-1, ::-1]


def write_turned(path: Path, array: np.ndarray, number: str) -> None:
    """A label map that is turned as that case is, with a header that does not know."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.flip(array, FLIPS[number]).copy(), np.diag([-0.7, -0.7, 1.0, 1.0])), path)
