"""One model a class, against nnU-Net's own predictor for each class and the joining of its probabilities."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import nnunet_partial
from nnunet_partial.cli import ensemble
from nnunet_partial.ensemble import combine_one_model_a_class
from nnunet_partial.labels import with_region_labels
from tests.integration.test_predict import by_nnunet, write_image
from tests.unit.stock_commands import DATASET, MODEL, results
from tests.unit.test_ensemble_prediction import MIRRORED, raw_json, write_models
from tests.unit.test_protocol_view import CLASSES, labels_of
from tests.unit.tiny_models import make_dataset_json

NAMES = ("liver", "liver_tumour", "spleen")
NEARLY = 1e-4
"""How far probabilities may be apart, beside the rounding to 255 steps."""


def test_label_maps_equal_those_of_stock_probabilities(nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", str(Path(nnunet_partial.__file__).parent / "nnunet_ext"))
    labels = labels_of({name: CLASSES[name] for name in NAMES})
    raw_json(nnunet_folders).parent.mkdir()
    raw_json(nnunet_folders).write_text(json.dumps(with_region_labels(make_dataset_json(), labels)))
    write_models(nnunet_folders, folds=(0, 1))
    image, out = write_image(nnunet_folders / "images" / "a_0000.nii.gz"), nnunet_folders / "out"
    command = ["predict", "-i", str(image.parent), "-o", str(out), "-d", DATASET, "-c", "3d_fullres", "-f", "0", "1"]
    assert ensemble.main([*command, "-device", "cpu", "--save_probabilities"]) == 0

    # nnU-Net sums windows in half precision; in single precision nothing but roundings is left
    monkeypatch.setattr(torch, "half", torch.float32)
    stock = []
    for name, axes in zip(NAMES, MIRRORED, strict=True):
        model = results(nnunet_folders, name) / DATASET / MODEL
        _, (probability,) = by_nnunet(model, [image], axes is not None, folds=(0, 1), probabilities=True)
        stock.append(probability)
        found = np.asarray(nib.load(out / "a_probabilities" / f"{name}.nii.gz").dataobj).T
        assert np.abs(found / 255 - probability).max() < NEARLY + 0.5 / 255
    expected = combine_one_model_a_class(stock, labels.space)
    assert len(np.unique(expected)) == len(NAMES) + 1
    found = np.asarray(nib.load(out / "a.nii.gz").dataobj).T
    assert (found != expected).sum() <= 3  # of 6720, where two classes are equal but for a rounding
