"""The implicit-label loss: weighted binary cross-entropy over known voxels (Jenke et al., IJCARS 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn

from nnunet_partial.losses.case_sums import case_sums
from nnunet_partial.losses.states import KnownStates, check_inputs

__all__ = ["ImplicitLabelLoss", "positive_weights_of"]


class ImplicitLabelLoss(nn.Module):
    r"""Mean over classes of the weighted binary cross-entropy of the known voxels.

    .. math::
        L = \frac{1}{C} \sum_c \frac{1}{\sum_{b,i} k_{bic}} \sum_{b,i} k_{bic} \,
            \mathrm{BCE}_{w_c}(p_{bic}, y_{bic})

    with k = 1 where the state of class c is known at voxel i of case b, and w the weight of positive voxels, as
    `pos_weight` of torch.nn.BCEWithLogitsLoss. These are equations 1 and 2 of Jenke et al. 2024. That a voxel of one
    class is known not to be any other, which gives the method its name, stands in the table already.

    Equation 1 divides by the number of known pixels and by the number of images. Where the former is counted over
    the batch, as here, images must not be counted again. A class with no known voxel adds 0, and still counts in C,
    so that the weight of a class does not depend on which others the batch annotates. How the paper joins the classes
    is not said; the mean is our choice. Its code was not found.

    All voxels of all ranks form one mean: W ranks give the loss and, after DistributedDataParallel's averaging, the
    gradient of one rank with the whole batch. A batch in which nothing is known gives 0 and a zero gradient. For cost
    and precision see `case_sums`.

    Where positive voxels count w times, the loss is least if a voxel that is positive with probability p gets
    w p / (w p + 1 - p). With w in the hundreds, as of a small organ in a volume, that exceeds one half far around the
    organ. `calibrated`, which is not in the paper, takes the loss of z + log w in place of that of the logit z, and is
    least where z is the logit of p itself: voxels count as before, and one half means one half.

    Args:
        positive_weights: (C,), above 0: weight of each class's positive voxels, see `positive_weights_of`; None for
            1. Kept as a buffer, so that it moves with the module.
        calibrated: Take the weights out of what the logits mean.
        group: Process group to pool over; None for the default group, where one is initialised.

    Raises:
        ValueError: A weight is not a finite number above 0.
    """

    positive_weights: Tensor | None

    def __init__(
        self,
        positive_weights: Tensor | Sequence[float] | None = None,
        *,
        calibrated: bool = False,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        weights = None if positive_weights is None else torch.as_tensor(positive_weights).detach().clone()
        if weights is not None and not (weights.ndim == 1 and bool((weights > 0).all() and weights.isfinite().all())):
            raise ValueError(f"positive_weights: expected a finite number above 0 for each class, got {weights}")
        self.register_buffer("positive_weights", weights)
        self.calibrated = calibrated
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
        weights = self.positive_weights
        if weights is not None and len(weights) != logits.shape[1]:
            raise ValueError(f"positive_weights: expected {logits.shape[1]}, one for each class, got {len(weights)}")
        shift = weights.log() if self.calibrated and weights is not None else None
        sums = case_sums(logits, KnownStates(labels, table), weights, shift).pooled(self.group)
        return (sums.cross_entropy / sums.known.clamp_min(1)).mean()


def positive_weights_of(counts: npt.NDArray[np.int64], states: npt.NDArray[np.int8]) -> npt.NDArray[np.float64]:
    """Ratio of negative to positive voxels of each class, over what is known.

    Voxels that are negative only because another class is present count (Jenke et al. 2024, section 3.2).

    Args:
        counts: (cases, V), voxels of each value of the merged label map in each case.
        states: (cases, V, C), states of each case's values: 1 present, 0 absent, -1 unknown.

    Returns:
        (C,), above 0. 1 for a class without positive voxels, for which there is no ratio, and for a class without
        negative voxels, whose ratio of 0 would silence all that is known of it.
    """
    positives = np.einsum("nv,nvc->c", counts, states == 1)
    negatives = np.einsum("nv,nvc->c", counts, states == 0)
    weights = np.ones(len(positives))
    np.divide(negatives, positives, out=weights, where=(positives > 0) & (negatives > 0))
    return weights
