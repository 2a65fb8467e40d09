"""Sums of softmax probabilities by label set: all that the losses over atoms need of the logits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["AtomSums", "LabelSets", "atom_sums"]

# A case is taken in blocks of at most this many probabilities: small on a CPU, where a block should stay in the cache,
# larger on a GPU, where each block costs a few kernel launches.
_BLOCK_PROBABILITIES = {"cpu": 1 << 18, "cuda": 1 << 23}


class LabelSets(NamedTuple):
    """The distinct label sets of each case: what a voxel could be.

    Label values of a case that could be the same atoms share a set. Set 0 is 'everything': nothing is known. It is
    also the set of label -1 (outside the image), and fills up the cases that have fewer sets than others.

    Attributes:
        atoms: bool (B, K, A), the atoms of each set.
        of_label: int32 (B, V + 1), the set of each label; the first entry is that of label -1.
    """

    atoms: Tensor
    of_label: Tensor

    @classmethod
    def from_table(cls, possible: Tensor) -> LabelSets:
        """Finds the sets of a table of possible atoms.

        Args:
            possible: bool (B, V, A). Best on the CPU.

        Returns:
            The sets, on the CPU, in the order of the values.

        Raises:
            ValueError: Some value could be no atom at all.
        """
        if not possible.any(-1).all():
            raise ValueError("possible: some label value has no possible atom; every voxel must be something")
        batch, values, atoms = possible.shape
        everything = (True,) * atoms
        of_label = torch.zeros(batch, values + 1, dtype=torch.int32)
        found: list[list[tuple[bool, ...]]] = []
        for case, rows in enumerate(possible.tolist()):
            seen = {everything: 0}
            for value, row in enumerate(rows):
                of_label[case, value + 1] = seen.setdefault(tuple(row), len(seen))
            found.append(list(seen))
        longest = max(map(len, found), default=1)
        filled = [sets + [everything] * (longest - len(sets)) for sets in found]
        return cls(torch.tensor(filled, dtype=torch.bool).reshape(batch, longest, atoms), of_label)


class AtomSums(NamedTuple):
    """Sums over the voxels of a batch; R regions, K label sets, A atoms.

    A region is the whole patch of a case (R = 1) or one of its slices. p are the softmax probabilities, and q is the
    probability of the label set of a voxel: the sum of p over its atoms.

    Attributes:
        sets: bool (B, K, A), the label sets; see `LabelSets`.
        counts: (B, R, K), voxels of each set.
        mass: (B, R, K, A), sum of p over the voxels of each set.
        log_mass: (B, R, K, A), sum of log(1 + p) over the voxels of each set; 0 if not asked for.
        focal: (B, R), sum of -(1 - q)^gamma log q; 0 if not asked for. Exactly 0 for voxels that could be everything.
        entropy: (B,), sum of -sum_a p_a log p_a.
    """

    sets: Tensor
    counts: Tensor
    mass: Tensor
    log_mass: Tensor
    focal: Tensor
    entropy: Tensor


def atom_sums(
    logits: Tensor,
    labels: Tensor,
    possible: Tensor,
    *,
    gamma: float | None = None,
    log_mass: bool = False,
    slice_axis: int | None = None,
) -> AtomSums:
    """Sums over voxels from which the losses over atoms are put together.

    All sums but the counts can be differentiated once. They and the gradient are computed in float32 (float64 for
    float64 logits), also under autocast, a few planes of a case at a time. Nothing of the size of the logits is kept
    for the backward pass but the logits and labels themselves. log q is a difference of logarithms of sums, so that
    neither it nor its gradient is lost where q underflows.

    Args:
        logits: float (B, A, *S), one channel an atom, before the softmax over all channels.
        labels: integer (B, 1, *S), values of the merged label map; -1 (outside the image) could be everything.
        possible: bool (B, V, A), the atoms that a voxel of each value could be, case by case. Best on the CPU.
        gamma: Exponent of the focal term, at least 0; 0 gives the plain log-likelihood, None leaves the term out.
        log_mass: Whether to sum log(1 + p).
        slice_axis: Spatial axis whose slices are the regions; None for the whole patch.

    Returns:
        The sums, on the device of the logits.

    Raises:
        ValueError: The shapes do not fit, or a label value has no possible atom.
    """
    _check(logits, labels, possible, slice_axis)
    sets = LabelSets.from_table(possible)
    sets = LabelSets(*(tensor.to(logits.device, non_blocking=True) for tensor in sets))
    counts, *sums = _SumOverVoxels.apply(logits, _Patch(labels, sets, slice_axis), gamma, log_mass)
    return AtomSums(sets.atoms, counts, *sums)


def _check(logits: Tensor, labels: Tensor, possible: Tensor, slice_axis: int | None) -> None:
    batch, atoms, *spatial = logits.shape
    if labels.shape != (batch, 1, *spatial):
        raise ValueError(
            f"labels: expected shape {(batch, 1, *spatial)} for logits {tuple(logits.shape)}, got {tuple(labels.shape)}"
        )
    if labels.dtype.is_floating_point:
        raise ValueError(f"labels: expected integers, got {labels.dtype}")
    if possible.ndim != 3 or possible.shape[0] != batch or possible.shape[2] != atoms:
        raise ValueError(
            f"possible: expected shape ({batch}, values, {atoms}) for logits {tuple(logits.shape)}, "
            f"got {tuple(possible.shape)}"
        )
    if possible.dtype != torch.bool:
        raise ValueError(f"possible: expected booleans, got {possible.dtype}")
    if slice_axis is not None and not 0 <= slice_axis < len(spatial):
        raise ValueError(f"slice_axis: expected 0 to {len(spatial) - 1} for {len(spatial)}D patches, got {slice_axis}")


class _Block(NamedTuple):
    """Some planes along the first spatial axis of a case, and the regions they belong to."""

    case: int
    planes: slice
    regions: slice


class _Patch:
    """Cuts a batch into blocks and regions, and looks up the label sets of voxels.

    Args:
        labels: integer (B, 1, *S).
        sets: The label sets, on the device of the labels.
        slice_axis: Spatial axis whose slices are the regions; None for one region.
    """

    def __init__(self, labels: Tensor, sets: LabelSets, slice_axis: int | None) -> None:
        self.regions = 1 if slice_axis is None else labels.shape[2 + slice_axis]
        self.sets = sets.atoms.shape[1]
        self._labels, self._label_sets, self._slice_axis = labels, sets, slice_axis

    def blocks(self, logits: Tensor) -> Iterator[_Block]:
        """Blocks that cover the batch, planes that lie together in memory."""
        planes = logits.shape[2]
        longest = max(1, _BLOCK_PROBABILITIES.get(logits.device.type, 1 << 20) // logits[0, :, 0].numel())
        for case in range(logits.shape[0]):
            for start in range(0, planes, longest):
                part = slice(start, min(start + longest, planes))
                yield _Block(case, part, part if self._slice_axis == 0 else slice(0, self.regions))

    def index(self, block: _Block) -> Tensor:
        """Label set of each voxel of a block, (s, ...)."""
        labels = self._labels[block.case, 0, block.planes]
        of_label = self._label_sets.of_label[block.case]
        return of_label.index_select(0, (labels.to(torch.int32) + 1).flatten()).view(labels.shape)

    def by_region(self, voxels: Tensor) -> Tensor:
        """Values (C, s, ...) of the voxels of a block, region by region: (r, C, n)."""
        if self._slice_axis is None:
            return voxels.reshape(1, voxels.shape[0], -1)
        moved = voxels.movedim(1 + self._slice_axis, 0)
        return moved.reshape(*moved.shape[:2], -1)

    def spread(self, sums: Tensor, index: Tensor) -> Tensor:
        """Entries (r, K, C) of the region and label set of each voxel, (C, s, ...)."""
        regions, sets, channels = sums.shape
        if self._slice_axis is not None:
            offset = torch.arange(0, regions * sets, sets, dtype=index.dtype, device=index.device)
            index = index + offset.view([-1 if axis == self._slice_axis else 1 for axis in range(index.ndim)])
        return _columns(sums.reshape(-1, channels).T, index)

    def membership(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """1 for the label set of each voxel and 0 for the others, (K, s, ...)."""
        return _columns(torch.eye(self.sets, dtype=dtype, device=index.device), index)

    def within(self, log_p: Tensor, block: _Block, index: Tensor) -> tuple[Tensor, Tensor]:
        """Softmax over the possible atoms alone, (A, s, ...), and log q, (s, ...).

        log q is at most 0, and exactly 0 where everything is possible.
        """
        atoms = self._label_sets.atoms[block.case]
        barrier = torch.zeros_like(atoms, dtype=log_p.dtype).masked_fill_(~atoms, -math.inf)
        log_p = _columns(barrier.T, index).add_(log_p)
        share = log_p.softmax(0)
        # the largest share is at least 1 / A, so its logarithm is exact however small q is
        log_q = log_p.amax(0).sub_(share.amax(0).log_())
        return share, log_q.clamp_max_(0).mul_(index > 0)


class _SumOverVoxels(torch.autograd.Function):
    """The sums and their gradient in closed form, so that no intermediate outlives its block."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, patch: _Patch, gamma: float | None, wants_log_mass: bool
    ) -> tuple[Tensor, ...]:
        dtype = _precision(logits)
        batch, atoms = logits.shape[:2]
        mass = torch.zeros(batch, patch.regions, patch.sets, atoms, dtype=dtype, device=logits.device)
        log_mass, counts = torch.zeros_like(mass), torch.zeros_like(mass[..., 0])
        focal, entropy = torch.zeros_like(counts[..., 0]), torch.zeros_like(counts[:, 0, 0])
        with torch.autocast(logits.device.type, enabled=False):
            for block in patch.blocks(logits):
                place = block.case, block.regions
                index, log_p = patch.index(block), _log_softmax(logits, block, dtype)
                if gamma is not None:
                    _, log_q = patch.within(log_p, block, index)
                    focal[place] += patch.by_region(_focal(log_q, gamma)[None]).sum((1, 2))
                member = patch.by_region(patch.membership(index, dtype))
                counts[place] += member.sum(2)
                p = log_p.exp()
                entropy[block.case] -= log_p.mul_(p).sum()
                mass[place] += member @ patch.by_region(p).mT
                if wants_log_mass:
                    log_mass[place] += member @ patch.by_region(p.add_(1).log_()).mT
        ctx.save_for_backward(logits)
        ctx.patch, ctx.gamma = patch, gamma
        ctx.mark_non_differentiable(counts)
        ctx.set_materialize_grads(False)
        return counts, mass, log_mass, focal, entropy

    @staticmethod
    def backward(
        ctx: Any, _: None, mass: Tensor | None, log_mass: Tensor | None, focal: Tensor | None, entropy: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        (logits,) = ctx.saved_tensors
        patch: _Patch = ctx.patch
        dtype = _precision(logits)
        gradient = torch.empty_like(logits)
        with torch.autocast(logits.device.type, enabled=False):
            for block in patch.blocks(logits):
                place = block.case, block.regions
                index, log_p = patch.index(block), _log_softmax(logits, block, dtype)
                p = log_p.exp()
                by_p = torch.zeros_like(p) if mass is None else patch.spread(mass[place], index)
                if log_mass is not None:
                    by_p += patch.spread(log_mass[place], index) / (p + 1)
                if entropy is not None:
                    by_p.addcmul_(log_p, entropy[block.case], value=-1)
                total = by_p.sub_((p * by_p).sum(0)).mul_(p)
                if focal is not None and ctx.gamma is not None:
                    share, log_q = patch.within(log_p, block, index)
                    by_region = focal[place][:, None, None].expand(-1, patch.sets, -1)
                    slope = patch.spread(by_region, index)[0] * _focal_slope(log_q, ctx.gamma) * (index > 0)
                    # log q has the gradient 'softmax over the possible atoms less softmax over all'
                    total.addcmul_(share.sub_(p), slope)
                gradient[block.case, :, block.planes] = total
        return gradient, None, None, None


def _precision(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _log_softmax(logits: Tensor, block: _Block, dtype: torch.dtype) -> Tensor:
    """Logarithms of the probabilities of a block, (A, s, ...); always a new tensor."""
    return logits[block.case, :, block.planes].to(dtype).log_softmax(0)


def _columns(table: Tensor, index: Tensor) -> Tensor:
    """table[:, index]; this way is the fastest on a CPU."""
    return table.contiguous().index_select(1, index.flatten()).view(-1, *index.shape)


def _focal(log_q: Tensor, gamma: float) -> Tensor:
    """-(1 - q)^gamma log q."""
    return -(torch.expm1(log_q).neg_().pow_(gamma) * log_q)


def _focal_slope(log_q: Tensor, gamma: float) -> Tensor:
    """Derivative of -(1 - q)^gamma log q by log q: (1 - q)^gamma (gamma q log q / (1 - q) - 1).

    The quotient tends to -1 as q tends to 1, so the derivative has no pole for any gamma.
    """
    rest = -torch.expm1(log_q)
    quotient = torch.where(rest > 0, log_q.exp() * log_q / rest, -1.0)
    return rest.pow(gamma) * (gamma * quotient - 1)
