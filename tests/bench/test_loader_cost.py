"""Batches per second of our loader relative to nnU-Net's own on the same preprocessed data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from tests.bench.iteration_case import PATCH, STOCK, make_trainer, preprocess
from tests.bench.measure import paired_seconds

pytestmark = pytest.mark.bench


def test_batches_per_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = preprocess(tmp_path, features=(4, 8, 8))
    for name, value in {**pipeline.environment(), "nnUNet_n_proc_DA": "0"}.items():
        if name.startswith("nnUNet_"):
            monkeypatch.setenv(name, value)
    torch.set_num_threads(1)
    loaders = {name: make_trainer(name).get_dataloaders()[0] for name in ("PartialLabelTrainer", STOCK)}
    assert isinstance(loaders[STOCK].data_loader, nnUNetDataLoader)
    ours, stock, ratio = paired_seconds(
        lambda: [next(loaders["PartialLabelTrainer"]) for _ in range(10)],
        lambda: [next(loaders[STOCK]) for _ in range(10)],
        runs=7,
    )
    print(
        f"\n10 batches of 2x{PATCH}: ours {ours:.2f} s, nnU-Net {stock:.2f} s; {1 / ratio:.2f}x its batches per second"
    )
    assert 1 / ratio >= 0.95
