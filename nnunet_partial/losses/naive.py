"""The naive loss: what is not labelled is taken for background. The baseline of partial labelling."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn

from nnunet_partial.losses.multitalent import bce_and_batch_dice
from nnunet_partial.losses.states import KnownStates, check_inputs

__all__ = ["NaiveLoss"]


class NaiveLoss(nn.Module):
    """The MultiTalent loss with every unknown state taken for 'absent', label -1 included.

    This is what training on a merged label map does when nobody says what was annotated: an organ that a dataset
    does not label teaches the network that it is not there. Papers on partial labels compare with it; it is here for
    that comparison, and not to be trained with.

    Args:
        group: Process group to pool over; None for the default group, where one is initialised.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        super().__init__()
        self.group = group

    def forward(self, logits: Tensor, labels: Tensor, table: Tensor) -> Tensor:
        """Computes the loss.

        Args:
            logits: float (B, C, *S), one channel a class, before the sigmoid.
            labels: integer (B, 1, *S), values of the merged label map; -1 (outside the image) is absent.
            table: int8 (B, V, C), states of each case's values: 1 present, 0 or -1 absent. Best on the CPU.

        Returns:
            Scalar loss; the same on all ranks.

        Raises:
            ValueError: The shapes do not fit.
        """
        check_inputs(logits, labels, table)
        states = KnownStates(labels, table, assumed_absent=range(logits.shape[1]))
        return bce_and_batch_dice(logits, states, self.group)
