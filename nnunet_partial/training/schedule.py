"""How long and how fast a network is trained: phases, learning rates and optimizers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import nn

from nnunet_partial.training.settings import read_setting

__all__ = ["DECAYS", "OPTIMIZERS", "EpochLearningRate", "Phase", "Schedule", "keep_running_statistics"]

OPTIMIZERS = ("sgd", "adamw")
DECAYS = ("poly", "step", "constant")
_CHOICES = {"optimizer": OPTIMIZERS, "decay": DECAYS}
_MAY_BE_ZERO = ("seed", "head_epochs", "warmup_epochs")
_POLY_POWER = 0.9
_STEP_FACTOR, _STEP_EPOCHS = 0.9, 10
_MOMENTUM = 0.99

Phase = Literal["heads", "warm-up", "main"]


@dataclass(frozen=True)
class Schedule:
    """Length and pace of a training. Every field can be set by an environment variable `nnUNet_partial_FIELD`.

    A training has up to three phases: the heads alone (for a pretrained network), a linear warm-up of the whole
    network, and the main phase with a falling learning rate. Fine-tuning of MultiTalent (Ulrich et al. 2023,
    section 3, "Transfer learning") takes 10, 50 and 1000 epochs for them.

    Attributes:
        epochs: Epochs of the main phase.
        iterations: Training iterations an epoch.
        val_iterations: Validation iterations an epoch.
        optimizer: 'sgd' with Nesterov momentum 0.99, nnU-Net's, or 'adamw'.
        learning_rate: Learning rate at the start of the main phase.
        decay: How it falls in the main phase of N epochs: 'poly', lr (1 - e/N)^0.9, nnU-Net's; 'step', by a tenth
            every 10 epochs (Jenke et al. 2024, section 3.2); or 'constant'.
        weight_decay: Of the optimizer.
        head_epochs: Epochs at the start in which only the heads are trained (AdamW with amsgrad, learning rate rising
            linearly).
        head_learning_rate: Learning rate that the heads reach there.
        warmup_epochs: Epochs of linear warm-up of the whole network after that.
        save_every: Epochs between checkpoints.
        seed: Of network initialisation, sampling and augmentation.
    """

    epochs: int = 1000
    iterations: int = 250
    val_iterations: int = 50
    optimizer: str = "sgd"
    learning_rate: float = 1e-2
    decay: str = "poly"
    weight_decay: float = 3e-5
    head_epochs: int = 0
    head_learning_rate: float = 5e-4
    warmup_epochs: int = 0
    save_every: int = 50
    seed: int = 12345

    @property
    def total_epochs(self) -> int:
        """Epochs of all phases together."""
        return self.head_epochs + self.warmup_epochs + self.epochs

    def changed(self, total_epochs: int, learning_rate: float, weight_decay: float) -> Schedule:
        """The schedule with these numbers; a different length changes the main phase, which has one epoch or more."""
        epochs = max(1, total_epochs - self.head_epochs - self.warmup_epochs)
        return replace(self, epochs=epochs, learning_rate=learning_rate, weight_decay=weight_decay)

    def phase(self, epoch: int) -> Phase:
        """The phase that an epoch, counted from 0, belongs to."""
        if epoch < self.head_epochs:
            return "heads"
        return "warm-up" if epoch < self.head_epochs + self.warmup_epochs else "main"

    def learning_rate_at(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        phase = self.phase(epoch)
        if phase == "heads":
            return self.head_learning_rate * (epoch + 1) / self.head_epochs
        if phase == "warm-up":
            return self.learning_rate * (epoch + 1 - self.head_epochs) / self.warmup_epochs
        done = epoch - self.head_epochs - self.warmup_epochs
        factors = {
            "poly": (1 - done / self.epochs) ** _POLY_POWER,
            "step": _STEP_FACTOR ** (done // _STEP_EPOCHS),
            "constant": 1.0,
        }
        return float(self.learning_rate * factors[self.decay])

    def make_optimizer(self, phase: Phase, network: nn.Module, heads: Iterable[nn.Module]) -> torch.optim.Optimizer:
        """The optimizer of a phase.

        Args:
            phase: The phase.
            network: The whole network.
            heads: Its segmentation heads, which alone are trained in the phase 'heads'.

        Returns:
            An optimizer of all parameters of the network. In the phase 'heads' it has two groups, the heads and the
            body, and its steps leave the body as it is.
        """
        if phase == "heads":
            return _adamw_of_heads(network, heads, self.head_learning_rate, self.weight_decay)
        if self.optimizer == "adamw":
            return torch.optim.AdamW(network.parameters(), self.learning_rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            network.parameters(),
            self.learning_rate,
            weight_decay=self.weight_decay,
            momentum=_MOMENTUM,
            nesterov=True,
        )

    def from_environment(self) -> Schedule:
        """This schedule with the fields that environment variables set.

        Raises:
            PartialError: A variable holds no number, a count below 1, or an unknown choice.
        """
        changes = {}
        for entry in fields(self):
            default = getattr(self, entry.name)
            smallest = 1 if isinstance(default, int) and entry.name not in _MAY_BE_ZERO else 0
            changes[entry.name] = read_setting(
                entry.name, default, choices=_CHOICES.get(entry.name, ()), smallest=smallest
            )
        return replace(self, **changes)


def _adamw_of_heads(
    network: nn.Module, heads: Iterable[nn.Module], learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW with amsgrad that holds heads and body, and changes the heads.

    nnU-Net's training step clears the gradients of the optimizer's parameters, divides them by the scale of mixed
    precision (65536 at first) and looks for overflows in them; then it clips the gradients of the whole network by
    their common norm. Were the body not in the optimizer, its gradients would pile up from step to step, all of them
    scaled, and rule that norm; an overflow among them would make the heads NaN.
    """
    trained = [p for head in heads for p in head.parameters()]
    ids = {id(p) for p in trained}
    body = [p for p in network.parameters() if id(p) not in ids]
    optimizer = torch.optim.AdamW(
        [{"params": trained}, {"params": body}], learning_rate, weight_decay=weight_decay, amsgrad=True
    )

    # AdamW passes over parameters without a gradient: no change, no weight decay, no state. To switch requires_grad off
    # would spare the backward pass, but DistributedDataParallel settles once which parameters it synchronises, and the
    # later phases train the body.
    def forget_body(*_: object) -> None:
        for parameter in body:
            parameter.grad = None

    optimizer.register_step_pre_hook(forget_body)
    return optimizer


def keep_running_statistics(network: nn.Module) -> None:
    """Makes the layers that normalise by running statistics, such as batch norm, use these and leave them as they are.

    In the phase 'heads', where the body of the network stays as it is. To be called after every `network.train()`,
    which undoes it.

    Args:
        network: A network in training mode; as it is or inside torch.compile or DistributedDataParallel.
    """
    for module in network.modules():
        if getattr(module, "running_mean", None) is not None:
            module.eval()


class EpochLearningRate:
    """What nnU-Net calls a scheduler: sets the learning rate at the start of every epoch.

    Args:
        optimizer: The optimizer.
        schedule: Gives the learning rate.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Schedule) -> None:
        self.optimizer = optimizer
        self.schedule = schedule

    def step(self, epoch: int) -> None:
        """Sets the learning rate of an epoch, counted from 0."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate_at(epoch)
