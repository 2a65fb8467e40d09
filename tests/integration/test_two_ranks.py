"""Distributed training through nnU-Net's own entry point."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.integration import mocked_cuda

SIGMOID_AND_SOFTMAX = ("PartialLabelTrainer", "PartialLabelTrainerAmbiguity")
WEIGHTED = ("PartialLabelTrainerImplicit",)
"""Weights of positive voxels, for which each rank counts the voxels of all training cases."""


@pytest.mark.parametrize("trainers", [SIGMOID_AND_SOFTMAX, pytest.param(WEIGHTED, marks=pytest.mark.slow)])
def test_num_gpus_trains_validates_and_saves(
    nnunet: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trainers: tuple[str, ...]
) -> None:
    monkeypatch.setenv("nnUNet_compile", "f")
    mocked_cuda.train_on_two(nnunet.name, trainers, "nnUNetPlans_small", tmp_path)
    validation = json.loads((nnunet / "splits_final.json").read_text())[0]["val"]
    for number, trainer in enumerate(trainers):
        model = tmp_path / "results" / nnunet.name / f"{trainer}__nnUNetPlans_small__3d_fullres"
        checkpoint = torch.load(model / "fold_0" / "checkpoint_final.pth", map_location="cpu", weights_only=False)
        assert checkpoint["current_epoch"] == 1
        assert all(torch.isfinite(w).all() for w in checkpoint["network_weights"].values())
        summary = json.loads((model / "fold_0" / "validation" / "summary.json").read_text())
        assert len(summary["metric_per_case"]) == len(validation)
        waited = {int((tmp_path / f"barriers_{number}_{rank}").read_text()) for rank in range(2)}
        assert len(waited) == 1 and max(waited) >= len(validation) // 2 - 1
