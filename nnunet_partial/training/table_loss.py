"""Bringing table rows to a loss that nnU-Net calls with predictions and targets only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nnunet_partial.compat import DeepSupervisionWrapper

__all__ = ["TableLoss", "deep_supervision_weights"]


def deep_supervision_weights(outputs: int, lowest: float = 0.0) -> list[float]:
    """nnU-Net's weights of the outputs of a deeply supervised network: halved from level to level, sum 1.

    Args:
        outputs: Number of outputs, highest resolution first.
        lowest: Weight of the lowest output before normalisation. DistributedDataParallel without torch.compile
            needs a little above 0, or the lowest head counts as unused.
    """
    weights = np.array([1 / 2**i for i in range(outputs)])
    if outputs > 1:
        weights[-1] = lowest
    return [float(w) for w in weights / weights.sum()]


class TableLoss(nn.Module):
    """A loss that knows the table rows of the current batch, with deep supervision where weights are given.

    Args:
        loss: Called as `loss(logits, labels, table)`; with `annotated_samples(labels, table)` of the full resolution as
            fourth argument where the loss has that method and there are several levels.
        weights: Weight of each output; None for a network with a single output.
    """

    def __init__(self, loss: nn.Module, weights: Sequence[float] | None) -> None:
        super().__init__()
        self.weights = weights
        self.loss = loss if weights is None else DeepSupervisionWrapper(loss, tuple(weights))
        self.table: Tensor | None = None
        # what a loss finds out at the full resolution holds at all levels
        self._annotated_samples: Callable[[Tensor, Tensor], Tensor] | None = getattr(loss, "annotated_samples", None)

    def forward(self, output: Tensor | Sequence[Tensor], target: Tensor | Sequence[Tensor]) -> Tensor:
        """Computes the loss of the batch whose rows were set as `table`.

        Args:
            output: Logits (B, C, *S), or one such tensor a level.
            target: Label map (B, 1, *S), or one a level.
        """
        if self.table is None:
            raise RuntimeError("set TableLoss.table to the rows of the batch before calling the loss")
        if self.weights is None:
            return torch.as_tensor(self.loss(output, target, self.table))
        tables = [[self.table] * len(self.weights)]
        if self._annotated_samples is not None:
            tables.append([self._annotated_samples(target[0], self.table)] * len(self.weights))
        return torch.as_tensor(self.loss(output, target, *tables))
