"""The MultiTalent loss: binary cross-entropy and batch Dice over annotated classes (Ulrich et al., MICCAI 2023)."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn

from nnunet_partial.losses.case_sums import case_sums
from nnunet_partial.losses.states import KnownStates, check_inputs

__all__ = ["MultiTalentLoss", "bce_and_batch_dice"]


class MultiTalentLoss(nn.Module):
    r"""Sum over classes of binary cross-entropy and batch Dice, over known voxels only.

    .. math::
        L = \sum_c \Bigl( \frac{1}{I} \sum_{b,i} k_{bic} \, \mathrm{BCE}(p_{bic}, y_{bic})
            - \frac{2 \sum_{b,i} k_{bic} p_{bic} y_{bic}}
                   {\sum_{b,i} k_{bic} p_{bic} + \sum_{b,i} k_{bic} y_{bic}} \Bigr)

    with k = 1 where the state of class c is known at voxel i of case b, and I voxels in an image. This is equation 2
    of Ulrich et al. 2023 with their indicator of annotated classes refined from cases to voxels; where a class is
    annotated in a whole case the two are the same. Unknown voxels count in I, so that the weight of a known voxel
    does not depend on how many others are known.

    As in the paper, the Dice of a class is taken over all images of the batch and of all ranks; the loss is a sum
    over classes, not a mean, and is not smoothed, so a class with no known positive voxel adds 0 to the Dice part.
    The public code of the paper differs: it pools only the same batch slot of different ranks, and weighs the
    cross-entropy of W ranks by 1/W. Here W ranks give the loss and, after DistributedDataParallel's averaging, the
    gradient of one rank with the whole batch.

    A batch in which nothing is known gives 0 and a zero gradient. For cost and precision see `case_sums`.

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
            labels: integer (B, 1, *S), values of the merged label map; -1 (outside the image) is unknown.
            table: int8 (B, V, C), states of each case's values: 1 present, 0 absent, -1 unknown. Best on the CPU.

        Returns:
            Scalar loss; the same on all ranks.

        Raises:
            ValueError: The shapes do not fit.
        """
        check_inputs(logits, labels, table)
        return bce_and_batch_dice(logits, KnownStates(labels, table), self.group)


def bce_and_batch_dice(logits: Tensor, states: KnownStates, group: dist.ProcessGroup | None = None) -> Tensor:
    """The formula of `MultiTalentLoss`.

    Args:
        logits: float (B, C, *S), before the sigmoid.
        states: What is known of the voxels.
        group: Process group to pool over; None for the default group, where one is initialised.
    """
    voxels = logits[0, 0].numel()
    sums = case_sums(logits, states).pooled(group)
    return (sums.cross_entropy / voxels - sums.dice()).sum()
