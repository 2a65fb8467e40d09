"""Swin UNETR (Hatamizadeh et al., BrainLes 2021), by MONAI."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import ClassVar

from monai.networks.nets.swin_unetr import SwinUNETR as MonaiSwinUNETR
from torch import Tensor, nn

from nnunet_partial.errors import PartialError
from nnunet_partial.networks.heads import SegmentationHeads
from nnunet_partial.networks.segmentation_network import SegmentationNetwork

__all__ = ["SwinUNETR"]


class SwinUNETR(SegmentationNetwork):
    """A Swin transformer with shifted windows as encoder, a convolutional decoder, no deep supervision.

    Sizes must be multiples of 32. Used by Ulrich et al. 2023 (section 2.2, patch 96x192x192) and Chen et al. 2024
    (section 4.2, patch 96x96x96).

    Args:
        input_channels: Channels of the image.
        num_classes: Output channels.
        strides: 1, 2, 2, 2, 2, 2, for each axis.
        deep_supervision: Must be False.
        feature_size: Channels of the first stage, a multiple of 12; 48 is what its authors use.
        use_checkpoint: Whether to recompute the transformer's activations in the backward pass instead of keeping
            them; slower, and less memory.

    Raises:
        PartialError: einops is not installed; or as `SegmentationNetwork`.
    """

    supports_deep_supervision: ClassVar[bool] = False

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        strides: Sequence[Sequence[int]],
        *,
        deep_supervision: bool = False,
        feature_size: int = 48,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__(strides, deep_supervision, fixed=(1, 2, 2, 2, 2, 2))
        if importlib.util.find_spec("einops") is None:
            raise PartialError("SwinUNETR needs einops; install it with: pip install 'nnunet-partial[networks]'")
        self.body = MonaiSwinUNETR(
            in_channels=input_channels,
            out_channels=1,
            feature_size=feature_size,
            use_checkpoint=use_checkpoint,
            spatial_dims=self.dimensions,
        )
        self.body.out = nn.Identity()
        self.decoder = SegmentationHeads([feature_size], num_classes, self.dimensions, deep_supervision)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C, *S) of an image (B, input_channels, *S)."""
        self.check_size(image)
        output: Tensor = self.decoder([self.body(image)])
        return output
