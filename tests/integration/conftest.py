"""One preprocessed dataset for all integration tests, and trainers made in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_partial.demo.pipeline import Pipeline
from tests.integration import workspace


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, Path]:
    """The pipeline and the merged raw dataset, preprocessed with the stock command."""
    return workspace.build(tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def nnunet(prepared: tuple[Pipeline, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnU-Net's environment in this process, with a results folder of its own; returns the preprocessed dataset."""
    pipeline, merged = prepared
    for name, value in pipeline.environment().items():
        if name.startswith("nnUNet_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    for name, value in {"epochs": 1, "iterations": 2, "val_iterations": 1, "save_every": 1}.items():
        monkeypatch.setenv(f"nnUNet_partial_{name}", str(value))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    return pipeline.folder / "preprocessed" / merged.name


@pytest.fixture
def make_trainer(nnunet: Path) -> Callable[..., Any]:
    """A factory of trainers on the prepared dataset."""

    def make(
        name: str = "PartialLabelTrainer",
        *,
        configuration: str = "3d_fullres",
        fold: int | str = 0,
        plans: dict[str, Any] | None = None,
        resume: bool = False,
        dataset_json: dict[str, Any] | None = None,
    ) -> Any:
        from nnunet_partial import trainers

        content = plans or json.loads((nnunet / "nnUNetPlans_small.json").read_text())
        content = {**content, "continue_training": resume}
        description = dataset_json or json.loads((nnunet / "dataset.json").read_text())
        return getattr(trainers, name)(content, configuration, fold, description, torch.device("cpu"))

    return make
