"""The sums that all sigmoid losses are made of, for each case and class, and their gradient in closed form."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from nnunet_partial.losses.ranks import pooled
from nnunet_partial.losses.states import KnownStates

__all__ = ["CaseSums", "case_sums"]

_SMALLEST_DENOMINATOR = 1e-7
_FACTORS = 64  # 0.5 ** 64 = 5e-20 is far above float32's smallest number


class CaseSums(NamedTuple):
    """Sums over the known voxels, (B, C) for each case and class, or (C,) over all cases.

    Attributes:
        overlap: Probability of the class, over the voxels where it is present.
        predicted: Probability of the class, over all known voxels.
        present: Number of voxels where the class is present.
        known: Number of voxels where the class is known.
        cross_entropy: Binary cross-entropy.
    """

    overlap: Tensor
    predicted: Tensor
    present: Tensor
    known: Tensor
    cross_entropy: Tensor

    def pooled(self, group: dist.ProcessGroup | None = None) -> CaseSums:
        """The sums over the cases of all ranks, (C,)."""
        return CaseSums(*pooled(torch.stack(self).sum(1), group))

    def dice(self) -> Tensor:
        """Soft Dice without smoothing: 0, with a zero gradient, where the class is not present."""
        return 2 * self.overlap / (self.predicted + self.present).clamp_min(_SMALLEST_DENOMINATOR)


def case_sums(
    logits: Tensor, states: KnownStates, positive_weights: Tensor | None = None, shift: Tensor | None = None
) -> CaseSums:
    """Sums probability, presence and cross-entropy over the known voxels of each case and class.

    The sums and their gradient are computed in float32 (float64 for float64 logits) a few channels at a time, under
    autocast too. Nothing of the size of the logits is kept for the backward pass but the logits and labels
    themselves, and a channel of which nothing is known in a case costs nothing there. Only first derivatives exist.

    Args:
        logits: float (B, C, *S), before the sigmoid.
        states: What is known of the voxels.
        positive_weights: (C,), factors of the cross-entropy where a class is present, as `pos_weight` of
            torch.nn.BCEWithLogitsLoss. Costs one more pass.
        shift: (C,), added to the logits of each class; a constant, and no copy of the logits is made.

    Returns:
        The sums, each (B, C).
    """
    rows: Tensor = _CaseSums.apply(logits, states, positive_weights is not None, shift)
    cross_entropy = rows[4]
    if positive_weights is not None:
        cross_entropy = cross_entropy + positive_weights.to(rows) * rows[5]
    return CaseSums(rows[0], rows[1], rows[2], rows[3], cross_entropy)


class _CaseSums(torch.autograd.Function):
    """Sums and gradient in closed form, so that no elementwise intermediate outlives its block of channels."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, states: KnownStates, apart: bool, shift: Tensor | None) -> Tensor:
        """Rows of CaseSums, (5, B, C); `apart` splits the last into those of absent and present voxels, (6, B, C)."""
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        sums = torch.zeros(6 if apart else 5, *logits.shape[:2], dtype=dtype, device=logits.device)
        # autocast would take inner products in half precision, which ends at 65504 voxels
        with torch.autocast(logits.device.type, enabled=False):
            for case, channels in states.blocks(logits.device):
                x = _shifted(logits, case, channels, shift, dtype)
                present = states.present(case, channels, dtype)
                known = states.known(case, channels, dtype)
                p = torch.sigmoid(x)
                block = sums[:, case, channels]
                block[0] = _dot(present, p)
                block[1] = p.sum(1) if known is None else _dot(known, p)
                block[2] = present.sum(1)
                block[3] = x.shape[1] if known is None else known.sum(1)
                if apart:
                    absent = 1 - present if known is None else known - present
                    larger = _larger(p)
                    block[4] = _softplus_sum(x, larger, absent)
                    block[5] = _softplus_sum(-x, larger, present)
                else:  # -x where the class is present; no large sums are subtracted from each other
                    block[4] = _softplus_sum(torch.addcmul(x, present, x, value=-2), _larger(p), known)
        ctx.states, ctx.shift = states, shift
        ctx.save_for_backward(logits)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_sums: Tensor) -> tuple[Tensor, None, None, None]:
        (logits,) = ctx.saved_tensors
        dtype = by_sums.dtype
        gradient = torch.zeros_like(logits)
        for case, channels in ctx.states.blocks(logits.device):
            # 'present' and 'known' do not depend on the logits
            by_overlap, by_predicted, _, _, *by_entropy = by_sums[:, case, channels, None]
            p = torch.sigmoid(_shifted(logits, case, channels, ctx.shift, dtype))
            present = ctx.states.present(case, channels, dtype)
            known = ctx.states.known(case, channels, dtype)
            total = torch.addcmul(p, p, p, value=-1)
            total.mul_((by_overlap * present).add_(by_predicted))
            # the last row is that of present voxels; the one before, where there is one, that of absent voxels
            factor = by_entropy[0]
            if len(by_entropy) > 1:
                factor = ((by_entropy[1] - factor) * present).add_(factor)
            total.add_(p.sub_(present).mul_(factor))
            if known is not None:
                total.mul_(known)
            gradient[case, channels] = total.view_as(gradient[case, channels])
        return gradient, None, None, None


def _shifted(logits: Tensor, case: int, channels: slice, shift: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Logits of a block, (k, voxels)."""
    x = logits[case, channels].flatten(1).to(dtype)
    return x if shift is None else x + shift[channels, None].to(x)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Row by row inner products, (k,)."""
    return torch.linalg.vecdot(a, b) if a.shape[0] > 1 else torch.dot(a[0], b[0])[None]


def _larger(p: Tensor) -> Tensor:
    """max(p, 1 - p), in [0.5, 1]. Overwrites p."""
    return p.sub_(0.5).abs_().add_(0.5)


def _softplus_sum(x: Tensor, larger: Tensor, mask: Tensor | None) -> Tensor:
    """Sums log(1 + e^x), the cross-entropy of 'absent', over the masked voxels of each channel.

    log(1 + e^x) = max(x, 0) - log max(p, 1 - p), exact for all x. As `larger` lies in [0.5, 1], 64 of them can be
    multiplied before one logarithm is taken, which would else be the dearest operation of the loss.
    """
    rectified = x.clamp_min(0)
    if mask is not None:
        rectified.mul_(mask)
        larger = (larger - 1).mul_(mask).add_(1)
    whole = larger.shape[1] // _FACTORS * _FACTORS
    products = larger[:, :whole].reshape(len(larger), -1, _FACTORS).prod(2) if whole else larger[:, :0]
    return rectified.sum(1) - products.log().sum(1) - larger[:, whole:].log().sum(1)
