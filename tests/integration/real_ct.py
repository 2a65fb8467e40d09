"""Partly labelled sources made of real CT volumes, trained, predicted and scored through the stock commands.

    python -m tests.integration.real_ct -o real_ct

One patient has labels of many organs. Its scan is cut into slabs along the body axis, and each slab keeps the labels
of one protocol only; a second patient has the spleen only; two more have no labels; a fourth, held out, has three
slices with a liver. The network is then scored (a) on the labels that were hidden from it in the slabs: the same
patient, but classes and places it was never shown, and (b) on the liver of the held-out patient. With this few
patients (a) shows that partial labels were put together and says nothing about accuracy on other patients.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from nnunet_partial.atomic import write_json
from nnunet_partial.demo.pipeline import NetworkSize, Pipeline
from nnunet_partial.evaluation import prediction_values, save_overlay, to_ras
from nnunet_partial.labels import load_dataset_json

DATASET_ID = 930
TRAINER = "PartialLabelTrainer"
SIZE = NetworkSize(patch_size=(8, 96, 112), features=(8, 16, 32, 64), epochs=8, iterations=50)
SLABS = 9

FLARE_VALUES = {"liver": 1, "spleen": 3, "aorta": 5, "stomach": 11, "kidney_right": 2, "kidney_left": 13}
"""Classes and their values in the label maps of the first patient (FLARE22 ids)."""

PROTOCOLS: dict[str, dict[str, tuple[str, ...]]] = {
    "abdominal": {"liver": ("liver",), "aorta": ("aorta",)},
    "upper": {"spleen": ("spleen",), "stomach": ("stomach",), "liver": ("liver",)},
    "urinary": {"kidney_left": ("kidney_left",), "kidney_right": ("kidney_right",)},
}
"""Protocol to label name to the classes it covers; slab i has protocol i modulo 3."""

MERGE_FILE = """\
name: RealCT
classes: {liver: , spleen: , aorta: , stomach: , kidney_right: , kidney_left: }
folds: 2
sources:
  abdominal: {dataset: Dataset931_Abdominal, labels: {liver: liver, aorta: aorta}, patients: patients.csv}
  upper: {dataset: Dataset932_Upper, labels: {spleen: spleen, stomach: stomach, liver: liver}, patients: patients.csv}
  urinary:
    dataset: Dataset933_Urinary
    labels: {kidney_left: kidney_left, kidney_right: kidney_right}
    patients: patients.csv
  spleen: {dataset: Dataset934_Spleen, labels: {spleen: spleen}}
  scans: {dataset: Dataset935_Scans}
"""


def real_data_folder() -> Path:
    """Where the real volumes lie; they are no part of the project."""
    return Path(os.environ.get("NNUNET_PARTIAL_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))


def _write_image(folder: Path, name: str, image: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(image, folder / f"{name}_0000.nii.gz")


def _write_labels(folder: Path, name: str, image: Any, labels: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels.astype(np.uint8), image.affine), folder / f"{name}.nii.gz")


def _write_case(folder: Path, name: str, image: Any, labels: np.ndarray | None) -> None:
    _write_image(folder / "imagesTr", name, image)
    if labels is not None:
        _write_labels(folder / "labelsTr", name, image, labels)


def _describe(folder: Path, labels: Mapping[str, int], cases: int) -> None:
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **labels},
        "numTraining": cases,
        "file_ending": ".nii.gz",
        # the volumes come in several orientations
        "overwrite_image_reader_writer": "NibabelIOWithReorient",
    }
    write_json(folder / "dataset.json", content)


def _mapped(values: np.ndarray, meaning: Mapping[str, tuple[str, ...]]) -> np.ndarray:
    labels = np.zeros(values.shape, np.uint8)
    for number, classes in enumerate(meaning.values(), start=1):
        labels[np.isin(values, [FLARE_VALUES[c] for c in classes])] = number
    return labels


def _edges(truth: np.ndarray) -> np.ndarray:
    """Where the slabs begin and end, along the body axis; only slices with organs are used."""
    slices = np.flatnonzero(np.isin(truth, list(FLARE_VALUES.values())).any((0, 1)))
    return np.linspace(slices[0], slices[-1] + 1, SLABS + 1).round().astype(int)


def _slab(image: Any, first: int, last: int) -> Any:
    return image.slicer[:, :, first:last]


def make_sources(data: Path, raw: Path, test: Path) -> None:
    """Writes the raw datasets and the hidden test references.

    Args:
        data: Folder of the real volumes.
        raw: $nnUNet_raw.
        test: Gets `imagesTs`, and in `labels` one folder a question: `hidden_PROTOCOL` (slabs of the first patient
            with the labels that their protocol hid) and `held_out` (the held-out patient).
    """
    scan = nib.load(data / "abdomen_a" / "ct.nii.gz")
    truth = np.asarray(nib.load(data / "abdomen_a" / "labels_flare13_reader1.nii.gz").dataobj)
    edges = _edges(truth)
    patients = ["case,patient"]
    for number, (protocol, meaning) in enumerate(PROTOCOLS.items()):
        folder = raw / f"Dataset{931 + number}_{protocol.capitalize()}"
        hidden = {c: (c,) for c in FLARE_VALUES if not any(c in covered for covered in meaning.values())}
        mine = range(number, SLABS, len(PROTOCOLS))
        for slab in mine:
            first, last = edges[slab], edges[slab + 1]
            name, image, values = f"slab_{slab}", _slab(scan, first, last), truth[:, :, first:last]
            _write_case(folder, name, image, _mapped(values, meaning))
            _write_image(test / "imagesTs", name, image)
            _write_labels(test / "labels" / f"hidden_{protocol}", name, image, _mapped(values, hidden))
            patients.append(f"{name},abdomen_a")
        _describe(folder, {label: i for i, label in enumerate(meaning, start=1)}, len(mine))
        _describe(test / "labels" / f"hidden_{protocol}", {label: i for i, label in enumerate(hidden, start=1)}, 0)
    (raw.parent / "patients.csv").write_text("\n".join(patients) + "\n", encoding="utf-8")
    spleen = raw / "Dataset934_Spleen"
    _write_case(
        spleen,
        "spleen_8",
        nib.load(data / "spleen_8" / "ct.nii.gz"),
        np.asarray(nib.load(data / "spleen_8" / "labels.nii.gz").dataobj),
    )
    _describe(spleen, {"spleen": 1}, 1)
    scans = raw / "Dataset935_Scans"
    for path in sorted((data / "crlm").glob("*_ct.nii.gz")):
        _write_case(scans, path.name.removesuffix("_ct.nii.gz"), nib.load(path), None)
    _describe(scans, {}, 2)
    dome = np.asarray(nib.load(data / "liver_dome" / "labels.nii.gz").dataobj)
    image = nib.load(data / "liver_dome" / "ct.nii.gz")
    _write_image(test / "imagesTs", "liver_dome", image)
    _write_labels(test / "labels" / "held_out", "liver_dome", image, dome == 1)
    _describe(test / "labels" / "held_out", {"liver": 1}, 0)


def run(folder: Path, data: Path, size: NetworkSize = SIZE) -> dict[str, dict[str, float]]:
    """The whole way; returns question to class to Dice.

    Args:
        folder: Work folder.
        data: Folder of the real volumes.
        size: Network and training length.
    """
    pipeline = Pipeline(folder)
    test = pipeline.folder / "test"
    make_sources(data, pipeline.raw, test)
    merged = pipeline.merge(MERGE_FILE, DATASET_ID)
    pipeline.plan_and_preprocess(merged, DATASET_ID, size)
    pipeline.train(DATASET_ID, size, trainer=TRAINER, fold="all")
    predictions = pipeline.folder / "predictions"
    pipeline.predict(test / "imagesTs", predictions, DATASET_ID, trainer=TRAINER, fold="all")
    scores = {
        labels.name: pipeline.evaluate(labels, predictions, pipeline.folder / "evaluation" / labels.name)
        for labels in sorted((test / "labels").iterdir())
    }
    _draw(pipeline, data)
    return scores


def _draw(pipeline: Pipeline, data: Path) -> None:
    """The first patient's slabs put together again: reader and prediction."""
    scan = nib.load(data / "abdomen_a" / "ct.nii.gz")
    truth = np.asarray(nib.load(data / "abdomen_a" / "labels_flare13_reader1.nii.gz").dataobj)
    predicted = np.zeros(truth.shape, np.uint8)
    edges = _edges(truth)
    folder = pipeline.folder / "predictions"
    for slab in range(SLABS):
        part = nib.load(folder / f"slab_{slab}.nii.gz")
        predicted[:, :, edges[slab] : edges[slab + 1]] = np.asarray(part.dataobj)
    values = prediction_values(load_dataset_json(folder))
    image, spacing = to_ras(np.asarray(scan.dataobj), scan.affine)
    truth_ras, _ = to_ras(truth, scan.affine)
    predicted_ras, _ = to_ras(predicted, scan.affine)
    save_overlay(
        pipeline.folder / "overlay.png",
        image,
        {name: truth_ras == value for name, value in FLARE_VALUES.items()},
        {name: np.isin(predicted_ras, sorted(wanted)) for name, wanted in values.items()},
        spacing_mm=spacing,
        title="abdomen_a: left reader 1, right prediction",
    )


def main() -> None:
    """Runs on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", type=Path, default=Path("real_ct"), help="work folder")
    parser.add_argument("-i", type=Path, default=real_data_folder(), help="folder of the real volumes")
    arguments = parser.parse_args()
    for question, dice in run(arguments.o, arguments.i).items():
        print(question, ", ".join(f"{name} {value:.3f}" for name, value in dice.items()))
    print(f"picture: {arguments.o / 'overlay.png'}")


if __name__ == "__main__":
    main()
