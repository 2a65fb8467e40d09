"""Recipes: what distinguishes one trainer from another."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

from torch import nn

from nnunet_partial.errors import PartialError
from nnunet_partial.labels import PartialLabels
from nnunet_partial.sampling import CaseSampling

__all__ = ["Recipe", "Schedule", "unchanged"]

_PREFIX = "nnUNet_partial_"


def unchanged(labels: PartialLabels) -> PartialLabels:
    """The label space as the dataset declares it."""
    return labels


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a network is trained. Every field can be set by an environment variable.

    Attributes:
        epochs: Number of epochs (`nnUNet_partial_epochs`).
        iterations: Training iterations an epoch (`nnUNet_partial_iterations`).
        val_iterations: Validation iterations an epoch (`nnUNet_partial_val_iterations`).
        learning_rate: Initial learning rate, then polynomial decay (`nnUNet_partial_learning_rate`).
        weight_decay: Of SGD with Nesterov momentum 0.99 (`nnUNet_partial_weight_decay`).
        save_every: Epochs between checkpoints (`nnUNet_partial_save_every`).
        seed: Of network initialisation, sampling and augmentation (`nnUNet_partial_seed`).
    """

    epochs: int = 1000
    iterations: int = 250
    val_iterations: int = 50
    learning_rate: float = 1e-2
    weight_decay: float = 3e-5
    save_every: int = 50
    seed: int = 12345

    def from_environment(self) -> Schedule:
        """This schedule with the fields that environment variables set.

        Raises:
            PartialError: A variable holds no number, or a count below 1.
        """
        changes: dict[str, int | float] = {}
        for entry in fields(self):
            variable = _PREFIX + entry.name
            text = os.environ.get(variable)
            if text is None:
                continue
            kind = type(getattr(self, entry.name))
            try:
                value = kind(text)
            except ValueError as error:
                noun = "a whole number" if kind is int else "a number"
                raise PartialError(f"{variable}: expected {noun}, found '{text}'") from error
            if value < 0 or (kind is int and entry.name != "seed" and value < 1):
                raise PartialError(f"{variable}: expected a positive number, found '{text}'")
            changes[entry.name] = value
        known = {_PREFIX + entry.name for entry in fields(self)}
        strange = sorted(v for v in os.environ if v.startswith(_PREFIX) and v not in known)
        if strange:
            raise PartialError(f"{strange[0]} is no setting; settings are {sorted(known)}")
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Recipe:
    """One training method.

    Attributes:
        loss: Makes the loss, called as `loss(logits, labels, table)`.
        label_space: Turns the declared label space into the one that is trained.
        sampling: How cases are drawn.
        foreground_share: Share of patches centred on a structure (nnU-Net's oversampling), in [0, 1].
        schedule: Length and pace.
    """

    loss: Callable[[], nn.Module]
    label_space: Callable[[PartialLabels], PartialLabels] = unchanged
    sampling: CaseSampling = field(default_factory=CaseSampling)
    foreground_share: float = 0.33
    schedule: Schedule = field(default_factory=Schedule)
