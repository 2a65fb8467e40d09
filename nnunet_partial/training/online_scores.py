"""Pseudo-Dice during training: hard counts on validation patches, for annotated classes only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nnunet_partial.losses.states import KnownStates

__all__ = ["annotated_counts", "describe_dice", "mean_of_defined", "pseudo_dice"]


def annotated_counts(predicted: Tensor, labels: Tensor, table: Tensor) -> npt.NDArray[np.float64]:
    """Voxel counts of a batch, over voxels that are known.

    Args:
        predicted: bool (B, C, *S), where each class is predicted.
        labels: integer (B, 1, *S).
        table: int8 (B, V, C); rows of classes that a case does not annotate must be unknown (-1).

    Returns:
        (3, C): true positives, false positives, false negatives.
    """
    counts = torch.zeros(3, predicted.shape[1], dtype=torch.float64)  # Apple's GPUs have no float64
    states = KnownStates(labels, table)
    for case, channels in states.blocks(predicted.device):
        found = predicted[case, channels].flatten(1).float()
        present = states.present(case, channels, torch.float32)
        known = states.known(case, channels, torch.float32)
        hits = (found * present).sum(1)
        predictions = (found if known is None else found * known).sum(1)
        counts[:, channels] += torch.stack([hits, predictions - hits, present.sum(1) - hits]).cpu()
    return np.asarray(counts.numpy(), np.float64)


def pseudo_dice(counts: npt.NDArray[np.float64]) -> list[float]:
    """Dice of each class; NaN where nothing was annotated or nothing was there to find.

    Args:
        counts: (3, C): true positives, false positives, false negatives.
    """
    hits, false_alarms, misses = counts
    denominator = 2 * hits + false_alarms + misses
    return [float(2 * h / d) if d > 0 else float("nan") for h, d in zip(hits, denominator, strict=True)]


def mean_of_defined(dice: Sequence[float], otherwise: float) -> float:
    """Mean over the classes that have a Dice; `otherwise` where none has."""
    defined = [d for d in dice if not np.isnan(d)]
    return float(np.mean(defined)) if defined else otherwise


def describe_dice(names: Sequence[str], dice: Sequence[float], annotated: Sequence[bool]) -> str:
    """One line for the log: 'liver 0.912, spleen not annotated, gallbladder not seen'."""
    words = []
    for name, value, known in zip(names, dice, annotated, strict=True):
        missing = "not seen" if known else "not annotated"
        words.append(f"{name} {missing if np.isnan(value) else format(value, '.4f')}")
    return ", ".join(words)
