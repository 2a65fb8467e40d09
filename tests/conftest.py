"""Fixtures of all tests: nnU-Net's folders, and small raw datasets in them."""

from __future__ import annotations

import json
import locale
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

SHAPE = (8, 7, 6)
_LOCALE = locale.setlocale(locale.LC_CTYPE)


@pytest.fixture(autouse=True)
def locale_of_its_own() -> Iterator[None]:
    """Undoes what libraries that read images do to the locale, on which the encoding of text files depends."""
    locale.setlocale(locale.LC_CTYPE, _LOCALE)
    yield
    locale.setlocale(locale.LC_CTYPE, _LOCALE)


@pytest.fixture
def nnunet_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with empty `raw`, `preprocessed` and `results`, named by nnU-Net's environment variables."""
    for variable in ("raw", "preprocessed", "results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(f"nnUNet_{variable}", str(tmp_path / variable))
    return tmp_path


@pytest.fixture
def raw_dataset(nnunet_folders: Path) -> Callable[..., Path]:
    """A factory of raw datasets of 8x7x6 voxels; returns the dataset's folder."""

    def make(
        name: str,
        number: int,
        labels: Mapping[str, Any],
        cases: Mapping[str, np.ndarray | Sequence[float] | None],
        *,
        channel_names: Sequence[str] = ("CT",),
        file_ending: str = ".nii.gz",
        affine: np.ndarray | None = None,
        dtype: type = np.uint8,
        **dataset_json: Any,
    ) -> Path:
        """Writes a dataset.

        Args:
            name: DatasetXXX_NAME.
            number: Its number.
            labels: Label names to values; background is added.
            cases: Case name to its label map; a list of values fills the first voxels, None writes no label file.
            channel_names: One image file each.
            file_ending: .nii.gz or .nii.
            affine: (4, 4) voxel to world; one millimetre, RAS+ by default.
            dtype: Of the label files.
            dataset_json: Further keys of dataset.json; None leaves a key out.
        """
        folder = nnunet_folders / "raw" / f"Dataset{number:03d}_{name}"
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True)
        for case, content in cases.items():
            for channel in range(len(channel_names)):
                # another image for every dataset and case, so that no two are the same by chance
                rng = np.random.default_rng(zlib.crc32(f"{number}/{case}/{channel}".encode()))
                image = rng.integers(-1000, 1000, SHAPE).astype(np.int16)
                _save(folder / "imagesTr" / f"{case}_{channel:04d}{file_ending}", image, affine)
            if content is not None:
                _save(folder / "labelsTr" / f"{case}{file_ending}", _label_map(content).astype(dtype), affine)
        content = {
            "channel_names": {str(i): n for i, n in enumerate(channel_names)},
            "labels": {"background": 0, **labels},
            "numTraining": len(cases),
            "file_ending": file_ending,
            **dataset_json,
        }
        (folder / "dataset.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
        return folder

    return make


@pytest.fixture
def merge_file(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a merge file; returns its path."""

    def write(text: str, name: str = "merge.yaml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def _label_map(content: np.ndarray | Sequence[float]) -> np.ndarray:
    if isinstance(content, np.ndarray):
        return content
    labels = np.zeros(SHAPE)
    labels.flat[: len(content)] = content
    return labels


def _save(path: Path, array: np.ndarray, affine: np.ndarray | None) -> None:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
