"""Segmentation heads: the last layers of a network, one output channel a class."""

from __future__ import annotations

import pydoc
from collections.abc import Sequence

from torch import Tensor, nn

from nnunet_partial.errors import PartialError

__all__ = ["SegmentationHeads", "segmentation_heads", "supports_deep_supervision"]

_HEADS = "seg_layers"


class SegmentationHeads(nn.Module):
    """A 1x1 convolution for each of several feature maps, under the names that nnU-Net gives its own heads.

    nnU-Net switches `network.decoder.deep_supervision` on and off, and leaves `.seg_layers.` out when it loads
    pretrained weights. A network whose `decoder` is this module is treated like nnU-Net's own.

    As in nnU-Net the heads of all resolutions exist whether they are used or not, so that a network that was trained
    with deep supervision can be loaded without. With one feature map there is nothing to switch.

    Args:
        features: Channels of the feature maps, lowest resolution first.
        num_classes: Output channels.
        dimensions: 2 or 3.
        deep_supervision: Whether to return an output for each feature map.
    """

    def __init__(self, features: Sequence[int], num_classes: int, dimensions: int, deep_supervision: bool) -> None:
        super().__init__()
        convolution = nn.Conv2d if dimensions == 2 else nn.Conv3d
        self.seg_layers = nn.ModuleList(convolution(channels, num_classes, 1) for channels in features)
        self.deep_supervision = deep_supervision

    def forward(self, features: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Applies the heads.

        Args:
            features: Feature maps (B, F, *S), lowest resolution first.

        Returns:
            Logits (B, C, *S) of the last feature map; with deep supervision those of all, highest resolution first.
        """
        if self.deep_supervision and len(self.seg_layers) > 1:
            outputs = [head(feature) for head, feature in zip(self.seg_layers, features, strict=True)]
            return outputs[::-1]
        output: Tensor = self.seg_layers[-1](features[-1])
        return output


def segmentation_heads(network: nn.Module) -> list[nn.Conv2d | nn.Conv3d]:
    """The layers of a network that give one channel a class; those of lower resolutions come first.

    Args:
        network: A network of nnU-Net's or ours, as it is or inside torch.compile or DistributedDataParallel. Heads are
            the convolutions in a list called `seg_layers`.

    Raises:
        PartialError: There are none.
    """
    heads = [
        module
        for name, module in network.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Conv3d)) and _HEADS in name.split(".")
    ]
    if not heads:
        raise PartialError(
            f"{type(network).__name__} has no heads called '{_HEADS}', by which nnU-Net knows them; put the last "
            f"convolutions of the network into `decoder.{_HEADS}`, a torch.nn.ModuleList"
        )
    return heads


def supports_deep_supervision(network_class_name: str) -> bool:
    """Whether a network has outputs at the resolutions that nnU-Net's deep supervision expects.

    Args:
        network_class_name: Import path, as plans name it.

    Returns:
        The class's attribute of the same name; True where it has none, as nnU-Net's own networks.
    """
    return bool(getattr(pydoc.locate(network_class_name), "supports_deep_supervision", True))
