"""Fake downloads, converted, and questions to their results."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from nnunet_partial.conversion import Converter
from nnunet_partial.conversion.engine import ConversionResult, Options, Plan, convert_dataset, plan_conversion
from nnunet_partial.dataset_conversion import converters
from nnunet_partial.labels import PartialLabels, load_dataset_json, partial_labels_of, table
from nnunet_partial.labels.verify import verify_dataset
from tests.conversion_fakes.scene import Fake, add_junk

CONVERTERS = converters()
PRESENT, ABSENT, UNKNOWN = "present", "absent", "unknown"
_WORDS = {table.PRESENT: PRESENT, table.ABSENT: ABSENT, table.UNKNOWN: UNKNOWN}


def fake_download(converter: Converter, folder: Path) -> Fake:
    """The fake download of a converter, which the module of the same name makes, with junk files in it."""
    cases = getattr(converter.cases, "func", converter.cases)
    module = importlib.import_module(f"tests.conversion_fakes.{cases.__module__.rpartition('.')[2]}")
    fake: Fake = module.make(folder, converter.name)
    add_junk(fake.download)
    return fake


@dataclass
class Download:
    """A fake download and what becomes of it."""

    converter: Converter
    fake: Fake
    raw: Path

    @property
    def root(self) -> Path:
        return self.converter.top_folder(self.fake.download)

    def plan(self, **options: Any) -> Plan:
        return plan_conversion(self.converter, self.fake.download, Options(**options))

    def convert(self, **options: Any) -> Converted:
        result = convert_dataset(
            self.converter, self.fake.download, raw_folder=self.raw, options=Options(**options), overwrite=True
        )
        assert verify_dataset(result.folder).problems == []
        return Converted(self.fake, result)


@dataclass
class Converted:
    """A raw dataset that a fake download became."""

    fake: Fake
    result: ConversionResult

    @property
    def folder(self) -> Path:
        return self.result.folder

    @cached_property
    def dataset(self) -> dict[str, Any]:
        return dict(load_dataset_json(self.folder))

    @cached_property
    def labels(self) -> PartialLabels:
        return partial_labels_of(self.dataset)

    @cached_property
    def record(self) -> dict[str, Any]:
        """What conversion.json says of the cases."""
        return dict(json.loads((self.folder / "conversion.json").read_text())["cases"])

    @property
    def values(self) -> dict[str, int]:
        """Label to its value."""
        return dict(self.dataset["labels"])

    def set_of(self, case: str) -> str:
        """The name of the annotation set of a case."""
        return self.labels.cases[case]

    def possible(self, case: str, label: str) -> frozenset[str]:
        """What a voxel with this label could be in this case."""
        return self.labels.set_of(case).possible[self.values[label]]

    def states(self, case: str, label: str) -> dict[str, str]:
        """What a voxel with this label says of every class in this case."""
        row = self.labels.states[self.labels.row_of(case), self.values[label]]
        return {name: _WORDS[int(state)] for name, state in zip(self.labels.class_names, row, strict=True)}

    def annotated(self, case: str) -> set[str]:
        """Classes that were annotated in this case."""
        row = self.labels.annotated[self.labels.row_of(case)]
        return {name for name, known in zip(self.labels.class_names, row, strict=True) if known}

    def label_map(self, case: str, part: str = "Tr") -> np.ndarray:
        """Label values in axes that run right, front and up."""
        image = nib.as_closest_canonical(nib.load(self.folder / f"labels{part}" / f"{case}.nii.gz"))
        return np.asanyarray(image.dataobj)

    def marked(self, case: str, *labels: str, part: str = "Tr") -> np.ndarray:
        """Voxels with any of these labels, in axes that run right, front and up."""
        return np.isin(self.label_map(case, part), [self.values[label] for label in labels])


def download_of(name: str, folder: Path) -> Download:
    """A fake download in a folder of its own."""
    converter = CONVERTERS[name]
    return Download(converter, fake_download(converter, folder / "download"), folder / "raw")


def rewritten(path: Path, change: Any, affine: np.ndarray | None = None) -> None:
    """Changes the voxels of a NIfTI file, in the order in which they are stored, or its header."""
    image = nib.load(path)
    voxels = np.ascontiguousarray(change(np.array(image.dataobj)))
    nib.save(nib.Nifti1Image(voxels, image.affine if affine is None else affine), path)


def converted(converter: Converter, fake: Fake, raw: Path, **options: Any) -> Converted:
    """What a fake download becomes."""
    return Download(converter, fake, raw).convert(**options)
