"""Batches per second of our loader relative to nnU-Net's own on the same preprocessed data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_partial import trainers
from nnunet_partial.demo.pipeline import NetworkSize, Pipeline
from nnunet_partial.phantoms import PROTOCOLS, write_source
from tests.bench.measure import paired_seconds

pytestmark = pytest.mark.bench

PATCH = (64, 96, 96)
MERGE_FILE = """\
name: Bench
classes: {liver_tissue: , liver_tumour: , spleen: , pancreas: , kidney_left: , kidney_right: , aorta: }
folds: 2
sources: {all: {dataset: Dataset911_All, labels: LABELS}}
"""


@pytest.fixture(scope="module")
def preprocessed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, Path]:
    pipeline = Pipeline(tmp_path_factory.mktemp("bench"))
    options: Any = {"shape": (128, 112, 96), "spacing_mm": (2.7, 2.7, 2.7)}
    write_source(pipeline.raw, 911, PROTOCOLS["everything"], range(4), name="All", **options)
    labels = {label: list(atoms) for label, atoms in PROTOCOLS["everything"].labels.items()}
    merged = pipeline.merge(MERGE_FILE.replace("LABELS", json.dumps(labels)), 910)
    size = NetworkSize(patch_size=PATCH, features=(4, 8, 8))
    pipeline.plan_and_preprocess(merged, 910, size)
    return pipeline, pipeline.folder / "preprocessed" / merged.name


def test_batches_per_second(preprocessed: tuple[Pipeline, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, folder = preprocessed
    for name, value in {**pipeline.environment(), "nnUNet_n_proc_DA": "0"}.items():
        if name.startswith("nnUNet_"):
            monkeypatch.setenv(name, value)
    torch.set_num_threads(1)
    loaders = {}
    for name, make in (("ours", trainers.PartialLabelTrainer), ("stock", nnUNetTrainer)):
        plans = {**json.loads((folder / "nnUNetPlans_small.json").read_text()), "continue_training": False}
        description = json.loads((folder / "dataset.json").read_text())
        if name == "stock":
            # the same heads: nnU-Net makes one boolean target a region in its loader
            labels = {label: value for label, value in description["labels"].items() if value}
            description["labels"] = {"background": 0, **{k: [v, v] for k, v in labels.items()}}
            description["regions_class_order"] = list(labels.values())
        trainer = make(plans, "3d_fullres", 0, description, torch.device("cpu"))
        trainer.initialize()
        loaders[name] = trainer.get_dataloaders()[0]
    assert isinstance(loaders["stock"].data_loader, nnUNetDataLoader)
    ours, stock, ratio = paired_seconds(
        lambda: [next(loaders["ours"]) for _ in range(10)], lambda: [next(loaders["stock"]) for _ in range(10)], runs=7
    )
    print(
        f"\n10 batches of 2x{PATCH}: ours {ours:.2f} s, nnU-Net {stock:.2f} s; {1 / ratio:.2f}x its batches per second"
    )
    assert 1 / ratio >= 0.95
