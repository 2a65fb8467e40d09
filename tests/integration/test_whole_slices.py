"""Slices that were annotated for different structures reach the loss whole, or the log says that they do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

MakeTrainer = Callable[..., Any]


@pytest.mark.parametrize(("slices", "axis"), [("axial", 0), ("coronal", 1), ("sagittal", 2)])
def test_augmentation_of_the_trainer_keeps_slices_whole(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, slices: str, axis: int
) -> None:
    """Slice n of a case holds the values 2n + 1 and 2n + 2; a slice of a target, those of one n."""
    monkeypatch.setenv("nnUNet_partial_slices", slices)
    trainer = make_trainer("PartialLabelTrainerAmbiguity")
    trainer.initialize()
    assert "Warning: preprocessing resampled" not in Path(trainer.log_file).read_text()
    loader = trainer.get_dataloaders()[0].data_loader
    size = loader.final_patch_size[axis] + 1  # an odd difference in size moves places by half a voxel
    number, row, column = np.ogrid[:size, :size, :size]
    labels = np.moveaxis(2 * number + 1 + (row + column > size + 4 * (number % 2)), 0, axis).astype(np.int16)
    np.random.seed(0)  # noqa: NPY002 - nnU-Net's augmentation draws from it
    moved = 0
    for _ in range(30):
        case = {"image": torch.zeros(1, *labels.shape), "segmentation": torch.from_numpy(labels.copy())[None]}
        targets = loader.transforms(**case)["segmentation"]
        assert len(targets) > 1  # deep supervision
        for target in targets:
            from_slices = [((piece[piece > 0] - 1) // 2).unique() for piece in target[0].unbind(axis)]
            assert max(map(len, from_slices)) == 1
        moved += bool((targets[0] < 0).any())
    assert moved > 3  # turned or scaled down, so that something outside is seen


def test_slices_that_preprocessing_mixed_are_reported(
    make_trainer: MakeTrainer, nnunet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_partial_slices", "axial")
    plans = json.loads((nnunet / "nnUNetPlans_small.json").read_text())
    plans["configurations"]["3d_fullres"]["spacing"][0] *= 0.8
    trainer = make_trainer("PartialLabelTrainerAmbiguity", plans=plans)
    trainer.initialize()
    cases = len(trainer.sources.datasets[0].identifiers)
    assert (
        f"Warning: preprocessing resampled {cases} of {cases} cases across the axial slices, '"
        in Path(trainer.log_file).read_text()
    )
