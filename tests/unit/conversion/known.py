"""Converting a fake download, and asking a converted dataset what it says about a class."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from nnunet_partial.conversion import Converter
from nnunet_partial.conversion.engine import ConversionResult, Options, convert_dataset
from nnunet_partial.labels import load_dataset_json, partial_labels_of
from nnunet_partial.labels.verify import verify_dataset
from tests.conversion_fakes.scene import Fake, add_junk

PRESENT, ABSENT, UNKNOWN = 1, 0, -1


@dataclass
class Converted:
    """A converted dataset."""

    result: ConversionResult

    def __post_init__(self) -> None:
        self.folder = self.result.folder
        self.json: dict[str, Any] = load_dataset_json(self.folder)
        self.values: dict[str, int] = self.json["labels"]
        self.labels = partial_labels_of(self.json)

    def set_of(self, case: str) -> str:
        return self.labels.cases[case]

    def states(self, case: str, label: str) -> dict[str, int]:
        """Class to what a label says of it in a case."""
        row = self.labels.states[self.labels.row_of(case), self.values[label]]
        return dict(zip(self.labels.class_names, row.tolist(), strict=True))

    def label_map(self, case: str, part: str = "Tr") -> np.ndarray:
        """Label values in axes that run right, front and up."""
        path = self.folder / f"labels{part}" / f"{case}.nii.gz"
        return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)


def fake_of(converter: Converter, folder: Path) -> Fake:
    cases = getattr(converter.cases, "func", converter.cases)
    fake: Fake = importlib.import_module(f"tests.conversion_fakes.{cases.__module__.rpartition('.')[2]}").make(
        folder, converter.name
    )
    add_junk(fake.download)
    return fake


def converted(converter: Converter, fake: Fake, raw: Path, **options: Any) -> Converted:
    result = convert_dataset(converter, fake.download, raw_folder=raw, options=Options(**options))
    assert verify_dataset(result.folder).problems == []
    return Converted(result)
