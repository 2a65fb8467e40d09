"""Sums and means over the samples of all ranks, with the gradient of one rank that has them all."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["mean_of_samples", "pooled"]


def pooled(tensor: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Sum of a tensor over all ranks; the tensor itself where there are no ranks.

    Backward, the gradient is multiplied by the number of ranks, by which DistributedDataParallel divides: a loss made
    of pooled sums is the same on all ranks, and its averaged gradient is that of one rank with the whole batch.

    Args:
        tensor: The rank's part.
        group: Process group to sum over; None for the default group, where one is initialised.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    total: Tensor = _Pooled.apply(tensor, group)
    return total


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.ranks = dist.get_world_size(group)
        total = tensor.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.ranks, None


def mean_of_samples(samples: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Mean over the samples of all ranks, which need not have equally many.

    Where nnU-Net cannot share a batch out evenly, a mean of the ranks' own means would count the samples of a rank with
    few of them more.

    Args:
        samples: (B,), the losses of the rank's samples.
        group: See `pooled`.
    """
    total_and_count = pooled(torch.stack([samples.sum(), samples.new_tensor(float(len(samples)))]), group)
    return total_and_count[0] / total_and_count[1]
