"""The partial loss for selected categories: cross-entropy and image Dice (Zhu et al., FLARE 2023 challenge)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nnunet_partial.losses.case_sums import case_sums
from nnunet_partial.losses.ranks import pooled
from nnunet_partial.losses.states import KnownStates, check_inputs

__all__ = ["SelectedPartialLoss"]


class SelectedPartialLoss(nn.Module):
    r"""Mean over annotated pairs of case and class of binary cross-entropy minus Dice of the image.

    .. math::
        L = \frac{1}{\sum_{b,c} h_{bc}} \sum_{b,c} h_{bc} \Bigl( \frac{1}{I} \sum_i k_{bic} \,
            \mathrm{BCE}(p_{bic}, y_{bic})
            - \frac{2 \sum_i k_{bic} p_{bic} y_{bic}}{\sum_i k_{bic} p_{bic} + \sum_i k_{bic} y_{bic}} \Bigr)

    with h = 1 where class c is annotated in case b, k = 1 where its state is known at voxel i, and I voxels in an
    image. This is equation 2 of Zhu et al. 2023. New is k: voxels of an annotated pair that nobody looked at (slices
    without labels, label -1) are left out, and still count in I.

    A pair is annotated where the case's rows of the table know anything of the class. Classes that a case does not
    annotate must therefore be wholly unknown in the table: leave out what is only implied by the labels of other
    structures.

    Where the public code differs, this follows the paper. There a tumour counts as annotated where the *patch* holds
    a tumour voxel, so that patches without one never teach that there is none; here it counts where the case is
    annotated. There the Dice is divided by the number of all pairs, and one that is left out scores a constant 1;
    here it is divided by the number of annotated pairs, and others add nothing. There Dice is smoothed; here an
    annotated class that is not present has a Dice of 0 and learns from the cross-entropy, as equation 2 says.

    All cases of all ranks form one mean: W ranks give the loss and, after DistributedDataParallel's averaging, the
    gradient of one rank with the whole batch. A batch in which nothing is annotated gives 0 and a zero gradient. For
    cost and precision see `case_sums`.

    Args:
        optional: The selected classes S, which some cases do not annotate; None for all. Every other class counts as
            annotated in every case, and as absent wherever it is unknown, label -1 included.
        group: Process group to pool over; None for the default group, where one is initialised.
    """

    def __init__(self, optional: Sequence[int] | None = None, group: dist.ProcessGroup | None = None) -> None:
        super().__init__()
        self.optional = None if optional is None else tuple(optional)
        self.group = group

    def forward(self, logits: Tensor, labels: Tensor, table: Tensor) -> Tensor:
        """Computes the loss.

        Args:
            logits: float (B, C, *S), one channel a class, before the sigmoid.
            labels: integer (B, 1, *S), values of the merged label map; -1 (outside the image) is unknown.
            table: int8 (B, V, C), states of each case's values: 1 present, 0 absent, -1 unknown; wholly -1 for a
                class that the case does not annotate. Best on the CPU.

        Returns:
            Scalar loss; the same on all ranks.

        Raises:
            ValueError: The shapes do not fit, or `optional` names a class that the logits do not have.
        """
        check_inputs(logits, labels, table)
        states = KnownStates(labels, table, assumed_absent=self._always_annotated(logits.shape[1]))
        sums = case_sums(logits, states)
        # where nothing is known, both terms are 0
        pairs = sums.cross_entropy / logits[0, 0].numel() - sums.dice()
        annotated = states.annotated.to(pairs)
        total_and_count = pooled(torch.stack([pairs.sum(), annotated.sum()]), self.group)
        return total_and_count[0] / total_and_count[1].clamp_min(1)

    def _always_annotated(self, classes: int) -> list[int]:
        if self.optional is None:
            return []
        missing = sorted(set(self.optional) - set(range(classes)))
        if missing:
            raise ValueError(f"optional: expected classes of 0 to {classes - 1}, got {missing}")
        return sorted(set(range(classes)) - set(self.optional))
