"""Part `accuracy`: do modes and back ends cost accuracy on a trained model and real CT?

The network of `real_patient` predicts the scan that it was trained on and two scans of other patients without labels.
Scores say nothing about the network; differences between modes are what is asked for.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from nnunet_partial.errors import PartialError
from nnunet_partial.evaluation import save_overlay, to_ras
from nnunet_partial.inference.efficiency.measurement import last_lines, measure_command
from tests.bench.inference.agreement import Agreement, agreement, read_labels
from tests.bench.inference.bench import Bench
from tests.bench.inference.competitors import MODES, NNUNET, backends
from tests.bench.inference.models import TRAINER, environment
from tests.bench.inference.plans import CONFIGURATION, PLANS
from tests.bench.inference.real_patient import DATASET, LABELLED, ORGANS, RealModel, prepare_real_model
from tests.bench.inference.rounds import Task

__all__ = ["REFERENCE", "accuracy_tasks", "organ_scores"]

REFERENCE = "exact.torch.fp32"
"""What every other prediction is compared with."""

_CASE = "real_ct"
_SHOWN = "fast.openvino.bf16", "fast.openvino.fp32", "fast.torch.fp32"


def _command(model: RealModel, who: str, output: Path, threads: int) -> list[str]:
    images = str(model.images)
    if who == NNUNET:
        named = ("-d", DATASET, "-c", CONFIGURATION, "-tr", TRAINER, "-p", PLANS, "-f", "0")
        more = ("-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1")
        return ["nnUNetv2_predict", "-i", images, "-o", str(output), *named, *more]
    mode, backend, precision = who.split(".")
    return [
        *("nnUNetv2_partial_predict", "-i", images, "-o", str(output), "-m", str(model.exported)),
        *("--mode", mode, "--disable_tta", "--backend", backend, "--precision", precision),
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


def _predict(bench: Bench, model: RealModel, who: str) -> Mapping[str, Any]:
    """Predicts all scans and scores them."""
    output = model.predictions / who
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    log = bench.scratch("logs") / f"accuracy.{who}.txt"
    command = _command(model, who, output, bench.threads)
    done = measure_command(command, log, environment=environment(bench))
    if done.exit_status:
        raise PartialError(f"{' '.join(command)}: exit status {done.exit_status}; it ends with:\n{last_lines(log)}")
    truth = read_labels(model.truth)
    values: dict[str, Any] = {"seconds": done.wall_s}
    values["dice"] = organ_scores(truth, read_labels(output / f"{LABELLED}.nii.gz"))
    values["mean_dice"] = float(np.mean(list(values["dice"].values())))
    reference = model.predictions / REFERENCE
    if who != REFERENCE and reference.is_dir():
        compared = {path.name.removesuffix(".nii.gz"): _compared(reference / path.name, path) for path in _maps(output)}
        values["agreement"] = {
            case: {"different": found.different, "mean_dice": found.mean_dice} for case, found in compared.items()
        }
    if who in _SHOWN[:1] or (who in _SHOWN and not (model.predictions / _SHOWN[0]).is_dir()):
        _draw(bench, model, who)
    return values


def _maps(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.nii.gz"))


def _compared(reference: Path, found: Path) -> Agreement:
    return agreement(read_labels(reference), read_labels(found))


def _draw(bench: Bench, model: RealModel, who: str) -> None:
    """Exact beside fast on every scan."""
    for path in _maps(model.predictions / who):
        case = path.name.removesuffix(".nii.gz")
        image = nib.load(model.images / f"{case}_0000.nii.gz")
        turned, spacing_mm = to_ras(np.asarray(image.dataobj), image.affine)
        masks = []
        for labels in (model.predictions / REFERENCE / path.name, path):
            values, _ = to_ras(read_labels(labels), nib.load(labels).affine)
            masks.append({name: values == number for number, name in enumerate(ORGANS, start=1)})
        title = f"{case}: left {REFERENCE}, right {who}"
        picture = bench.folder / f"overlay_{case}.png"
        save_overlay(picture, turned, masks[0], masks[1], spacing_mm=spacing_mm, title=title)


def accuracy_tasks(bench: Bench, iterations: int | None = None) -> list[Task]:
    """All modes and back ends on real CT, the reference first; the network is trained before.

    Args:
        bench: The benchmark.
        iterations: Of each phase of the training at most; None for the preset's.
    """
    model = prepare_real_model(bench, iterations)
    every = [f"{mode}.{backend}.{precision}" for mode in MODES for backend, precision in backends()]
    names = [REFERENCE, *(name for name in [NNUNET, *every] if name != REFERENCE)]
    return [Task("accuracy", _CASE, name, partial(_predict, bench, model, name)) for name in names]
