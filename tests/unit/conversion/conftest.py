"""A made-up dataset in folders of images and label maps, and conversions of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.conversion import Case, Converter, LabelMap, ids
from nnunet_partial.conversion.engine import ConversionResult, Options, convert_dataset
from tests.conversion_fakes.scene import Scene, make_scene, numbered, write_nifti

IMAGE, LABEL = "images/{id}.nii.gz", "labels/{id}.nii.gz"
NAMES = ["liver", "spleen", "kidneys"]


def plain_cases(root: Path) -> Iterator[Case]:
    for name in ids(root, IMAGE, LABEL):
        yield Case(name, image=root / IMAGE.format(id=name), label=LabelMap(root / LABEL.format(id=name)))


def toy(**table: Any) -> Converter:
    """A converter of the made-up dataset."""
    content: dict[str, Any] = {
        "name": "Toy",
        "dataset_id": 7,
        "modality": "CT",
        "labels": NAMES,
        "cases": plain_cases,
        "layout": (IMAGE, LABEL),
        "licence": "none",
        "citation": "nobody",
        "url": "http://localhost",
        **table,
    }
    return Converter(**content)


def cases_with(**changes: dict[str, Any]) -> Callable[[Path], Iterator[Case]]:
    """The cases of the made-up dataset, some of them with other attributes."""

    def cases(root: Path) -> Iterator[Case]:
        for case in plain_cases(root):
            yield replace(case, **changes.get(case.id, {}))

    return cases


def one_case(make: Callable[[Path], Case], **table: Any) -> Converter:
    """A converter of a dataset of one case."""

    def cases(root: Path) -> Iterator[Case]:
        yield make(root)

    return toy(cases=cases, **table)


def with_label(label: Callable[[Path], Any], **table: Any) -> Converter:
    """A converter of case a, with other labels."""
    return one_case(lambda root: Case("a", image=root / IMAGE.format(id="a"), label=label(root)), **table)


def canonical(path: Path) -> np.ndarray:
    """The voxels of a NIfTI file in right-front-up axes."""
    return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)


def labels_of(result: ConversionResult, case: str = "a") -> np.ndarray:
    """A converted label map in right-front-up axes."""
    return canonical(result.folder / "labelsTr" / f"{case}.nii.gz")


@dataclass
class Toy:
    """A download of three cases, a, b and c, and where they are converted to."""

    download: Path
    raw: Path
    scenes: dict[str, Scene]

    def image(self, case: str) -> Path:
        return self.download / IMAGE.format(id=case)

    def label(self, case: str) -> Path:
        return self.download / LABEL.format(id=case)

    @property
    def building(self) -> Path:
        return self.raw / ".Dataset007_Toy.incomplete"

    @property
    def target(self) -> Path:
        return self.raw / "Dataset007_Toy"

    def convert(
        self, converter: Converter | None = None, *, overwrite: bool = False, processes: int = 1, **options: Any
    ) -> ConversionResult:
        return convert_dataset(
            converter or toy(),
            self.download,
            raw_folder=self.raw,
            options=Options(**options),
            overwrite=overwrite,
            processes=processes,
        )


@pytest.fixture
def download(tmp_path: Path) -> Toy:
    scenes = {case: make_scene(seed, NAMES) for seed, case in enumerate("abc", start=1)}
    made = Toy(tmp_path / "download", tmp_path / "raw", scenes)
    for case, scene in scenes.items():
        write_nifti(made.image(case), scene.image, scene.affine, "LPS")
        write_nifti(made.label(case), scene.values(numbered(NAMES)), scene.affine, "LPS")
    return made


@pytest.fixture
def content() -> Callable[[Path], dict[str, bytes]]:
    """All files below a folder with their content; the record without what differs between two downloads."""

    def read(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    return read
