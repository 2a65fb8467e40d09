"""Dice losses that treat the atoms within a voxel's label set alike (Fidon et al., MICCAI 2021)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nnunet_partial.losses.atom_sums import AtomSums, atom_sums
from nnunet_partial.losses.ranks import mean_of_samples

__all__ = ["LeafDiceLoss"]

_SMOOTHING = 1e-5


class LeafDiceLoss(nn.Module):
    r"""Leaf-Dice or marginalised Dice, and optionally the marginal cross-entropy.

    Both are label-set losses: probability that moves between atoms of a voxel's label set S changes nothing, so no
    atom is preferred where the label does not tell which it is. For A atoms ('leaves' of the labels) the Dice is

    .. math::
        L = 1 - \frac{1}{A} \sum_a \frac{2 \sum_i t_{ia} \phi_{ia}}{\sum_i t_{ia} + \sum_i \phi_{ia} + \epsilon}

    * 'leaf': t = 1 where S has this atom only, and phi are the softmax probabilities p at voxels that tell of the
      atom: those, and voxels of whose S it is no part. Elsewhere t and phi are 0. So an atom is learned as foreground
      from voxels that are labelled precisely.
    * 'marginal': t = 1 / \|S\| for the atoms of S and 0 for others; phi is p, with the probabilities of the atoms of S
      replaced by their mean. The mean Dice of a projected prediction and a soft target.

    An atom of which no voxel of a sample tells adds 0 in place of 1, which changes no gradient; so a sample in which
    nothing is known adds 0. The marginal cross-entropy is the mean over all voxels of -log of the sum of p over S. The
    loss is the mean over the samples of the batch, those of all ranks.

    Source: Fidon et al., 'Label-set loss functions for partial supervision: application to fetal brain 3D MRI
    parcellation', MICCAI 2021, doi 10.1007/978-3-030-87196-3_60. Our choices: the exponent of the denominator is 1, as
    in nnU-Net's Dice; epsilon 1e-5; the set of voxels over which phi is summed; voxels that could be everything
    (outside the image, or not annotated) are left out of the Dice.

    Args:
        cross_entropy: Whether to add the marginal cross-entropy.
        kind: Which Dice.
        group: Process group to pool over; None for the default group, where one is initialised.
    """

    def __init__(
        self,
        cross_entropy: bool = True,
        kind: Literal["leaf", "marginal"] = "leaf",
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        if kind not in _TARGETS:
            raise ValueError(f"kind: expected one of {sorted(_TARGETS)}, got {kind!r}")
        self.cross_entropy = cross_entropy
        self.kind = kind
        self.group = group

    def forward(self, logits: Tensor, labels: Tensor, possible: Tensor) -> Tensor:
        """Computes the loss.

        Args:
            logits: float (B, A, *S), one channel an atom, before the softmax.
            labels: integer (B, 1, *S), values of the merged label map; -1 (outside the image) could be everything.
            possible: bool (B, V, A), the atoms that a voxel of each value could be. Best on the CPU.

        Returns:
            Scalar loss; the same on all ranks.

        Raises:
            ValueError: The shapes do not fit, or a label value has no possible atom.
        """
        with torch.autocast(logits.device.type, enabled=False):
            sums = atom_sums(logits, labels, possible, gamma=0 if self.cross_entropy else None)
            samples = _dice(sums, self.kind)
            if self.cross_entropy:
                samples = samples + sums.focal[:, 0] / sums.counts[:, 0].sum(-1)
            return mean_of_samples(samples, self.group)


def _leaf(sets: Tensor, mass: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    target = sets * (sets.sum(-1, keepdim=True) == 1)
    return target + (1 - sets), target, mass


def _marginal(sets: Tensor, mass: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    target = sets / sets.sum(-1, keepdim=True)
    return torch.ones_like(sets), target, (1 - sets) * mass + target * (sets * mass).sum(-1, keepdim=True)


# From label sets and sums of p, both (B, K, A): whether a voxel of the set tells of an atom, its target t, sums of phi
_TARGETS = {"leaf": _leaf, "marginal": _marginal}


def _dice(sums: AtomSums, kind: str) -> Tensor:
    """Dice loss of each sample, (B,)."""
    counts, mass = sums.counts[:, 0, :, None], sums.mass[:, 0]
    told, target, phi = _TARGETS[kind](sums.sets.to(mass.dtype), mass)
    told = told * ~sums.sets.all(-1, keepdim=True)
    overlap = (told * target * phi).sum(1)
    size = (told * target * counts).sum(1) + (told * phi).sum(1)
    somewhere = (told * counts).sum(1) > 0
    return ((1 - 2 * overlap / (size + _SMOOTHING)) * somewhere).mean(1)
