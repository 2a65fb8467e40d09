"""CT and MR phantoms in one dataset, from the merge to predictions, by the commands that a user types.

Images are normalised before nnU-Net predicts them, or while our command does; both ways must agree.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from nnunet_partial.demo.pipeline import NetworkSize, Pipeline
from nnunet_partial.evaluation import confusion, dice
from nnunet_partial.inference.model.exported_model import export_model
from nnunet_partial.inference.predictor import open_predictor
from nnunet_partial.inference.reading.image_reader import read_image
from nnunet_partial.phantoms.hard import HARD_ATOMS, HardPhantom, make_hard_phantom
from tests.unit.tiny_models import stock_network

pytestmark = pytest.mark.slow

DATASET_ID = 910
TRAINER = "PartialLabelTrainer"
SIZE = NetworkSize(patch_size=(32, 32, 32), features=(8, 16, 16), epochs=2, iterations=30, val_iterations=2)
SPACING_MM = (9.0, 9.0, 9.0)
# RAS+, and LPS+ as scanners store slices, so that the reader has something to turn
AFFINES = {"CT": np.diag([*SPACING_MM, 1.0]), "MR": np.diag([-9.0, -9.0, 9.0, 1.0])}
CLASSES = {"liver": ("liver_tissue", "liver_tumour"), "kidneys": ("kidney_left", "kidney_right")}
MERGE_FILE = """
name: CtAndMr
folds: 2
normalisation:
  CT: {clip: [-160, 240]}
  MR: {percentiles: [1, 99]}
classes: {liver: , kidneys: }
sources:
  ct:
    dataset: 911
    modality: CT
    labels: {liver: liver}
  mr:
    dataset: 912
    modality: MR
    labels: {liver: liver, kidneys: kidneys}
"""
TRAINING = {"CT": range(0, 6), "MR": range(100, 106)}
NEW = {"ct_scan": ("CT", 50), "mr_scan": ("MR", 150)}


def phantom(seed: int, modality: str) -> HardPhantom:
    return make_hard_phantom(seed, shape=(36, 32, 32), spacing_mm=SPACING_MM, modality=modality)


def label_map(found: HardPhantom, classes: Mapping[str, int]) -> np.ndarray:
    labels = np.zeros(found.atoms.shape, np.uint8)
    for name, value in classes.items():
        labels[np.isin(found.atoms, [HARD_ATOMS.index(atom) for atom in CLASSES[name]])] = value
    return labels


def save(path: Path, array: np.ndarray, modality: str) -> None:
    """Writes an array of RAS+ axes in the orientation of a modality's files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    signs = np.sign(np.diag(AFFINES[modality])[:3]).astype(int)
    nib.save(nib.Nifti1Image(array[tuple(slice(None, None, sign) for sign in signs)], AFFINES[modality]), path)


def load(path: Path) -> np.ndarray:
    """An image in RAS+ axes."""
    return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)


def save_image(path: Path, found: HardPhantom) -> None:
    image = found.image.round().astype(np.int16) if found.modality == "CT" else found.image
    save(path, image, found.modality)


def write_source(raw: Path, number: int, modality: str, classes: Mapping[str, int]) -> None:
    folder = raw / f"Dataset{number}_{modality}"
    for seed in TRAINING[modality]:
        found = phantom(seed, modality)
        save_image(folder / "imagesTr" / f"case_{seed}_0000.nii.gz", found)
        save(folder / "labelsTr" / f"case_{seed}.nii.gz", label_map(found, classes), modality)
    description = {
        "channel_names": {"0": modality},
        "labels": {"background": 0, **classes},
        "numTraining": len(TRAINING[modality]),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "NibabelIOWithReorient",
    }
    (folder / "dataset.json").write_text(json.dumps(description))


@dataclass(frozen=True)
class Way:
    """A trained model and two sets of predictions of new scans.

    Attributes:
        model: The model folder.
        images: The new scans.
        stock: Predictions of nnUNetv2_predict from normalised copies.
        ours: Predictions of nnUNetv2_partial_predict from the scans themselves.
    """

    model: Path
    images: Path
    stock: Path
    ours: Path


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Way:
    """Merges, plans, preprocesses, trains and predicts in both ways."""
    pipeline = Pipeline(tmp_path_factory.mktemp("ct_and_mr"), processes=1)
    write_source(pipeline.raw, 911, "CT", {"liver": 1})
    write_source(pipeline.raw, 912, "MR", {"kidneys": 1, "liver": 2})
    merged = pipeline.merge(MERGE_FILE, DATASET_ID)
    pipeline.plan_and_preprocess(merged, DATASET_ID, SIZE)
    pipeline.train(DATASET_ID, SIZE, trainer=TRAINER)
    model = pipeline.folder / "results" / merged.name / f"{TRAINER}__nnUNetPlans_small__3d_fullres"

    images, normalised = pipeline.folder / "images", pipeline.folder / "normalised"
    for case, (modality, seed) in NEW.items():
        save_image(images / f"{case}_0000.nii.gz", phantom(seed, modality))
    table = pipeline.folder / "modalities.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("case", "modality"), *((case, modality) for case, (modality, _) in NEW.items())])
    found = Way(model, images, pipeline.folder / "stock", pipeline.folder / "ours")
    pipeline.run(
        *("nnUNetv2_partial_normalize", "-i", images, "-o", normalised, "-m", model),
        *("--modalities", table, "-np", "1"),
    )
    pipeline.predict(normalised, found.stock, DATASET_ID, trainer=TRAINER)
    pipeline.run(
        *("nnUNetv2_partial_predict", "-i", images, "-o", found.ours, "-m", model, "-f", "0"),
        *("--modalities", table, "-device", "cpu"),
    )
    return found


def test_both_ways_give_the_same_label_maps(way: Way) -> None:
    for case, (modality, _) in NEW.items():
        stock, ours = (nib.load(folder / f"{case}.nii.gz") for folder in (way.stock, way.ours))
        assert np.allclose(stock.affine, AFFINES[modality])
        assert np.allclose(ours.affine, AFFINES[modality])
        expected = np.asarray(stock.dataobj)
        assert len(np.unique(expected)) > 1
        # nnU-Net sums windows in half precision
        assert (np.asarray(ours.dataobj) != expected).mean() < 5e-3


def test_the_exported_model_predicts_the_same(way: Way, tmp_path: Path) -> None:
    export_model(way.model, tmp_path / "exported", [0], formats=("torch",))
    predictor = open_predictor(tmp_path / "exported", device="cpu")
    for case, (modality, _) in NEW.items():
        image = read_image([way.images / f"{case}_0000.nii.gz"], predictor.plan.reader)
        assert predictor.plan.reader == "NibabelIOWithReorient"
        found = predictor(image.data, image.spacing, modality=modality)
        assert (found != load(way.ours / f"{case}.nii.gz").transpose(2, 1, 0)).mean() < 5e-3


def test_training_saw_both_modalities(way: Way) -> None:
    with (way.model / "fold_0" / "sampling.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["level"] == "modality"]
    assert {(row["epoch"], row["name"]) for row in rows} == {(e, m) for e in ("0", "1") for m in ("CT", "MR")}
    assert all(int(row["draws"]) > 0 for row in rows)
    assert sum(int(row["draws"]) for row in rows) == SIZE.epochs * SIZE.iterations * SIZE.batch_size


def test_validation_scores_both_modalities(way: Way) -> None:
    summary: dict[str, Any] = json.loads((way.model / "fold_0" / "validation" / "summary.json").read_text())
    scored: dict[str, set[str]] = {"ct": set(), "mr": set()}
    for case in summary["metric_per_case"]:
        source = Path(case["reference_file"]).name.partition("_")[0]
        scored[source] |= {summary["classes"][key] for key in case["metrics"]}
    assert scored == {"ct": {"liver"}, "mr": {"liver", "kidneys"}}


def test_both_modalities_were_learned(way: Way, tmp_path: Path) -> None:
    """Scans of patients that training did not see, against a network of the same make that was not trained."""
    untrained = tmp_path / "untrained"
    shutil.copytree(way.model, untrained)
    checkpoint = untrained / "fold_0" / "checkpoint_final.pth"
    content = torch.load(checkpoint, weights_only=False)
    torch.manual_seed(0)
    plans, description = (json.loads((untrained / name).read_text()) for name in ("plans.json", "dataset.json"))
    weights = stock_network(plans, description).state_dict()
    assert weights.keys() == content["network_weights"].keys()
    torch.save({**content, "network_weights": weights}, checkpoint)
    predictor = open_predictor(untrained, folds=[0], device="cpu")
    values = dict(zip(predictor.plan.decoding.names, predictor.plan.decoding.values, strict=True))
    for case, (modality, seed) in NEW.items():
        truth = label_map(phantom(seed, modality), {"liver": 1}) > 0
        image = read_image([way.images / f"{case}_0000.nii.gz"], predictor.plan.reader)
        guessed = predictor(image.data, image.spacing, modality=modality).transpose(2, 1, 0)
        before = dice(confusion(truth, guessed == values["liver"]))
        after = dice(confusion(truth, load(way.ours / f"{case}.nii.gz") == values["liver"]))
        assert after > before + 0.4
