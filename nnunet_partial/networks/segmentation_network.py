"""What our networks have in common: how nnU-Net builds them, and which image sizes they take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from nnunet_partial.errors import PartialError

__all__ = ["SegmentationNetwork"]


class SegmentationNetwork(nn.Module):
    """Base class of networks that nnU-Net builds from plans.

    nnU-Net calls the class with `input_channels`, `num_classes`, `deep_supervision` and what the plans have under
    `arch_kwargs`. A subclass sets `decoder`, a module with the attribute `deep_supervision` and the heads
    `seg_layers` (`SegmentationHeads`, or nnU-Net's decoder).

    A network without deep supervision refuses `deep_supervision=True` when it is built, because nnU-Net's loss would
    fail on its single output with a message that explains nothing. Setting `decoder.deep_supervision` later does no
    harm, since nnU-Net does it after each validation.

    Attributes:
        supports_deep_supervision: Whether there are outputs at the resolutions that the plans' strides give.

    Args:
        strides: `strides` of the plans: factor by which each stage is coarser than the one before, axis by axis.
        deep_supervision: As nnU-Net passes it.
        fixed: The strides of a network that has no others, the same for all axes.

    Raises:
        PartialError: Deep supervision is asked for where there is none, or the strides are not those of the network.
    """

    supports_deep_supervision: ClassVar[bool] = True
    decoder: nn.Module

    def __init__(
        self, strides: Sequence[Sequence[int]], deep_supervision: bool, fixed: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if deep_supervision and not self.supports_deep_supervision:
            raise PartialError(
                f"{name} has no deep supervision; train it with a trainer of nnunet_partial, which switches it off, or "
                "with nnUNetTrainerNoDeepSupervision"
            )
        self.dimensions = len(strides[0])
        expected = [[stride] * self.dimensions for stride in fixed or ()]
        found = [list(stride) for stride in strides]
        if fixed is not None and found != expected:
            raise PartialError(f"{name}: arch_kwargs 'strides' must be {expected}, found {found}; mend the plans file")
        self.size_multiple = tuple(math.prod(axis) for axis in zip(*strides, strict=True))

    def check_size(self, image: Tensor) -> None:
        """Refuses images that cannot be halved as often as the network does.

        Args:
            image: (B, C, *S).

        Raises:
            PartialError: A spatial size is no multiple of what the strides multiply to.
        """
        size = tuple(image.shape[2:])
        if len(size) != self.dimensions:
            raise PartialError(f"{type(self).__name__}: expected {self.dimensions} spatial axes, found size {size}")
        if any(length % multiple for length, multiple in zip(size, self.size_multiple, strict=True)):
            raise PartialError(
                f"{type(self).__name__}: expected sizes that are multiples of {self.size_multiple}, found {size}; "
                "choose the patch size of the plans accordingly"
            )
