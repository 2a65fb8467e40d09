"""Time and memory of a training iteration relative to stock nnUNetTrainer: same network, same patch, same heads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from nnunet_partial import trainers
from nnunet_partial.demo.pipeline import Pipeline
from nnunet_partial.training import SIGMOID
from tests.bench.iteration_case import PATCH, STOCK, make_trainer, preprocess
from tests.bench.measure import paired_seconds, peak_megabytes

pytestmark = pytest.mark.bench

FEATURES = (8, 16, 32, 64)
MULTIPLE = 1.05
SIGMOID_TRAINERS = [
    name
    for name in trainers.__all__
    if getattr(trainers, name).recipe.heads is SIGMOID and name != "PartialLabelTrainerFineTune"
]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return preprocess(tmp_path_factory.mktemp("iterations"), FEATURES)


@pytest.fixture(autouse=True)
def environment(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**pipeline.environment(), "nnUNet_n_proc_DA": "0"}.items():
        if name.startswith("nnUNet_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    )
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", SIGMOID_TRAINERS)
def test_time(name: str) -> None:
    steps = {}
    for which in (name, STOCK):
        trainer = make_trainer(which)
        batch = next(trainer.get_dataloaders()[0])
        steps[which] = lambda trainer=trainer, batch=batch: trainer.train_step(batch)
    ours, stock, ratio = paired_seconds(steps[name], steps[STOCK], runs=5)
    print(f"\n{name}, 2x{PATCH}, features {FEATURES}: {ours:.2f} s, nnU-Net {stock:.2f} s, {ratio:.2f}x")
    assert ratio <= MULTIPLE


@pytest.mark.parametrize("name", SIGMOID_TRAINERS)
def test_memory(name: str) -> None:
    ours = peak_megabytes("tests.bench.iteration_memory", name)
    stock = peak_megabytes("tests.bench.iteration_memory", STOCK)
    print(f"\n{name}: {ours:.0f} MB, nnU-Net {stock:.0f} MB, {ours / stock:.2f}x")
    assert ours <= MULTIPLE * stock
