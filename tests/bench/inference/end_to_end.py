"""Parts `end_to_end` and `sizes`: whole predictions as cold commands, from files to files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.efficiency.gpu_memory import GpuReader
from nnunet_partial.inference.efficiency.measurement import Measurement, last_lines, measure_command
from tests.bench.inference.agreement import agreement_of_files, read_labels
from tests.bench.inference.bench import Bench
from tests.bench.inference.child import run_child
from tests.bench.inference.competitors import NNUNET, Competitor, exported_formats, fastest_backend, on_cpu, ours
from tests.bench.inference.machine import available_mb
from tests.bench.inference.models import Model, environment, export, prepare_model
from tests.bench.inference.presets import Grid
from tests.bench.inference.rounds import Task
from tests.bench.inference.volumes import CASE, write_volume

__all__ = [
    "MAIN_CLASSES",
    "boundary_share",
    "end_to_end_tasks",
    "images_of",
    "nnunet_megabytes",
    "predict_cold",
    "sizes_tasks",
]

MAIN_CLASSES = 14
_BASE_MB = 2000.0  # interpreters of three processes, PyTorch, activations of a window
_BYTES = {"regions": 10, "argmax": 4}
_MARGIN = 1.25  # of the estimate: a machine that runs out of memory ends more than this benchmark


def images_of(bench: Bench, size: str) -> Path:
    """The folder with the volume of a size, which is made where it is missing.

    Args:
        bench: The benchmark.
        size: Its number of slices.
    """
    folder = bench.folder / "volumes" / size
    write_volume(folder / f"{CASE}_0000.nii.gz", bench.preset.volumes[size])
    return folder


def nnunet_megabytes(model: Model, grid: Grid) -> float:
    """What nnU-Net takes, estimated from its code.

    A voxel of a channel takes 2 bytes as resampled logits; for regions PyTorch makes float32 logits and probabilities
    of them, 8 more; for argmax NumPy makes 64-bit labels, which counts as 2 more.

    Args:
        model: Of how many channels.
        grid: Of the image.
    """
    return _BASE_MB + _BYTES[model.decoding] * model.heads * grid.voxels / 2**20


def predict_cold(
    bench: Bench, competitor: Competitor, model: Model, size: str, gpu: GpuReader | None = None, part: str = "cpu"
) -> dict[str, Any]:
    """Runs one command on one volume, measures it, and compares its labels with nnU-Net's if these are there.

    Args:
        bench: The benchmark.
        competitor: Who predicts.
        model: With what.
        size: What.
        gpu: Reads a device's memory.
        part: Label maps of different parts are kept apart.

    Raises:
        PartialError: The command failed, or wrote no label map.
    """
    images, case = images_of(bench, size), f"{model.name}_{size}"
    output = bench.scratch("output") / f"{part}.{case}.{competitor.name}"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    log = bench.scratch("logs") / f"{part}.{case}.{competitor.name}.txt"
    command = competitor.command(images, output, model)
    measurement = measure_command(command, log, gpu=gpu, environment=environment(bench))
    written = output / f"{CASE}.nii.gz"
    if measurement.exit_status or not written.is_file():
        raise PartialError(
            f"{' '.join(command)}: exit status {measurement.exit_status}, label map {written.name} "
            f"{'written' if written.is_file() else 'missing'}; its output ends with:\n{last_lines(log)}"
        )
    kept = bench.scratch("labels") / f"{part}.{case}.{competitor.name}.nii.gz"
    written.replace(kept)
    shutil.rmtree(output)
    reference = kept.with_name(f"{part}.{case}.{NNUNET}.nii.gz")
    return {**_costs(measurement), **_quality(kept, reference if competitor.name != NNUNET else kept)}


def _costs(measurement: Measurement) -> dict[str, Any]:
    return {
        "seconds": measurement.wall_s,
        "cpu_seconds": measurement.cpu_s,
        "mb": measurement.peak_host_mb,
        "measure": measurement.host_measure,
        "gpu_mb": measurement.peak_gpu_mb,
        "gpu_before_mb": measurement.gpu_before_mb,
    }


def _quality(labels: Path, reference: Path) -> dict[str, Any]:
    if labels == reference or not reference.is_file():
        found = read_labels(labels)
        return {"labels": int(np.count_nonzero(np.unique(found))), "boundary": boundary_share(found)}
    compared = agreement_of_files(reference, labels)
    return {"different": compared.different, "mean_dice": compared.mean_dice, "labels": len(compared.dice)}


def boundary_share(labels: NDArray[np.integer[Any]]) -> float:
    """Share of neighbouring voxels with different labels, the mean over axes.

    Args:
        labels: A label map of at least two voxels along each axis.
    """
    return float(np.mean([np.mean(np.diff(labels, axis=axis) != 0) for axis in range(labels.ndim)]))


def end_to_end_tasks(bench: Bench) -> list[Task]:
    """All competitors on the main volume with `MAIN_CLASSES` classes; the models are prepared before."""
    model = prepare_model(bench, MAIN_CLASSES)
    export(bench, model, exported_formats())
    size = bench.preset.main
    images_of(bench, size)
    return [
        Task(
            "end_to_end",
            f"{model.name}_{size}",
            competitor.name,
            partial(predict_cold, bench, competitor, model, size),
        )
        for competitor in on_cpu(bench.threads)
    ]


def sizes_tasks(bench: Bench) -> list[Task]:
    """Mode fast in the fastest back end, for all classes and sizes, reading and writing alone, and nnU-Net."""
    backend = fastest_backend()
    fast = ours("fast", backend, None, bench.threads)
    nnunet = on_cpu(bench.threads)[0]
    tasks, notes = [], []
    free = available_mb()
    for size in bench.sizes:
        images_of(bench, size)
        tasks.append(Task("sizes", f"files_{size}", "ours", partial(_files, bench, size)))
    for classes in bench.classes:
        model = prepare_model(bench, classes)
        export(bench, model, [backend])
        for size in bench.sizes:
            case, grid = f"{model.name}_{size}", bench.preset.volumes[size]
            needed = nnunet_megabytes(model, grid)
            if classes == MAIN_CLASSES and size == bench.preset.main:
                pass  # measured in the part end_to_end
            elif classes not in bench.stock_classes:
                notes.append(f"nnU-Net, {case}: not chosen (--stock-classes); about {needed / 1024:.0f} GB")
            elif needed * _MARGIN > free:
                notes.append(f"nnU-Net, {case}: would take about {needed / 1024:.0f} GB, {free / 1024:.0f} GB are free")
            else:
                tasks.append(_task(bench, nnunet, model, size))
            tasks.append(_task(bench, fast, model, size))
    bench.results.write_notes("sizes", notes)
    return tasks


def _task(bench: Bench, competitor: Competitor, model: Model, size: str) -> Task:
    case = f"{model.name}_{size}"
    return Task("sizes", case, competitor.name, partial(predict_cold, bench, competitor, model, size, part="sizes"))


def _files(bench: Bench, size: str) -> Mapping[str, Any]:
    image = images_of(bench, size) / f"{CASE}_0000.nii.gz"
    return run_child("tests.bench.inference.files_case", {"image": str(image)}, bench.threads)
