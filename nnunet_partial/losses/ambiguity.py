"""Ambiguity-aware focal cross-entropy, Dice and entropy over atoms (Chen et al., CVPR 2024)."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nnunet_partial.losses.atom_sums import AtomSums, atom_sums
from nnunet_partial.losses.ranks import mean_of_samples

__all__ = ["AmbiguityAwareLoss", "merged_dice"]


class AmbiguityAwareLoss(nn.Module):
    r"""Focal cross-entropy and Dice over what a voxel could be, and the entropy of what it is predicted to be.

    .. math::
        L = \frac{1}{|R|} \sum_{r \in R} \Bigl( -\frac{1}{N_r} \sum_{i \in r} (1 - q_i)^\gamma \log q_i
            + 1 - \mathrm{Dice}_r \Bigr) - \frac{\lambda}{N} \sum_i \sum_a p_{ia} \log p_{ia}

    and the mean over the samples of the batch. q is the sum of the softmax probabilities p over the atoms that are
    possible at a voxel. R are the annotated regions of a sample: its slices in which something is known of some voxel
    or, for volumes, the patch. N counts all voxels of the sample and N_r those of a region, known or not. `merged_dice`
    defines the Dice of a region. A sample whose regions all say nothing has the entropy only.

    These are equations 1 to 6 of Chen et al., 'Versatile Medical Image Segmentation Learned from Multi-Source Datasets
    via Model Self-Disambiguation'. For a protocol that annotates some structures, q and the Dice are those of their
    equations 3 and 4. Equation 1 lacks a minus sign there. The public code differs in four ways, in which the paper is
    followed here: it takes the structures that occur in a volume for the annotated ones, leaves a structure out of the
    Dice of a patch that does not contain it, merges all channels into the background of a slice, and clamps log q.
    The paper's 'examples without annotations', of which the entropy weighs more, are samples with nothing known of any
    voxel of the patch, whatever was annotated elsewhere in the case: only there do the other terms vanish.

    The mean is over the samples of all ranks. Both weights 0 are the paper's ablation without the
    entropy.

    Args:
        gamma: Exponent of the focal term, at least 0.
        entropy_weight: Weight of the entropy of samples with annotated voxels, at least 0.
        entropy_weight_unannotated: Weight of the entropy of samples without, at least 0.
        slice_axis: Spatial axis along which slices were annotated; None for volumes.
        smoothing: Of the Dice, above 0. The paper's 1 is the size of a small structure in a small patch: where such
            a structure is annotated and absent, every bit of its probability costs Dice, and the structure may never
            be learned. The paper's code leaves absent structures out; a small smoothing has the same effect.
        group: Process group to pool over; None for the default group, where one is initialised.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        *,
        entropy_weight: float = 1.0,
        entropy_weight_unannotated: float = 3.0,
        slice_axis: int | None = None,
        smoothing: float = 1.0,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        if not smoothing > 0:
            raise ValueError(f"smoothing: expected a number above 0, got {smoothing}")
        if not (entropy_weight >= 0 and entropy_weight_unannotated >= 0):
            raise ValueError(
                "entropy weights: expected numbers of at least 0, got "
                f"{entropy_weight} and {entropy_weight_unannotated}"
            )
        self.gamma = gamma
        self.entropy_weight = entropy_weight
        self.entropy_weight_unannotated = entropy_weight_unannotated
        self.slice_axis = slice_axis
        self.smoothing = smoothing
        self.group = group

    def annotated_samples(self, labels: Tensor, possible: Tensor) -> Tensor:
        """Whether anything is known of any voxel of a sample, bool (B,); arguments as for `forward`."""
        tells = ~possible.all(-1).to(labels.device)
        values = [labels[case, 0].clamp_min(0) for case in range(len(labels))]
        known = [tells[case][value.long()] & (labels[case, 0] >= 0) for case, value in enumerate(values)]
        return torch.stack([voxels.any() for voxels in known])

    def forward(self, logits: Tensor, labels: Tensor, possible: Tensor, annotated: Tensor | None = None) -> Tensor:
        """Computes the loss.

        Args:
            logits: float (B, A, *S), one channel an atom, before the softmax.
            labels: integer (B, 1, *S), values of the merged label map; -1 (outside the image) could be everything.
            possible: bool (B, V, A), the atoms that a voxel of each value could be. Best on the CPU.
            annotated: bool (B,), `annotated_samples` of the full resolution, where the labels are those of a lower
                level of deep supervision, which may have lost thin slices; None to find it in the labels.

        Returns:
            Scalar loss; the same on all ranks.

        Raises:
            ValueError: The shapes do not fit, or a label value has no possible atom.
        """
        with torch.autocast(logits.device.type, enabled=False):
            sums = atom_sums(logits, labels, possible, gamma=self.gamma, slice_axis=self.slice_axis)
            voxels = sums.counts.sum(-1)
            telling = sums.counts[..., 1:].sum(-1) > 0
            regions = (sums.focal / voxels + merged_dice(sums, self.smoothing)) * telling
            if annotated is None:
                annotated = telling.any(1)
            weights = sums.entropy.new_tensor([self.entropy_weight_unannotated, self.entropy_weight])
            weight = weights[annotated.to(weights.device).long()]
            samples = regions.sum(1) / telling.sum(1).clamp_min(1) + weight * sums.entropy / voxels.sum(1)
            return mean_of_samples(samples, self.group)


def merged_dice(sums: AtomSums, smoothing: float) -> Tensor:
    r"""Dice loss of each region over groups of atoms that its annotation tells apart.

    .. math::
        1 - \frac{1}{|G|} \sum_{g \in G} \frac{2 \sum_{i: S_i \subseteq g} P_i(g) + \epsilon}
            {\sum_i P_i(g) + \sum_{i: S_i \subseteq g} 1 + \epsilon}

    with S the label set of a voxel and P(g) the predicted probability of a group: the sum over its atoms. Voxels of
    which nothing is known do not count. This is equation 2 of Chen et al.: where M structures are annotated, the
    groups G are these, present in the region or not, and one of all other atoms, the background among them.

    In general, the groups are label sets of the case. A voxel is positive for a group that contains its label set,
    negative for a group that shares no atom with it, and says nothing of other groups. G has the groups of which every
    known voxel of the region tells, less those that are unions of smaller ones in G: where both liver and spleen were
    annotated in a slice, 'no liver' is nothing but 'spleen' or 'neither'.

    Args:
        sums: Sums over atoms with any regions.
        smoothing: The epsilon, above 0.

    Returns:
        (B, R); 0 where G is empty.
    """
    dtype = sums.mass.dtype
    sets = sums.sets.to(dtype)
    informative = ~sums.sets.all(-1)
    counts = sums.counts * informative[:, None]
    shared = sets @ sets.mT
    contained = (shared == sets.sum(-1, keepdim=True)).to(dtype)  # [k, g]: set k lies in group g
    vague = ((shared > 0) & (contained == 0)).to(dtype)
    told = ((counts > 0).to(dtype) @ vague == 0) & informative[:, None]
    # atoms of a group that lie in smaller groups of the region, (B, R, G, A)
    smaller = contained.mT * (1 - contained)
    covered = (told[:, :, None] * smaller[:, None]) @ sets[:, None] > 0
    groups = told & ~(covered | ~sums.sets[:, None]).all(-1)
    mass = (sums.mass @ sets.mT[:, None]) * informative[:, None, :, None]
    overlap = (mass * contained[:, None]).sum(2)
    dice = (2 * overlap + smoothing) / (mass.sum(2) + counts @ contained + smoothing)
    return ((1 - dice) * groups).sum(-1) / groups.sum(-1).clamp_min(1)
