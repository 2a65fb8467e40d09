"""UNet++ (Zhou et al., IEEE TMI 2020), by MONAI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus
from torch import Tensor, nn

from nnunet_partial.networks.heads import SegmentationHeads
from nnunet_partial.networks.segmentation_network import SegmentationNetwork

__all__ = ["UNetPlusPlus"]


class UNetPlusPlus(SegmentationNetwork):
    """A U-Net whose skip connections are nested U-Nets, no deep supervision.

    The deep supervision of UNet++ has four outputs at full resolution, which are not the ones that nnU-Net supervises;
    only the last is kept. Sizes must be multiples of 16. Used by Chen et al. 2024 (section 4.2).

    Args:
        input_channels: Channels of the image.
        num_classes: Output channels.
        strides: 1, 2, 2, 2, 2, for each axis.
        deep_supervision: Must be False.
        features: Channels of the five stages, then of the last decoder stage.
    """

    supports_deep_supervision: ClassVar[bool] = False

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        strides: Sequence[Sequence[int]],
        *,
        deep_supervision: bool = False,
        features: Sequence[int] = (32, 32, 64, 128, 256, 32),
    ) -> None:
        super().__init__(strides, deep_supervision, fixed=(1, 2, 2, 2, 2))
        self.body = BasicUNetPlusPlus(
            spatial_dims=self.dimensions, in_channels=input_channels, out_channels=1, features=tuple(features)
        )
        for nested in range(1, 5):
            setattr(self.body, f"final_conv_0_{nested}", nn.Identity())
        self.decoder = SegmentationHeads([features[-1]], num_classes, self.dimensions, deep_supervision)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C, *S) of an image (B, input_channels, *S)."""
        self.check_size(image)
        output: Tensor = self.decoder(self.body(image))
        return output
