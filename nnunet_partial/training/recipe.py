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
OPTIMIZERS = ("sgd", "adamw")


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
        optimizer: 'sgd' with Nesterov momentum 0.99, nnU-Net's, or 'adamw', which gets further in a short training
            (`nnUNet_partial_optimizer`).
        learning_rate: Initial learning rate, then polynomial decay (`nnUNet_partial_learning_rate`).
        weight_decay: Of the optimizer (`nnUNet_partial_weight_decay`).
        save_every: Epochs between checkpoints (`nnUNet_partial_save_every`).
        seed: Of network initialisation, sampling and augmentation (`nnUNet_partial_seed`).
    """

    epochs: int = 1000
    iterations: int = 250
    val_iterations: int = 50
    optimizer: str = "sgd"
    learning_rate: float = 1e-2
    weight_decay: float = 3e-5
    save_every: int = 50
    seed: int = 12345

    def from_environment(self) -> Schedule:
        """This schedule with the fields that environment variables set.

        Raises:
            PartialError: A variable holds no number, or a count below 1.
        """
        changes: dict[str, int | float | str] = {}
        for entry in fields(self):
            text = os.environ.get(_PREFIX + entry.name)
            if text is not None:
                changes[entry.name] = _parse(_PREFIX + entry.name, text, like=getattr(self, entry.name))
        known = {_PREFIX + entry.name for entry in fields(self)}
        strange = sorted(v for v in os.environ if v.startswith(_PREFIX) and v not in known)
        if strange:
            raise PartialError(f"{strange[0]} is no setting; settings are {sorted(known)}")
        return replace(self, **changes)  # type: ignore[arg-type]


def _parse(variable: str, text: str, like: int | float | str) -> int | float | str:
    if isinstance(like, str):
        if text not in OPTIMIZERS:
            raise PartialError(f"{variable}: expected one of {', '.join(OPTIMIZERS)}, found '{text}'")
        return text
    try:
        value = type(like)(text)
    except ValueError as error:
        noun = "a whole number" if isinstance(like, int) else "a number"
        raise PartialError(f"{variable}: expected {noun}, found '{text}'") from error
    smallest = 1 if isinstance(like, int) and not variable.endswith("seed") else 0
    if value < smallest:
        raise PartialError(f"{variable}: expected a number of at least {smallest}, found '{text}'")
    return value


@dataclass(frozen=True)
class Recipe:
    """One training method.

    Attributes:
        loss: Makes the loss, called as `loss(logits, labels, table)`.
        label_space: Turns the declared label space into the one that is trained.
        sampling: How cases are drawn.
        head_prior: Probability that untrained sigmoid heads give every class, in (0, 1); None leaves the network's own
            initialisation, which gives about one half. Most classes fill far less than a hundredth of a patch, and
            a small prior spares the first iterations the collapse of all heads to zero (Lin et al., ICCV 2017,
            section 3.3).
        foreground_share: Share of patches centred on a structure (nnU-Net's oversampling), in [0, 1].
        schedule: Length and pace.
    """

    loss: Callable[[], nn.Module]
    label_space: Callable[[PartialLabels], PartialLabels] = unchanged
    sampling: CaseSampling = field(default_factory=CaseSampling)
    head_prior: float | None = None
    foreground_share: float = 0.33
    schedule: Schedule = field(default_factory=Schedule)
