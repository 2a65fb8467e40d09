"""A raw nnU-Net dataset on disk: where it is, its cases, its label names. Nothing is imported from nnU-Net."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunet_partial.errors import LabelError
from nnunet_partial.labels.sidecar import load_dataset_json
from nnunet_partial.volumes import channel_files

__all__ = ["PICTURES", "RawCase", "RawDataset", "environment_folder", "find_dataset_folder"]

PICTURES = (".png", ".bmp", ".tif")
"""Endings of the formats of which nnU-Net keeps all colours of a picture in one file, CASE_0000."""


@dataclass(frozen=True)
class RawCase:
    """Files of one training case.

    Attributes:
        name: Its name.
        images: One file a channel, or one coloured picture of all channels.
        label: None where the case has no label map.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None


def environment_folder(variable: str) -> Path:
    """A folder named by one of nnU-Net's environment variables.

    Raises:
        LabelError: The variable is not set.
    """
    if not os.environ.get(variable):
        raise LabelError(f"the environment variable {variable} is not set; nnU-Net needs it to find its folders")
    return Path(os.environ[variable])


def find_dataset_folder(dataset: str | int, relative_to: Path | None = None) -> Path:
    """Finds a raw dataset by path, by name or by number.

    Args:
        dataset: A folder, a name ('Dataset003_Liver') or a number (3); names and numbers live in $nnUNet_raw.
        relative_to: Folder that relative paths start from, besides the current one.

    Raises:
        LabelError: There is no such dataset, or a number stands for several.
    """
    text = str(dataset)
    if not text.isdigit():
        for candidate in (Path(text).expanduser(), (relative_to or Path()) / text):
            if (candidate / "dataset.json").is_file():
                return candidate
            if os.sep in text and candidate.is_dir():
                raise LabelError(f"{candidate}: no dataset.json there; expected a raw nnU-Net dataset")
    raw = environment_folder("nnUNet_raw")
    if text.isdigit():
        found = sorted(p for p in raw.glob(f"Dataset{int(text):03d}_*") if p.is_dir())
        if len(found) > 1:
            raise LabelError(f"dataset {text}: several folders in {raw}: {[p.name for p in found]}; give the name")
        if found:
            return found[0]
    elif (raw / text).is_dir():
        return raw / text
    raise LabelError(
        f"dataset '{text}': no such dataset in {raw} and no such folder; "
        "give a path, a name like Dataset003_Liver or a number"
    )


class RawDataset:
    """A raw nnU-Net dataset.

    Args:
        folder: The DatasetXXX_Name folder with its dataset.json.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.json = load_dataset_json(folder)

    def __repr__(self) -> str:
        return f"RawDataset({self.folder.name})"

    @property
    def file_ending(self) -> str:
        """Ending of image and label files, with its dot."""
        return str(self._required("file_ending"))

    @property
    def channel_names(self) -> dict[str, str]:
        """Channel number (as text) to name."""
        return {str(k): str(v) for k, v in dict(self._required("channel_names")).items()}

    def _required(self, key: str) -> Any:
        if key not in self.json:
            raise LabelError(f"{self.folder / 'dataset.json'}: the key '{key}' is missing")
        return self.json[key]

    @cached_property
    def label_values(self) -> dict[str, int | tuple[int, ...]]:
        """Label name to its value, or to its values for region labels."""
        values: dict[str, int | tuple[int, ...]] = {}
        for name, value in dict(self._required("labels")).items():
            try:
                values[str(name)] = tuple(int(v) for v in value) if isinstance(value, (list, tuple)) else int(value)
            except (TypeError, ValueError) as error:
                raise LabelError(
                    f"{self.folder / 'dataset.json'}, labels: expected a number for '{name}', found {value!r}; is this "
                    "the format of the Medical Segmentation Decathlon or of nnU-Net v1? Convert it with "
                    "nnUNetv2_convert_MSD_dataset or nnUNetv2_convert_old_nnUNet_dataset"
                ) from error
        return values

    @cached_property
    def cases(self) -> dict[str, RawCase]:
        """Training cases by name, sorted.

        Raises:
            LabelError: There are none, or a case lacks a channel.
        """
        listed = self.json.get("dataset")
        cases = self._listed_cases(listed) if listed else self._found_cases()
        if not cases:
            raise LabelError(
                f"{self.folder}: no training cases; expected imagesTr/CASE_0000{self.file_ending} or a 'dataset' "
                "entry in dataset.json"
            )
        return dict(sorted(cases.items()))

    def _listed_cases(self, listed: Mapping[str, Mapping[str, Any]]) -> dict[str, RawCase]:
        cases = {}
        for name, entry in listed.items():
            label = entry.get("label")
            images = tuple(self._resolve(image) for image in entry["images"])
            cases[name] = RawCase(name, images, self._resolve(label) if label else None)
        return cases

    def _resolve(self, path: str) -> Path:
        # nnU-Net removes '..' from the text of the path, without following symbolic links; so do we
        return Path(os.path.abspath(self.folder / os.path.expandvars(path)))  # noqa: PTH100

    def _found_cases(self) -> dict[str, RawCase]:
        folder = self.folder / "imagesTr"
        found = channel_files(folder, self.file_ending)
        channels = [int(channel) for channel in self.channel_names]
        if self.file_ending in PICTURES and all(set(files) == {0} for files in found.values()):
            channels = [0]
        cases = {}
        for name, files in found.items():
            missing = [channel for channel in channels if channel not in files]
            if missing:
                raise LabelError(
                    f"{folder}: case '{name}' lacks channel {missing[0]}; expected {name}_{missing[0]:04d}"
                    f"{self.file_ending}"
                )
            label = self.folder / "labelsTr" / f"{name}{self.file_ending}"
            images = tuple(files[channel] for channel in channels)
            cases[name] = RawCase(name, images, label if label.exists() else None)
        return cases
