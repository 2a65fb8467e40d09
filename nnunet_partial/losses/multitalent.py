"""The MultiTalent loss: binary cross-entropy and batch Dice over annotated classes (Ulrich et al., MICCAI 2023)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nnunet_partial.losses.states import KnownStates, check_inputs

__all__ = ["MultiTalentLoss"]

_SMALLEST_DENOMINATOR = 1e-7
_FACTORS = 64  # 0.5 ** 64 = 5e-20 is far above float32's smallest number


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

    The sums, the loss and the gradient are computed in float32 (float64 for float64 logits) a few channels at a time.
    Nothing of the size of the logits is kept for the backward pass but the logits and labels themselves, and a
    channel of which nothing is known in a case costs nothing there. A batch in which nothing is known gives 0 and a
    zero gradient. Only first derivatives exist.

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
        result: Tensor = _SummedBceBatchDice.apply(logits, KnownStates(labels, table), self.group)
        return result


class _SummedBceBatchDice(torch.autograd.Function):
    """Loss and gradient in closed form, so that no elementwise intermediate outlives its channel."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, states: KnownStates, group: dist.ProcessGroup | None) -> Tensor:
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        classes, voxels = logits.shape[1], logits[0, 0].numel()
        # rows: overlap sum(p y), denominator sum(p) + sum(y), cross-entropy
        sums = torch.zeros(3, classes, dtype=dtype, device=logits.device)
        for case, channels in states.blocks(logits.device):
            x = _channels(logits, case, channels).to(dtype)
            present = states.present(case, channels, dtype)
            known = states.known(case, channels, dtype)
            p = torch.sigmoid(x)
            sums[0, channels] += _dot(present, p)
            sums[1, channels] += present.sum(1) + (p.sum(1) if known is None else _dot(known, p))
            sums[2, channels] += _softplus_sum(x, p, known) - _dot(present, x)
        ctx.ranks = _pool(sums, group)
        ctx.states, ctx.voxels = states, voxels
        overlap, denominator = sums[0], sums[1].clamp_min(_SMALLEST_DENOMINATOR)
        ctx.save_for_backward(logits, overlap, denominator)
        return (sums[2] / voxels - 2 * overlap / denominator).sum()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        logits, overlap, denominator = ctx.saved_tensors
        gradient = torch.zeros_like(logits)
        # DistributedDataParallel divides by the number of ranks; the loss is a sum over them
        scale = grad_output.to(overlap.dtype) * ctx.ranks
        per_voxel = scale / ctx.voxels
        # d(-2 O / D) / dp = 2 O / D^2 where the voxel is known, less 2 / D where the class is present
        for_known = (scale * 2 * overlap / denominator**2)[:, None]
        for_present = (scale * 2 / denominator)[:, None]
        for case, channels in ctx.states.blocks(logits.device):
            p = torch.sigmoid(_channels(logits, case, channels).to(overlap.dtype))
            present = ctx.states.present(case, channels, overlap.dtype)
            known = ctx.states.known(case, channels, overlap.dtype)
            total = torch.addcmul(p, p, p, value=-1)
            total.mul_(for_known[channels] - for_present[channels] * present)
            total.add_(p.sub_(present).mul_(per_voxel))
            if known is not None:
                total.mul_(known)
            _channels(gradient, case, channels).copy_(total)
        return gradient, None, None


def _channels(tensor: Tensor, case: int, channels: slice) -> Tensor:
    """A view of consecutive channels of a case, (k, voxels)."""
    return tensor[case, channels].flatten(1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Row by row inner products, (k,)."""
    return torch.linalg.vecdot(a, b) if a.shape[0] > 1 else torch.dot(a[0], b[0])[None]


def _softplus_sum(x: Tensor, p: Tensor, known: Tensor | None) -> Tensor:
    """Sums log(1 + e^x), the cross-entropy of 'absent', over the known voxels of each channel.

    log(1 + e^x) = max(x, 0) - log m with m = max(p, 1 - p), exact for all x. As m lies in [0.5, 1], 64 of them can be
    multiplied before one logarithm is taken, which would else be the dearest operation of the loss. Overwrites p.
    """
    m = p.sub_(0.5).abs_().add_(0.5)
    rectified = x.clamp_min(0)
    if known is not None:
        rectified.mul_(known)
        m = m.sub_(1).mul_(known).add_(1)
    whole = m.shape[1] // _FACTORS * _FACTORS
    products = m[:, :whole].reshape(len(m), -1, _FACTORS).prod(2) if whole else m[:, :0]
    return rectified.sum(1) - products.log().sum(1) - m[:, whole:].log().sum(1)


def _pool(sums: Tensor, group: dist.ProcessGroup | None) -> int:
    """Adds the sums of all ranks in place; returns the number of ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    dist.all_reduce(sums, group=group)
    return dist.get_world_size(group)
