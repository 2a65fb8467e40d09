"""Distributed training through nnU-Net's own entry point."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.integration import mocked_cuda


def test_num_gpus_trains_validates_and_saves(nnunet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_compile", "f")
    mocked_cuda.train_on_two(nnunet.name, "PartialLabelTrainer", "nnUNetPlans_small")
    results = Path(__import__("os").environ["nnUNet_results"])
    model = results / nnunet.name / "PartialLabelTrainer__nnUNetPlans_small__3d_fullres"
    checkpoint = torch.load(model / "fold_0" / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    assert checkpoint["current_epoch"] == 1
    assert all(torch.isfinite(w).all() for w in checkpoint["network_weights"].values())
    summary = json.loads((model / "fold_0" / "validation" / "summary.json").read_text())
    validation = json.loads((nnunet / "splits_final.json").read_text())[0]["val"]
    assert len(summary["metric_per_case"]) == len(validation)
