"""Part `gpu`: whole predictions on a GPU, cold as commands, and warm as the second image of one process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from nnunet_partial.inference.efficiency.gpu_memory import GpuReader
from tests.bench.inference.agreement import agreement_of_files
from tests.bench.inference.bench import Bench
from tests.bench.inference.child import run_child
from tests.bench.inference.competitors import MODES, NNUNET, Competitor, on_gpu
from tests.bench.inference.end_to_end import MAIN_CLASSES, images_of, predict_cold
from tests.bench.inference.models import Model, export, prepare_model
from tests.bench.inference.rounds import Task
from tests.bench.inference.volumes import CASE
from tests.bench.inference.warm_case import WarmCase

__all__ = ["WARM_PRECISIONS", "find_gpu", "gpu_tasks", "predict_warm"]

WARM_PRECISIONS = ("fp16", "fp32")


def find_gpu() -> str | None:
    """Name of the first GPU that PyTorch finds; None where there is none."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def predict_warm(bench: Bench, model: Model, case: WarmCase) -> Mapping[str, Any]:
    """Predicts two images in one process, measures the second, and compares it with nnU-Net's if that is there.

    Args:
        bench: The benchmark.
        model: With what.
        case: Who and on what device; image, output and model are filled in.
    """
    size = bench.preset.main
    nnunet = case.who == NNUNET
    name = case.who if nnunet else f"{case.mode}.{case.precision}"
    folder = bench.scratch("warm")
    filled = {
        **asdict(case),
        "model": str(model.folder() if nnunet else model.exported),
        "image": str(images_of(bench, size) / f"{CASE}_0000.nii.gz"),
        "output": str(folder / name),
    }
    values = run_child("tests.bench.inference.warm_case", filled, bench.threads)
    reference, found = folder / NNUNET / "1.nii.gz", folder / name / "1.nii.gz"
    if not nnunet and reference.is_file():
        compared = agreement_of_files(reference, found)
        values |= {"different": compared.different, "mean_dice": compared.mean_dice}
    return values


def gpu_tasks(bench: Bench, reader: GpuReader | None) -> list[Task]:
    """All competitors of the GPU on the main volume, cold and warm; the model is prepared before.

    Args:
        bench: The benchmark.
        reader: Reads the memory of the device while cold commands run.
    """
    model = prepare_model(bench, MAIN_CLASSES)
    export(bench, model, ["torch"])
    size = bench.preset.main
    images_of(bench, size)
    case = f"{model.name}_{size}"
    cold = [_cold(bench, competitor, model, reader) for competitor in on_gpu(bench.threads)]
    cases = {NNUNET: WarmCase(NNUNET, "", "", "", "cuda")} | {
        f"{mode}.{precision}": WarmCase("ours", "", "", "", "cuda", mode, precision)
        for mode in MODES
        for precision in WARM_PRECISIONS
    }
    warm = [
        Task("gpu", f"{case}_warm", name, partial(predict_warm, bench, model, warm_case))
        for name, warm_case in cases.items()
    ]
    return [*cold, *warm]


def _cold(bench: Bench, competitor: Competitor, model: Model, reader: GpuReader | None) -> Task:
    size = bench.preset.main
    return Task(
        "gpu",
        f"{model.name}_{size}_cold",
        competitor.name,
        partial(predict_cold, bench, competitor, model, size, reader, part="gpu"),
    )
