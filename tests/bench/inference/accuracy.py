"""Part `accuracy`: do modes and back ends cost accuracy on a trained model and real CT?

One patient's CT has labels of twelve organs. A network is trained on it with this package's trainer, through the stock
commands, and predicts it and two scans of other patients without labels. Training and test patient are the same, so
that the scores say nothing about the network; differences between modes are what is asked for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from nnunet_partial.atomic import write_json
from nnunet_partial.demo.pipeline import Pipeline
from nnunet_partial.errors import PartialError
from nnunet_partial.evaluation import save_overlay, to_ras
from nnunet_partial.inference.efficiency.measurement import last_lines, measure_command
from tests.bench.inference.agreement import Agreement, agreement, read_labels
from tests.bench.inference.bench import Bench
from tests.bench.inference.competitors import MODES, NNUNET, backends, exported_formats
from tests.bench.inference.models import environment
from tests.bench.inference.rounds import Task
from tests.integration.real_ct import real_data_folder

__all__ = ["LABELLED", "ORGANS", "REFERENCE", "accuracy_tasks", "missing_data", "organ_scores"]

LABELLED = "abdomen_a"
ORGANS: dict[str, int] = {
    "liver": 1,
    "kidney_right": 2,
    "spleen": 3,
    "pancreas": 4,
    "aorta": 5,
    "inferior_vena_cava": 6,
    "adrenal_gland_right": 7,
    "adrenal_gland_left": 8,
    "gallbladder": 9,
    "stomach": 11,
    "duodenum": 12,
    "kidney_left": 13,
}
"""Organs and their values in the label map of the labelled patient (FLARE22 ids)."""
REFERENCE = "exact.torch.fp32"
"""What every other prediction is compared with."""

_DATASET_ID, _SOURCE_ID = 940, 941
_TRAINER, _PLANS = "PartialLabelTrainer", "nnUNetPlans_small"
_TRUTH = "truth.nii.gz"
_PART = 0.7  # of the scan in each training case
_MIRRORED = "exact_mirrored"
_CASE = "real_ct"
_SHOWN = "fast.openvino.bf16", "fast.openvino.fp32", "fast.torch.fp32"


def missing_data() -> str:
    """What is missing of the real volumes; empty where they are there."""
    path = real_data_folder() / LABELLED / "labels_flare13_reader1.nii.gz"
    return "" if path.is_file() else f"no file {path}; set NNUNET_PARTIAL_REAL_DATA"


def _consecutive(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Label values as nnU-Net wants them, without gaps, in the order of `ORGANS`."""
    labels = np.zeros(values.shape, np.uint8)
    for number, value in enumerate(ORGANS.values(), start=1):
        labels[values == value] = number
    return labels


def _write_source(raw: Path, test: Path) -> None:
    """Writes the raw dataset of the labelled patient, and the images to predict."""
    data = real_data_folder()
    folder = raw / f"Dataset{_SOURCE_ID}_Reader"
    for path in (folder / "imagesTr", folder / "labelsTr", test):
        path.mkdir(parents=True, exist_ok=True)
    scan, drawn = (nib.load(data / LABELLED / name) for name in ("ct.nii.gz", "labels_flare13_reader1.nii.gz"))
    labels = nib.Nifti1Image(_consecutive(np.asarray(drawn.dataobj)), drawn.affine)
    # merging wants two cases: parts that overlap and together are the whole scan
    part = round(_PART * scan.shape[2])
    for name, slices in (("lower", slice(0, part)), ("upper", slice(scan.shape[2] - part, None))):
        nib.save(scan.slicer[:, :, slices], folder / "imagesTr" / f"{name}_0000.nii.gz")
        nib.save(labels.slicer[:, :, slices], folder / "labelsTr" / f"{name}.nii.gz")
    nib.save(labels, test.parent / _TRUTH)
    shutil.copyfile(data / LABELLED / "ct.nii.gz", test / f"{LABELLED}_0000.nii.gz")
    for path in sorted((data / "crlm").glob("*_ct.nii.gz")):
        shutil.copyfile(path, test / path.name.replace("_ct.nii.gz", "_0000.nii.gz"))
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{name: number for number, name in enumerate(ORGANS, start=1)}},
        "numTraining": 2,
        "file_ending": ".nii.gz",
        # the scans lie in several orientations
        "overwrite_image_reader_writer": "NibabelIOWithReorient",
    }
    write_json(folder / "dataset.json", content)


def _merge_file() -> str:
    names = ", ".join(f"{name}: " for name in ORGANS)
    labels = ", ".join(f"{name}: {name}" for name in ORGANS)
    return (
        f"name: RealCT\nfolds: 2\nclasses: {{{names}}}\nsources:\n"
        f"  reader: {{dataset: Dataset{_SOURCE_ID}_Reader, labels: {{{labels}}}}}\n"
    )


def _train(bench: Bench, iterations: int | None) -> Pipeline:
    """Trains the network and exports it; what is there already stays."""
    size = bench.preset.accuracy
    if iterations is not None:
        size = replace(size, epochs=max(1, iterations // size.iterations), iterations=min(size.iterations, iterations))
    settings = {**bench.preset.settings()["accuracy"], "epochs": size.epochs, "iterations": size.iterations}
    folder = bench.folder / "accuracy"
    done = folder / "trained.json"
    if done.is_file():
        if (found := json.loads(done.read_text(encoding="utf-8"))) != settings:
            raise PartialError(
                f"{done}: the network was trained with {found}, now it is {settings}; delete {folder} and "
                f"{bench.folder / 'runs' / 'accuracy'}, or choose another output folder"
            )
        return Pipeline(folder, console=Console(stderr=True))
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted training left
    pipeline = Pipeline(folder, console=Console(stderr=True))
    _write_source(pipeline.raw, pipeline.folder / "test")
    merged = pipeline.merge(_merge_file(), _DATASET_ID)
    pipeline.plan_and_preprocess(merged, _DATASET_ID, size)
    pipeline.train(_DATASET_ID, size, trainer=_TRAINER, fold="all")
    exported = ("-d", str(_DATASET_ID), "-c", "3d_fullres", "-tr", _TRAINER, "-p", _PLANS, "-f", "all")
    formats = exported_formats()
    pipeline.run(
        "nnUNetv2_partial_export", *exported, "-o", pipeline.folder / "exported", "--overwrite", "--formats", *formats
    )
    write_json(done, settings)
    return pipeline


def _command(pipeline: Pipeline, who: str, output: Path, threads: int) -> list[str]:
    images = str(pipeline.folder / "test")
    if who == NNUNET:
        named = ("-d", str(_DATASET_ID), "-c", "3d_fullres", "-tr", _TRAINER, "-p", _PLANS, "-f", "all")
        more = ("-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1")
        return ["nnUNetv2_predict", "-i", images, "-o", str(output), *named, *more]
    mode, backend, precision = who.split(".")
    tta = [] if mode == _MIRRORED else ["--disable_tta"]
    return [
        *("nnUNetv2_partial_predict", "-i", images, "-o", str(output), "-m", str(pipeline.folder / "exported")),
        *("--mode", mode.partition("_")[0], *tta, "--backend", backend, "--precision", precision),
        *("-device", "cpu", "--threads", str(threads)),
    ]


def organ_scores(reference: NDArray[np.integer[Any]], found: NDArray[np.integer[Any]]) -> dict[str, float]:
    """Dice of each organ that the reference has.

    Args:
        reference: Values 1 to 12 in the order of `ORGANS`.
        found: The same.
    """
    dice = agreement(reference, found).dice
    present = set(np.unique(reference).tolist())
    return {name: dice[number] for number, name in enumerate(ORGANS, start=1) if number in present}


def _predict(bench: Bench, pipeline: Pipeline, who: str) -> Mapping[str, Any]:
    """Predicts all scans and scores them."""
    output = pipeline.folder / "predictions" / who
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    log = bench.scratch("logs") / f"accuracy.{who}.txt"
    command = _command(pipeline, who, output, bench.threads)
    folders = {name: value for name, value in pipeline.environment().items() if name.startswith("nnUNet_")}
    done = measure_command(command, log, environment={**environment(bench), **folders})
    if done.exit_status:
        raise PartialError(f"{' '.join(command)}: exit status {done.exit_status}; it ends with:\n{last_lines(log)}")
    truth = read_labels(pipeline.folder / _TRUTH)
    values: dict[str, Any] = {"seconds": done.wall_s}
    values["dice"] = organ_scores(truth, read_labels(output / f"{LABELLED}.nii.gz"))
    values["mean_dice"] = float(np.mean(list(values["dice"].values())))
    reference = pipeline.folder / "predictions" / REFERENCE
    if who != REFERENCE and reference.is_dir():
        compared = {path.name.removesuffix(".nii.gz"): _compared(reference / path.name, path) for path in _maps(output)}
        values["agreement"] = {
            case: {"different": found.different, "mean_dice": found.mean_dice} for case, found in compared.items()
        }
    if who in _SHOWN[:1] or (who in _SHOWN and not (pipeline.folder / "predictions" / _SHOWN[0]).is_dir()):
        _draw(bench, pipeline, who)
    return values


def _maps(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.nii.gz"))


def _compared(reference: Path, found: Path) -> Agreement:
    return agreement(read_labels(reference), read_labels(found))


def _draw(bench: Bench, pipeline: Pipeline, who: str) -> None:
    """Exact beside fast on every scan."""
    for path in _maps(pipeline.folder / "predictions" / who):
        case = path.name.removesuffix(".nii.gz")
        image = nib.load(pipeline.folder / "test" / f"{case}_0000.nii.gz")
        turned, spacing_mm = to_ras(np.asarray(image.dataobj), image.affine)
        masks = []
        for labels in (pipeline.folder / "predictions" / REFERENCE / path.name, path):
            values, _ = to_ras(read_labels(labels), nib.load(labels).affine)
            masks.append({name: values == number for number, name in enumerate(ORGANS, start=1)})
        title = f"{case}: left {REFERENCE}, right {who}"
        picture = bench.folder / f"overlay_{case}.png"
        save_overlay(picture, turned, masks[0], masks[1], spacing_mm=spacing_mm, title=title)


def accuracy_tasks(bench: Bench, iterations: int | None = None) -> list[Task]:
    """All modes and back ends on real CT, the reference first; the network is trained before.

    Args:
        bench: The benchmark.
        iterations: Of the training; None for the preset's.
    """
    pipeline = _train(bench, iterations)
    every = [f"{mode}.{backend}.{precision}" for mode in MODES for backend, precision in backends()]
    mirrored = [f"{_MIRRORED}.{backend}.fp32" for backend in ("torch", "openvino") if (backend, "fp32") in backends()]
    names = [REFERENCE, *(name for name in [NNUNET, *every, *mirrored] if name != REFERENCE)]
    return [Task("accuracy", _CASE, name, partial(_predict, bench, pipeline, name)) for name in names]
