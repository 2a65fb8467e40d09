"""MedNeXt (Roy et al., MICCAI 2023), by MONAI."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets.mednext import create_mednext
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nnunet_partial.networks.heads import SegmentationHeads
from nnunet_partial.networks.segmentation_network import SegmentationNetwork

__all__ = ["MedNeXt"]

_FEATURES = 32


class MedNeXt(SegmentationNetwork):
    """A U-Net of ConvNeXt blocks, with deep supervision at five resolutions.

    The bottleneck has an output too. nnU-Net supervises all stages but the last of the plans, so the plans list one
    more, of stride 1. Sizes must be multiples of 16. Chen et al. 2024 (section 4.2) use the size L.

    MONAI's layers are called here one by one, because MONAI leaves the outputs of lower resolutions out in evaluation
    mode, in which nnU-Net computes the validation loss. Its heads are transposed convolutions of size 1, the same
    function as the convolutions here.

    Args:
        input_channels: Channels of the image.
        num_classes: Output channels.
        strides: 1, 2, 2, 2, 2, 1, for each axis.
        deep_supervision: Whether to return all outputs.
        size: 'S', 'B', 'M' or 'L'.
        kernel_size: Of the depthwise convolutions, 3 or 5 in the paper.
        use_checkpoint: Whether to recompute the activations of each stage in the backward pass instead of keeping
            them; slower, and less memory.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        strides: Sequence[Sequence[int]],
        *,
        deep_supervision: bool = False,
        size: str = "S",
        kernel_size: int = 3,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__(strides, deep_supervision, fixed=(1, 2, 2, 2, 2, 1))
        self.use_checkpoint = use_checkpoint
        self.body = create_mednext(
            size, spatial_dims=self.dimensions, in_channels=input_channels, out_channels=1, kernel_size=kernel_size
        )
        self.body.out_0 = nn.Identity()
        features = [_FEATURES * 2**stage for stage in (4, 3, 2, 1, 0)]
        self.decoder = SegmentationHeads(features, num_classes, self.dimensions, deep_supervision)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Logits (B, C, *S) of an image (B, input_channels, *S); a list of them with deep supervision."""
        self.check_size(image)
        body = self.body
        x = body.stem(image)
        skips = []
        for stage, down in zip(body.enc_stages, body.down_blocks, strict=True):
            x = self._run(stage, x)
            skips.append(x)
            x = self._run(down, x)
        x = self._run(body.bottleneck, x)
        features = [x]
        for up, stage in zip(body.up_blocks, body.dec_stages, strict=True):
            x = self._run(stage, self._run(up, x) + skips.pop())
            features.append(x)
        output: Tensor | list[Tensor] = self.decoder(features)
        return output

    def _run(self, stage: nn.Module, x: Tensor) -> Tensor:
        result: Tensor = checkpoint(stage, x, use_reentrant=False) if self.use_checkpoint else stage(x)
        return result
