"""Merge files of the package, merged from fake downloads, and questions to them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from nnunet_partial.conversion.engine import Options
from nnunet_partial.dataset_conversion import collections
from nnunet_partial.labels import PartialLabels, load_dataset_json, partial_labels_of, table
from nnunet_partial.labels.merge_file import MergeFile, load_merge_file
from tests.conversion_fakes.scene import Fake, make_scene, numbered, write_nifti

FILES = {name: load_merge_file(path) for name, path in collections().items()}
NUMBERS = {name: number for number, name in enumerate(FILES, start=900)}
SIGNS = {table.PRESENT: "+", table.ABSENT: "-", table.UNKNOWN: "?"}
# as the comments of the merge files say
OPTIONS = {
    "AbdomenCT-1K": Options(split_sides=True),
    "WORD": Options(split_sides=True),
    "TotalSegmentator_v1": Options(
        labels=tuple(map(str, FILES["Versatile"].sources["totalsegmentator"].labels)), overlaps="ignore"
    ),
    "FLARE23": Options(unlabelled=True),
}

FLARE23 = [
    *("liver", "kidney_right", "spleen", "pancreas", "aorta", "inferior_vena_cava", "adrenal_gland_right"),
    *("adrenal_gland_left", "gallbladder", "esophagus", "stomach", "duodenum", "kidney_left", "tumor"),
]


@dataclass
class Merged:
    """A merged collection, and the fake downloads that it was made from, by source."""

    folder: Path
    file: MergeFile
    fakes: dict[str, Fake]

    def __post_init__(self) -> None:
        self.dataset: dict[str, Any] = load_dataset_json(self.folder)
        self.labels: PartialLabels = partial_labels_of(self.dataset)
        self.splits: list[dict[str, list[str]]] = json.loads((self.folder / "splits_final.json").read_text())

    def label_map(self, case: str) -> np.ndarray:
        path = self.folder / "labelsTr" / f"{case}{self.dataset['file_ending']}"
        if path.name.endswith(".png"):
            return np.swapaxes(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), 0, 1)
        return np.asanyarray(nib.as_closest_canonical(nib.load(path)).dataobj)

    def said(self, case: str, voxels: np.ndarray) -> dict[str, str]:
        """What the label at some voxels, which must be one, says of each class: + present, - absent, ? unknown."""
        (value,) = np.unique(self.label_map(case)[voxels])
        row = self.labels.states[self.labels.row_of(case), value]
        return {name: SIGNS[int(state)] for name, state in zip(self.labels.class_names, row, strict=True)}

    def annotated(self, source: str) -> set[str]:
        """Classes that are annotated in some case of a source."""
        rows = [list(self.labels.sets).index(name) for name, s in self.labels.sets.items() if s.source == source]
        known = self.labels.annotated[rows].any(0)
        return {name for name, one in zip(self.labels.class_names, known, strict=True) if one}


def add_cases(flare23: Fake) -> None:
    """Further cases with tumours, as many as five folds need."""
    for number in range(11, 16):
        scene = make_scene(number, FLARE23)
        for folder, ending, array in (
            ("imagesTr2200", "_0000.nii.gz", scene.image),
            ("labelsTr2200", ".nii.gz", scene.values(numbered(FLARE23))),
        ):
            write_nifti(flare23.download / folder / f"FLARE23_{number:04d}{ending}", array, scene.affine)
        flare23.train[f"FLARE23_{number:04d}"] = scene


def add_two_kidneys(abdomenct: Fake) -> None:
    """A case whose kidneys lie on either side of the middle of the body."""
    scene = make_scene(2, ["liver", "spleen", "pancreas"])
    scene.structures["kidneys"] = np.zeros(scene.image.shape, bool)
    for side in (slice(1, 3), slice(6, 8)):
        scene.structures["kidneys"][side, 3:5, 2:5] = True
    for name in ("liver", "spleen", "pancreas"):
        scene.structures[name] &= ~scene.structures["kidneys"]
    place = abdomenct.download
    image = place / "AbdomenCT-1K-ImagePart1" / "Case_00002_0000.nii.gz"
    write_nifti(image, scene.image.clip(0, 100), scene.affine, "LPS")
    labels = scene.values({"liver": 1, "kidneys": 2, "spleen": 3, "pancreas": 4})
    write_nifti(place / "Mask" / "Case_00002.nii.gz", labels, scene.affine, "LPS")
    abdomenct.train["Case_00002"] = scene
