"""The marginal loss and the exclusion loss (Shi et al., Medical Image Analysis 2021)."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nnunet_partial.losses.ambiguity import merged_dice
from nnunet_partial.losses.atom_sums import AtomSums, atom_sums
from nnunet_partial.losses.ranks import mean_of_samples

__all__ = ["MarginalExclusionLoss"]

_SMOOTHING = 1e-5
_SMALLEST_DENOMINATOR = 1e-7  # of atoms that no voxel excludes, which do not count


class MarginalExclusionLoss(nn.Module):
    r"""Cross-entropy and Dice over merged atoms, and a penalty on atoms that a labelled structure excludes.

    The marginal part is the ordinary cross-entropy and Dice loss after the atoms that an annotation does not tell
    apart (the background and all structures that were not annotated) have been merged by adding their probabilities:

    .. math::
        L_m = -\frac{1}{N} \sum_i \log \sum_{a \in S_i} p_{ia} + \mathrm{Dice}_m

    with S the possible atoms of a voxel, N all voxels of the patch, and `merged_dice` for the second term.

    The exclusion part says that where one structure is labelled, there is no other. A voxel whose label rules out the
    background (atom 0) excludes each atom that is not possible there: e = 1. For each atom,

    .. math::
        L_e = \frac{2 \sum_i e_{ia} p_{ia}}{\sum_i p_{ia} + \sum_i e_{ia}}
            + \frac{1}{N} \sum_i e_{ia} \log(p_{ia} + 1)

    of which the mean is taken over the atoms that are excluded at some voxel. The 1 in the logarithm bounds it below
    by 0. The loss of a sample is L_m + w L_e, and that of a batch the mean over its samples, those of all ranks.
    A sample in which nothing is known adds 0.

    Source: Shi et al., 'Marginal loss and exclusion loss for partially supervised multi-organ segmentation', Medical
    Image Analysis 70, 2021, 101979. Our choices: the groups of the Dice, those of `merged_dice`, and its smoothing,
    that of nnU-Net, so that a structure that is annotated and absent is left to the cross-entropy; means and not sums
    over groups and atoms; voxels of which nothing is known (outside the image, or not annotated) count in N only, also
    in the sum of p.

    Args:
        exclusion_weight: Weight w of the exclusion part; 0 for the marginal loss alone.
        group: Process group to pool over; None for the default group, where one is initialised.
    """

    def __init__(self, exclusion_weight: float = 1.0, group: dist.ProcessGroup | None = None) -> None:
        super().__init__()
        self.exclusion_weight = exclusion_weight
        self.group = group

    def forward(self, logits: Tensor, labels: Tensor, possible: Tensor) -> Tensor:
        """Computes the loss.

        Args:
            logits: float (B, A, *S), one channel an atom, the background first, before the softmax.
            labels: integer (B, 1, *S), values of the merged label map; -1 (outside the image) could be everything.
            possible: bool (B, V, A), the atoms that a voxel of each value could be. Best on the CPU.

        Returns:
            Scalar loss; the same on all ranks.

        Raises:
            ValueError: The shapes do not fit, or a label value has no possible atom.
        """
        exclusion = self.exclusion_weight != 0
        with torch.autocast(logits.device.type, enabled=False):
            sums = atom_sums(logits, labels, possible, gamma=0, log_mass=exclusion)
            voxels = sums.counts.sum(-1)
            samples = (sums.focal / voxels + merged_dice(sums, _SMOOTHING))[:, 0]
            if exclusion:
                samples = samples + self.exclusion_weight * _exclusion(sums)
            return mean_of_samples(samples, self.group)


def _exclusion(sums: AtomSums) -> Tensor:
    """Exclusion loss of each sample, (B,)."""
    counts, mass, log_mass = sums.counts[:, 0], sums.mass[:, 0], sums.log_mass[:, 0]
    known = ~sums.sets.all(-1, keepdim=True)
    excluded = ~sums.sets & ~sums.sets[..., :1]
    voxels = (excluded * counts[..., None]).sum(1)
    somewhere = voxels > 0
    dice = 2 * (excluded * mass).sum(1) / ((known * mass).sum(1) + voxels).clamp_min(_SMALLEST_DENOMINATOR)
    cross_entropy = (excluded * log_mass).sum(1) / counts.sum(1, keepdim=True)
    return ((dice + cross_entropy) * somewhere).sum(1) / somewhere.sum(1).clamp_min(1)
