"""What fake downloads are made of: small scenes in world coordinates, and writers of the formats they come in."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.orientations import axcodes2ornt, ornt_transform

SHAPE = (9, 8, 7)
SPACING_MM = (1.5, 2.0, 2.5)


@dataclass
class Scene:
    """A case as it is: image and structures in axes that run right, front and up (x, y, z).

    Attributes:
        image: Intensities; no two scenes are alike, and none looks the same turned around.
        structures: Name to its voxels.
        affine: Voxel to world.
    """

    image: np.ndarray
    structures: dict[str, np.ndarray]
    affine: np.ndarray

    def values(self, labels: Mapping[str, int], dtype: type = np.uint8) -> np.ndarray:
        """A label map; later structures are drawn over earlier ones."""
        drawn = np.zeros(self.image.shape, dtype)
        for name, value in labels.items():
            if name in self.structures:
                drawn[self.structures[name]] = value
        return drawn

    def without(self, *names: str) -> Scene:
        """The same without some structures."""
        return Scene(self.image, {n: v for n, v in self.structures.items() if n not in names}, self.affine)


@dataclass
class Fake:
    """What a right conversion of a fake download holds.

    Attributes:
        download: What a user gives with -i.
        train: Training case to what it shows; where structures were not annotated they are left out.
        test: Test case to what it shows; without structures where labels are hidden.
        left_out: Cases that are not converted by default.
        annotated: Case to what was annotated, where that is not everything.
        patients: Case to patient, where known.
        validation: Cases of the official validation set.
    """

    download: Path
    train: dict[str, Scene]
    test: dict[str, Scene] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    annotated: dict[str, set[str]] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)
    validation: set[str] = field(default_factory=set)


def make_scene(
    seed: int, names: Sequence[str], shape: tuple[int, int, int] = SHAPE, spacing: Sequence[float] = SPACING_MM
) -> Scene:
    """A scene in which every structure has a voxel or more, no two share one, and they lie anywhere."""
    rng = np.random.default_rng([seed, zlib.crc32(" ".join(names).encode())])
    voxels = rng.permutation(int(np.prod(shape)))
    structures = {}
    size = max(1, min(12, len(voxels) // (2 * len(names) + 1)))
    for index, name in enumerate(names):
        mask = np.zeros(shape, bool)
        mask.flat[voxels[index * size : (index + 1) * size]] = True
        structures[name] = mask
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = rng.integers(-50, 50, 3)
    return Scene(rng.integers(-1000, 1500, shape).astype(np.int16), structures, affine)


def sheared(scene: Scene) -> Scene:
    """The same voxels with axes that are not quite at right angles, which ITK refuses."""
    affine = scene.affine.copy()
    affine[0, 1] = 0.02
    return Scene(scene.image, scene.structures, affine)


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray, axes: str = "RAS") -> None:
    """Writes an array that is given in right-front-up axes with other axes, such as 'LPS' or 'SRA'."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    nib.save(image.as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes))), path)


def write_dicom(folder: Path, scene: Scene, *, series: str = "1.2.3", backwards: bool = False) -> list[Path]:
    """Writes a scene as a DICOM series with stored values 1024 above HU; file names run against z where `backwards`."""
    folder.mkdir(parents=True, exist_ok=True)
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    image = scene.image[::-1, ::-1]  # rows and columns of DICOM run to the left and to the back
    corner = np.array([scene.image.shape[0] - 1, scene.image.shape[1] - 1, 0, 1.0])
    origin = (to_lps @ scene.affine @ corner)[:3]
    spacing = np.linalg.norm(scene.affine[:3, :3], axis=0)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    files = []
    for index in range(image.shape[2]):
        piece = sitk.GetImageFromArray(image[:, :, index].T.astype(np.int16))
        piece.SetSpacing(spacing[:2].tolist())
        position = origin + np.array([0, 0, index * spacing[2]])
        tags = {
            "0008|0060": "CT",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"{series}.{index + 1}",
            "0020|000d": "1.2",
            "0020|000e": series,
            "0020|0013": str(index + 1),
            "0020|0032": "\\".join(f"{value:.6f}" for value in position),
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0028|1052": "-1024",
            "0028|1053": "1",
        }
        for key, value in tags.items():
            piece.SetMetaData(key, value)
        number = image.shape[2] - 1 - index if backwards else index
        files.append(folder / f"{series.replace('.', '_')}_{number:04d}.dcm")
        writer.SetFileName(str(files[-1]))
        writer.Execute(piece)
    return files


def write_picture(path: Path, array: np.ndarray) -> None:
    """Writes (x, y) or (x, y, colour) as a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(np.swapaxes(array, 0, 1), isVector=array.ndim > 2), str(path))


def add_junk(folder: Path) -> None:
    """Adds what archives made on a Mac, and file managers, leave beside every file."""
    for file in [path for path in folder.rglob("*") if path.is_file()]:
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\26\7")
    for parent in {path.parent for path in folder.rglob("*") if path.is_file()}:
        (parent / ".DS_Store").write_bytes(b"\0")
        (parent / ".directory").write_text("[Dolphin]")
    shadow = folder / "__MACOSX" / "images"
    shadow.mkdir(parents=True)
    (shadow / "._img0001.nii.gz").write_bytes(b"\0\5\26\7")


def numbered(names: Sequence[str], first: int = 1) -> dict[str, Any]:
    """Names to values 1, 2, ..."""
    return {name: value for value, name in enumerate(names, start=first)}
