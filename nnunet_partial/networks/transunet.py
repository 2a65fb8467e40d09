"""A 3D TransUNet: convolutional encoder and decoder, a vision transformer between them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from dynamic_network_architectures.building_blocks.residual_encoders import (  # type: ignore[import-untyped]
    ResidualEncoder,
)
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder  # type: ignore[import-untyped]
from dynamic_network_architectures.initialization.weight_init import (  # type: ignore[import-untyped]
    InitWeights_He,
    init_last_bn_before_add_to_0,
)
from torch import Tensor, nn
from torch.nn import functional

from nnunet_partial.errors import PartialError
from nnunet_partial.networks.segmentation_network import SegmentationNetwork

__all__ = ["TransUNet3D"]

_NEGATIVE_SLOPE = 1e-2


class TransUNet3D(SegmentationNetwork):
    """A residual encoder, a vision transformer over its deepest feature map, a U-Net decoder with deep supervision.

    Chen et al. 2024 (section 3.2) call their base network a 3D variant of TransUNet (Chen et al., arXiv:2102.04306), of
    their own design, and describe it no further. This is such a variant, with our choice of numbers where TransUNet is
    2D: its ResNet-50 becomes nnU-Net's residual encoder, its decoder nnU-Net's, and skip connections join all
    resolutions above the deepest. The transformer is the one of TransUNet (ViT-Base: 12 layers, width 768, 12 heads,
    learned position embedding), one token a voxel of the deepest feature map, and a convolution brings its output back
    to the width of the encoder. There is no dropout, as in nnU-Net.

    Args:
        input_channels: Channels of the image.
        num_classes: Output channels.
        n_stages: Resolutions of the encoder.
        features_per_stage: Channels of each.
        strides: Of each, for each axis.
        kernel_sizes: Of each, for each axis.
        n_blocks_per_stage: Residual blocks of each.
        n_conv_per_stage_decoder: Convolutions of each decoder stage, lowest resolution first.
        patch_size: Patch size of the training, which fixes how many positions are learned. For other sizes the
            position embedding is interpolated.
        deep_supervision: Whether to return an output for each decoder stage.
        transformer_width: Channels of the transformer.
        transformer_layers: Its depth.
        transformer_heads: Its attention heads.

    Raises:
        PartialError: The patch size does not fit the strides, or the width the heads.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        n_stages: int,
        features_per_stage: Sequence[int],
        strides: Sequence[Sequence[int]],
        kernel_sizes: Sequence[Sequence[int]],
        n_blocks_per_stage: Sequence[int],
        n_conv_per_stage_decoder: Sequence[int],
        patch_size: Sequence[int],
        deep_supervision: bool = False,
        transformer_width: int = 768,
        transformer_layers: int = 12,
        transformer_heads: int = 12,
    ) -> None:
        super().__init__(strides, deep_supervision)
        if transformer_width % transformer_heads:
            raise PartialError(
                f"TransUNet3D: transformer_width must be a multiple of transformer_heads, found {transformer_width} "
                f"and {transformer_heads}"
            )
        self.check_size(torch.empty((1, 1, *patch_size), device="meta"))
        self.encoder = ResidualEncoder(
            input_channels,
            n_stages,
            features_per_stage,
            nn.Conv3d,
            kernel_sizes,
            strides,
            n_blocks_per_stage,
            conv_bias=True,
            norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            return_skips=True,
        )
        grid = [size // multiple for size, multiple in zip(patch_size, self.size_multiple, strict=True)]
        self.transformer = _VisionTransformer(
            features_per_stage[-1], grid, transformer_width, transformer_layers, transformer_heads
        )
        self.decoder = UNetDecoder(self.encoder, num_classes, n_conv_per_stage_decoder, deep_supervision)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Logits (B, C, *S) of an image (B, input_channels, *S); a list of them with deep supervision."""
        self.check_size(image)
        *skips, deepest = self.encoder(image)
        output: Tensor | list[Tensor] = self.decoder([*skips, self.transformer(deepest)])
        return output

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """Initialises a module as nnU-Net does those of its residual U-Net; nnU-Net calls it for each."""
        InitWeights_He(_NEGATIVE_SLOPE)(module)
        init_last_bn_before_add_to_0(module)


class _VisionTransformer(nn.Module):
    """Self-attention between all voxels of a feature map (B, F, *grid), which keeps its shape."""

    def __init__(self, channels: int, grid: Sequence[int], width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Conv3d(channels, width, 1)
        self.position = nn.Parameter(torch.empty(1, width, *grid))
        nn.init.trunc_normal_(self.position, std=0.02)
        # built one by one: torch.nn.TransformerEncoder copies one layer, initial weights included
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
                )
                for _ in range(layers)
            ),
            nn.LayerNorm(width),
        )
        self.projection = nn.Sequential(
            nn.Conv3d(width, channels, 3, padding=1),
            nn.InstanceNorm3d(channels, affine=True),
            nn.LeakyReLU(_NEGATIVE_SLOPE, inplace=True),
        )

    def forward(self, feature: Tensor) -> Tensor:
        grid = feature.shape[2:]
        position: Tensor = self.position
        if position.shape[2:] != grid:
            position = functional.interpolate(position, grid, mode="trilinear", align_corners=False)
        tokens = (self.embedding(feature) + position).flatten(2).transpose(1, 2)
        tokens = self.layers(tokens).transpose(1, 2)
        output: Tensor = self.projection(tokens.reshape(len(tokens), -1, *grid))
        return output
