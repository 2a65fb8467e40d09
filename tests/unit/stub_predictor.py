"""Folders of tiny cases, and a predictor that needs no model."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from nnunet_partial.errors import ProblemsError
from nnunet_partial.inference.folder_prediction import Job, predict_folder
from nnunet_partial.inference.model.plan import Architecture, Decoding, Normalization, PredictionPlan, Resampling
from nnunet_partial.inference.predictor import Predictor

SHAPE = (6, 5, 4)


def plan(channels: int = 1) -> PredictionPlan:
    return PredictionPlan(
        dataset="Dataset001_Test",
        configuration="3d_fullres",
        trainer="nnUNetTrainer",
        plans="nnUNetPlans",
        channel_names=tuple(f"channel {number}" for number in range(channels)),
        file_ending=".nii.gz",
        reader="SimpleITKIO",
        patch_size=(8, 8, 8),
        spacing_mm=(1.0, 1.0, 1.0),
        transpose_forward=(0, 1, 2),
        normalizations=(Normalization("NoNormalization"),) * channels,
        image_resampling=Resampling(),
        logit_resampling=Resampling(),
        decoding=Decoding(False, (0, 1), ("background", "organ"), 1),
        mirror_axes=(),
        architecture=Architecture("torch.nn.Identity", {}),
        dataset_json={"labels": {"background": 0, "organ": 1}},
    )


class Stub:
    """In place of a predictor: a label map of ones, or whatever an image of that value makes it do."""

    backend = SimpleNamespace(description="stub")

    def __init__(self, plan: PredictionPlan, acts: dict[int, Callable[[], Any]] | None = None) -> None:
        self.plan = plan
        self.acts = acts or {}

    def __call__(self, image: np.ndarray, spacing_mm: Sequence[float], modality: str | None) -> np.ndarray:
        self.acts.get(int(image[0, 0, 0, 0]), lambda: None)()
        return np.ones(image.shape[1:], np.uint8)


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def write_case(folder: Path, number: int, channels: int = 1) -> None:
    folder.mkdir(exist_ok=True)
    for channel in range(channels):
        image = nib.Nifti1Image(np.full(SHAPE, number, np.int16), np.eye(4))
        nib.save(image, folder / f"case_{number}_{channel:04d}.nii.gz")


def predicted(job: Job, stub: Stub) -> list[str]:
    return predict_folder(job, stub.plan, lambda: cast(Predictor, stub), Console(file=io.StringIO()), {})


def problems_of(job: Job, stub: Stub) -> list[str]:
    with pytest.raises(ProblemsError) as caught:
        predicted(job, stub)
    return caught.value.problems


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".json")


def make_job(folder: Path) -> Job:
    """Four cases of one channel."""
    for number in range(4):
        write_case(folder / "images", number)
    return Job(folder / "images", folder / "out")
