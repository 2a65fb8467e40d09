"""Trainers of ours and of nnU-Net on the same preprocessed data, with the same network, patch and heads."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_partial import trainers
from nnunet_partial.demo.pipeline import NetworkSize, Pipeline
from nnunet_partial.phantoms import PROTOCOLS, write_source

__all__ = ["PATCH", "STOCK", "make_trainer", "preprocess"]

STOCK = "nnUNetTrainer"
PATCH = (64, 96, 96)
MERGE_FILE = """\
name: Bench
classes: {liver_tissue: , liver_tumour: , spleen: , pancreas: , kidney_left: , kidney_right: , aorta: }
folds: 2
sources: {all: {dataset: Dataset911_All, labels: LABELS}}
"""


def preprocess(folder: Path, features: tuple[int, ...]) -> Pipeline:
    """A merged and preprocessed dataset of fully labelled phantoms, and plans of a small network.

    Args:
        folder: Work folder.
        features: Channels of each stage.
    """
    pipeline = Pipeline(folder)
    options: Any = {"shape": (128, 112, 96), "spacing_mm": (2.7, 2.7, 2.7)}
    write_source(pipeline.raw, 911, PROTOCOLS["everything"], range(4), name="All", **options)
    labels = {label: list(atoms) for label, atoms in PROTOCOLS["everything"].labels.items()}
    merged = pipeline.merge(MERGE_FILE.replace("LABELS", json.dumps(labels)), 910)
    pipeline.plan_and_preprocess(merged, 910, NetworkSize(patch_size=PATCH, features=features))
    return pipeline


def make_trainer(name: str) -> Any:
    """An initialised trainer on the CPU; nnU-Net's folders come from the environment.

    Args:
        name: One of our trainers, or 'nnUNetTrainer' with one sigmoid head a class, as ours have.
    """
    (folder,) = Path(os.environ["nnUNet_preprocessed"]).glob("Dataset910_*")  # noqa: SIM112 - nnU-Net's name
    plans = {**json.loads((folder / "nnUNetPlans_small.json").read_text()), "continue_training": False}
    description = json.loads((folder / "dataset.json").read_text())
    if name == STOCK:
        # nnU-Net makes one boolean target a region in its loader
        labels = {label: value for label, value in description["labels"].items() if value}
        description["labels"] = {"background": 0, **{k: [v, v] for k, v in labels.items()}}
        description["regions_class_order"] = list(labels.values())
    make = nnUNetTrainer if name == STOCK else getattr(trainers, name)
    trainer = make(plans, "3d_fullres", 0, description, torch.device("cpu"))
    trainer.initialize()
    return trainer
