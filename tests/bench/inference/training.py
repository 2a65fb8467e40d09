"""Training of the networks whose predictions are measured; on phantoms, until their label maps are smooth."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nnunet_partial.atomic import atomic_path, write_json
from nnunet_partial.inference.backends.open_backend import has_bf16
from nnunet_partial.inference.model.weights_file import read_weights, write_weights
from nnunet_partial.training.head_prior import set_head_prior
from tests.bench.inference.plans import CONFIGURATION, build_network, make_plans
from tests.bench.inference.presets import Phase, Preset
from tests.bench.inference.volumes import CLASSES, training_phantom

__all__ = ["Patients", "Trained", "fit", "intensity_statistics", "train"]

_FOREGROUND_SHARE = 0.7
_DECAY = 0.9
_LARGEST_GRADIENT = 12.0
_SMOOTHING = 1e-5
_FEATURE_PATCHES = 3
_HEAD_PRIOR = 0.01
_SMALLEST_IN_BF16 = 3


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        weights: By name, as in `state_dict`; one channel a class.
        statistics: Of intensities in classes, as nnU-Net's plans hold them.
        feature_means: What the last layer sees in voxels of each class, on average, (classes, features).
    """

    weights: Mapping[str, Tensor]
    statistics: Mapping[str, float]
    feature_means: Tensor


@dataclass(frozen=True)
class Patients:
    """Normalised images and labels.

    Attributes:
        images: Each (Z, Y, X).
        labels: Each (Z, Y, X); classes count from 1, 0 is none.
        places: Flat indices of the voxels of each class, by patient.
    """

    images: list[NDArray[np.float32]]
    labels: list[NDArray[np.uint8]]
    places: list[list[NDArray[np.intp]]]

    @classmethod
    def of(cls, scans: Sequence[tuple[NDArray[np.float32], NDArray[np.uint8]]], classes: int) -> Patients:
        """Patients of their scans and labels.

        Args:
            scans: Hounsfield units and labels.
            classes: Number of classes, the background not counted.
        """
        statistics = intensity_statistics(scans)
        low, high = statistics["percentile_00_5"], statistics["percentile_99_5"]
        images = [(np.clip(image, low, high) - statistics["mean"]) / statistics["std"] for image, _ in scans]
        labels = [drawn for _, drawn in scans]
        places = [[np.flatnonzero(label == value) for value in range(1, classes + 1)] for label in labels]
        return cls([image.astype(np.float32) for image in images], labels, places)

    @property
    def classes(self) -> int:
        """Number of classes, the background not counted."""
        return len(self.places[0])

    def batch(self, rng: np.random.Generator, patch: tuple[int, int, int], size: int) -> tuple[Tensor, Tensor]:
        """Images (B, 1, *patch) and labels (B, *patch); most patches lie around a voxel of a class."""
        images, labels = [], []
        for _ in range(size):
            number = int(rng.integers(len(self.images)))
            shape = self.labels[number].shape
            centre = rng.integers(0, shape)
            present = [place for place in self.places[number] if place.size]
            if present and rng.random() < _FOREGROUND_SHARE:
                chosen = present[int(rng.integers(len(present)))]
                centre = np.array(np.unravel_index(int(rng.choice(chosen)), shape))
            start = np.clip(centre - np.array(patch) // 2, 0, np.array(shape) - patch)
            box = tuple(slice(int(s), int(s) + n) for s, n in zip(start, patch, strict=True))
            images.append(self.images[number][box])
            labels.append(self.labels[number][box])
        return torch.from_numpy(np.stack(images)[:, None]), torch.from_numpy(np.stack(labels).astype(np.int64))


def intensity_statistics(scans: Sequence[tuple[NDArray[np.float32], NDArray[np.uint8]]]) -> dict[str, float]:
    """Statistics of intensities in classes, as nnU-Net's plans hold them.

    Args:
        scans: Hounsfield units and labels.
    """
    values = np.concatenate([image[labels > 0] for image, labels in scans])
    low, high = np.percentile(values, (0.5, 99.5))
    return {
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
        "percentile_00_5": float(low),
        "percentile_99_5": float(high),
    }


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross entropy and Dice of each class."""
    target = functional.one_hot(labels, logits.shape[1] + 1).movedim(-1, 1)[:, 1:].to(logits.dtype)
    axes = (0, 2, 3, 4)
    probability = torch.sigmoid(logits)
    overlap, sizes = (probability * target).sum(axes), (probability + target).sum(axes)
    dice = (2 * overlap + _SMOOTHING) / (sizes + _SMOOTHING)
    cross_entropy: Tensor = functional.binary_cross_entropy_with_logits(logits, target)
    present = target.sum(axes) > 0
    if not present.any():  # the mean of no classes is not a number
        return cross_entropy
    return cross_entropy + 1 - dice[present].mean()


def _in_bf16(plans: Mapping[str, Any], patch: tuple[int, int, int], device: torch.device) -> bool:
    """Whether to train in bfloat16: where that is fast, and gradients are right.

    oneDNN's gradients of weights hold values that nobody wrote where an image is two voxels wide or less.
    """
    if device.type == "cuda":
        return True
    strides = plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]["strides"]
    coarsest = np.array(patch) // np.prod(strides, axis=0)
    return has_bf16() and bool((coarsest >= _SMALLEST_IN_BF16).all())


def fit(plans: Mapping[str, Any], patients: Patients, phases: Sequence[Phase], threads: int) -> nn.Module:
    """Trains a network with sigmoid heads.

    Args:
        plans: Of the network.
        patients: To train on.
        phases: One after the other.
        threads: On the CPU.

    Returns:
        The network, on the device that it was trained on: the GPU if there is one.
    """
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    network = build_network(plans, patients.classes).to(device)
    set_head_prior(network, _HEAD_PRIOR)
    network.to(memory_format=torch.channels_last_3d)  # less than half the time in bfloat16 on a CPU
    for number, phase in enumerate(phases):
        print(f"  patches of {phase.patch}", file=sys.stderr)
        bf16 = _in_bf16(plans, phase.patch, device)
        _fit_phase(network, patients, phase, np.random.default_rng(number), bf16)
    return network


def _fit_phase(network: nn.Module, patients: Patients, phase: Phase, rng: np.random.Generator, bf16: bool) -> None:
    device = next(network.parameters()).device
    optimizer = torch.optim.AdamW(network.parameters(), lr=phase.learning_rate)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, phase.iterations, _DECAY)
    reduced = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
    start = time.monotonic()
    for iteration in range(1, phase.iterations + 1):
        images, labels = (part.to(device) for part in patients.batch(rng, phase.patch, phase.batch_size))
        optimizer.zero_grad()
        with reduced:
            logits = network(images.to(memory_format=torch.channels_last_3d))
        loss = _loss(logits.float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), _LARGEST_GRADIENT)
        optimizer.step()
        schedule.step()
        if iteration % 50 == 0 or iteration == phase.iterations:
            seconds = time.monotonic() - start
            print(f"  iteration {iteration}/{phase.iterations}, loss {loss:.3f}, {seconds:.0f} s", file=sys.stderr)


def _feature_means(network: Any, patients: Patients, preset: Preset) -> Tensor:
    """Mean input of the last layer in voxels of each class."""
    seen: list[Tensor] = []
    last = network.decoder.seg_layers[-1]
    device = last.weight.device
    hook = last.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    sums = torch.zeros((len(CLASSES) + 1, last.in_channels))
    counts = torch.zeros(len(CLASSES) + 1)
    rng = np.random.default_rng(1)
    with torch.no_grad():
        for _ in range(_FEATURE_PATCHES * preset.training.phantoms):
            images, labels = patients.batch(rng, preset.training.phases[-1].patch, 1)
            network(images.to(device))
            features = seen.pop()[0].flatten(1).T.float().cpu()
            sums.index_add_(0, labels.flatten(), features)
            counts += torch.bincount(labels.flatten(), minlength=len(counts))
    hook.remove()
    return (sums / counts.clamp(min=1)[:, None])[1:]


def train(folder: Path, preset: Preset, threads: int) -> Trained:
    """Trains the network, or reads what was trained before with these sizes.

    Args:
        folder: Where it is kept.
        preset: Sizes.
        threads: On the CPU.
    """
    weights_path, features_path, about = (
        folder / name for name in ("weights.safetensors", "features.safetensors", "network.json")
    )
    settings: dict[str, Any] = {name: preset.settings()[name] for name in ("network", "training")}
    if about.is_file():
        content = json.loads(about.read_text(encoding="utf-8"))
        if content["settings"] == settings:
            return Trained(read_weights(weights_path), content["statistics"], read_weights(features_path)["means"])
    print("training the network", file=sys.stderr)
    training = preset.training
    scans = [training_phantom(seed, training.shape, preset.network.spacing_mm) for seed in range(training.phantoms)]
    patients, statistics = Patients.of(scans, len(CLASSES)), intensity_statistics(scans)
    network = fit(make_plans(preset.network, statistics), patients, training.phases, threads)
    means = _feature_means(network.eval(), patients, preset)
    for path, tensors in ((weights_path, network.cpu().state_dict()), (features_path, {"means": means})):
        with atomic_path(path) as temporary:
            write_weights(temporary, tensors)
    write_json(about, {"settings": settings, "statistics": statistics})
    return Trained(network.state_dict(), statistics, means)
