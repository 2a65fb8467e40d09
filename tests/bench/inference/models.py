"""Models with any number of classes made of one trained network, in nnU-Net's folders and exported."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from nnunet_partial.atomic import atomic_folder, write_json
from nnunet_partial.errors import PartialError
from nnunet_partial.inference.efficiency.measurement import last_lines, measure_command
from tests.bench.inference.bench import Bench
from tests.bench.inference.child import child_environment
from tests.bench.inference.plans import (
    CONFIGURATION,
    PLANS,
    TORCH_PLANS,
    build_network,
    make_dataset_json,
    make_plans,
)
from tests.bench.inference.training import Trained, train

__all__ = ["TRAINER", "Model", "environment", "export", "export_folder", "prepare_model", "write_model"]

TRAINER = "nnUNetTrainer"
_SPREAD = 0.05  # of the random direction, in lengths of the trained head
_LAYERS = "decoder.seg_layers"


@dataclass(frozen=True)
class Model:
    """A model.

    Attributes:
        results: $nnUNet_results.
        classes: Number of classes, the background included.
        decoding: 'regions' or 'argmax'.
    """

    results: Path
    classes: int
    decoding: str

    @property
    def name(self) -> str:
        """Short name for tables and files."""
        return f"C{self.classes}_{self.decoding}"

    @property
    def heads(self) -> int:
        """Output channels: regions have none for the background."""
        return self.classes - (self.decoding == "regions")

    @property
    def dataset(self) -> str:
        """Name of the dataset, whose number tells the models apart."""
        return f"Dataset{self.classes + (300 if self.decoding == 'argmax' else 0):03d}_Phantoms"

    def folder(self, plans: str = PLANS) -> Path:
        """nnU-Net's folder of the model."""
        return self.results / self.dataset / f"{TRAINER}__{plans}__{CONFIGURATION}"

    @property
    def exported(self) -> Path:
        """What nnUNetv2_partial_export wrote."""
        return self.results.parent / "exported" / self.name


def environment(bench: Bench) -> dict[str, str]:
    """Environment of the commands: nnU-Net's folders are those of the benchmark."""
    base = bench.folder / "models"
    folders = {f"nnUNet_{name}": str(base / name) for name in ("raw", "preprocessed", "results")}
    return {**child_environment(bench.threads), **folders}


def prepare_model(bench: Bench, classes: int) -> Model:
    """Writes nnU-Net's folders of a model, with its default plans and with resampling by PyTorch.

    Args:
        bench: The benchmark.
        classes: Number of classes, the background included.
    """
    model = Model(bench.folder / "models" / "results", classes, bench.decoding)
    trained = train(bench.folder / "models" / "network", bench.preset, bench.threads)
    for name in ("raw", "preprocessed"):
        (bench.folder / "models" / name).mkdir(parents=True, exist_ok=True)
    for name in (PLANS, TORCH_PLANS):
        _write(model, name, trained, bench)
    return model


def _write(model: Model, name: str, trained: Trained, bench: Bench) -> None:
    plans = make_plans(bench.preset.network, trained.statistics, name)
    target = model.folder(name)
    if target.is_dir() and json.loads((target / "plans.json").read_text(encoding="utf-8")) == plans:
        return
    network = build_network(plans, model.heads)
    weights = {**network.state_dict(), **_without_heads(trained.weights)}
    last = max(int(key.split(".")[2]) for key in trained.weights if key.startswith(f"{_LAYERS}."))
    weight, bias = widened_heads(
        trained.weights[f"{_LAYERS}.{last}.weight"],
        trained.weights[f"{_LAYERS}.{last}.bias"],
        trained.feature_means,
        model,
    )
    weights |= {f"{_LAYERS}.{last}.weight": weight, f"{_LAYERS}.{last}.bias": bias}
    network.load_state_dict(weights)
    names = [f"class_{value}" for value in range(1, model.classes)]
    dataset_json = make_dataset_json(names, cast('Literal["regions", "argmax"]', model.decoding))
    write_model(target, plans, dataset_json, network)


def write_model(target: Path, plans: Mapping[str, Any], dataset_json: Mapping[str, Any], network: nn.Module) -> None:
    """Writes nnU-Net's folder of a model with one fold.

    Args:
        target: RESULTS/DATASET/TRAINER__PLANS__CONFIGURATION.
        plans: Of the network.
        dataset_json: Of its classes.
        network: Trained.
    """
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": TRAINER,
        "init_args": {"configuration": CONFIGURATION},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    with atomic_folder(target) as folder:
        (folder / "fold_0").mkdir()
        torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
        write_json(folder / "dataset.json", dataset_json)
        write_json(folder / "plans.json", plans)


def _without_heads(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if not key.startswith(f"{_LAYERS}.")}


def widened_heads(weight: Tensor, bias: Tensor, feature_means: Tensor, model: Model) -> tuple[Tensor, Tensor]:
    """Heads of a model made of the trained ones.

    Head k beyond the trained ones is head k modulo their number, plus a random direction and a shift such that it
    divides what that one finds. Where the highest channel wins, it does so by a plane through the class's mean
    feature. Where the last one above 0 wins, each further head of a class is the part in which the trained one is
    surer still. The background of argmax is a logit of 0.

    Args:
        weight: Of the trained heads, (n, features, 1, 1, 1).
        bias: (n,).
        feature_means: What the last layer sees in voxels of each class, (n, features).
        model: For how many classes.

    Returns:
        Weight (heads, features, 1, 1, 1) and bias (heads,).
    """
    count = model.classes - 1
    parent, generation = torch.arange(count) % len(bias), torch.arange(count) // len(bias)
    chosen, shifts = weight[parent].clone(), bias[parent].clone()
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(chosen.shape, generator=generator)
    lengths = chosen.flatten(1).norm(dim=1) / direction.flatten(1).norm(dim=1)
    direction *= (_SPREAD * lengths * (generation > 0))[:, None, None, None, None]
    means = feature_means[parent]
    logits = (chosen.flatten(1) * means).sum(1) + shifts
    shifts -= (direction.flatten(1) * means).sum(1)
    if model.decoding == "regions":
        shifts -= logits.clamp(min=0) * generation / (generation.max() + 1)
        return chosen + direction, shifts
    background = torch.zeros((1, *chosen.shape[1:]))
    return torch.cat([background, chosen + direction]), torch.cat([torch.zeros(1), shifts])


def export(bench: Bench, model: Model, formats: Sequence[str]) -> None:
    """Exports a model with nnUNetv2_partial_export, if it was not with these formats and this checkpoint.

    Args:
        bench: The benchmark.
        model: Written by `prepare_model`.
        formats: Of the command.

    Raises:
        PartialError: The command failed.
    """
    plan = model.exported / "prediction_plan.json"
    if plan.is_file() and set(formats) <= set(json.loads(plan.read_text(encoding="utf-8"))["files"]):
        newest = model.folder() / "fold_0" / "checkpoint_final.pth"
        if plan.stat().st_mtime >= newest.stat().st_mtime:
            return
    export_folder(bench, model.folder(), model.exported, formats, model.name)


def export_folder(bench: Bench, model: Path, target: Path, formats: Sequence[str], name: str) -> None:
    """Exports a model folder; what was exported before is replaced.

    Args:
        bench: The benchmark.
        model: nnU-Net's folder of the model.
        target: The exported one.
        formats: Of the command.
        name: Of the log.

    Raises:
        PartialError: The command failed.
    """
    log = bench.scratch("logs") / f"export.{name}.txt"
    command = ["nnUNetv2_partial_export", "-m", str(model), "-o", str(target), "-f", "0"]
    command += ["--overwrite"] if target.is_dir() else []
    done = measure_command([*command, "--formats", *formats], log, interval_s=1.0, environment=environment(bench))
    if done.exit_status:
        raise PartialError(f"{' '.join(command)}: exit status {done.exit_status}; it ends with:\n{last_lines(log)}")
