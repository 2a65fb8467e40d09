"""Sigmoid heads that start out expecting their classes to be rare."""

from __future__ import annotations

import math

import torch
from torch import nn

from nnunet_partial.errors import PartialError
from nnunet_partial.networks import segmentation_heads

__all__ = ["set_head_prior"]


def set_head_prior(network: nn.Module, prior: float) -> None:
    """Sets the bias of all segmentation heads, in place, so that they give `prior` for a zero feature.

    Args:
        network: A network of nnU-Net's or ours, as it is or inside torch.compile or DistributedDataParallel.
        prior: Probability in (0, 1).

    Raises:
        PartialError: The network has no heads that can be found, or heads without a bias.
    """
    biases = [head.bias for head in segmentation_heads(network)]
    with torch.no_grad():
        for bias in biases:
            if bias is None:
                raise PartialError(
                    f"{type(network).__name__} has heads without a bias; use a recipe without head_prior"
                )
            bias.fill_(math.log(prior / (1 - prior)))
