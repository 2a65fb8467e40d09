"""Sigmoid heads that start out expecting their classes to be rare."""

from __future__ import annotations

import math

import torch
from torch import nn

from nnunet_partial.errors import PartialError

__all__ = ["set_head_prior"]

_HEADS = "seg_layers"


def set_head_prior(network: nn.Module, prior: float) -> None:
    """Sets the bias of all segmentation heads, in place, so that they give `prior` for a zero feature.

    Args:
        network: A network whose heads are called `seg_layers`, as nnU-Net's are.
        prior: Probability in (0, 1).

    Raises:
        PartialError: The network has no such heads, or heads without a bias.
    """
    heads = [
        module
        for name, module in network.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Conv3d)) and _HEADS in name.split(".")
    ]
    if not heads or any(head.bias is None for head in heads):
        raise PartialError(
            f"{type(network).__name__} has no biased heads called '{_HEADS}'; use a recipe without head_prior"
        )
    with torch.no_grad():
        for head in heads:
            assert head.bias is not None
            head.bias.fill_(math.log(prior / (1 - prior)))
