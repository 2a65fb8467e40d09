"""DeepLabV3 with a ResNet-50 (Chen et al., arXiv:1706.05587), by torchvision, for 2D images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.segmentation import (  # type: ignore[import-untyped]
    DeepLabV3_ResNet50_Weights,
    deeplabv3_resnet50,
)

from nnunet_partial.atomic import atomic_path
from nnunet_partial.errors import PartialError
from nnunet_partial.networks.heads import SegmentationHeads
from nnunet_partial.networks.segmentation_network import SegmentationNetwork

__all__ = ["DeepLabV3", "write_coco_checkpoint"]

_COLOURS = 3
_STEM = "backbone.conv1.weight"
_RENAMED = {"classifier.4.": "decoder.seg_layers.0."}
_LEFT_OUT = "aux_classifier."


class DeepLabV3(SegmentationNetwork):
    """Dilated ResNet-50, pooling at several dilations, bilinear upsampling to the size of the input.

    For 2D configurations, images of any size and any number of channels, no deep supervision. Batch normalisation
    needs at least two images a batch. Weights are random; nothing is downloaded. Used by Jenke et al. 2024
    (section 3.2) with weights of COCO, see `write_coco_checkpoint`.

    Args:
        input_channels: Channels of the image.
        num_classes: Output channels.
        strides: One stage of stride 1, [[1, 1]]: any size fits.
        deep_supervision: Must be False.
    """

    supports_deep_supervision: ClassVar[bool] = False

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        strides: Sequence[Sequence[int]],
        *,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__(strides, deep_supervision, fixed=(1,))
        if self.dimensions != 2:
            raise PartialError("DeepLabV3 is a network for 2D configurations; train with -c 2d")
        network = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=1)
        self.backbone = network.backbone
        if input_channels != _COLOURS:
            self.backbone.conv1 = nn.Conv2d(input_channels, 64, 7, stride=2, padding=3, bias=False)
        *layers, head = network.classifier
        self.classifier = nn.Sequential(*layers)
        self.decoder = SegmentationHeads([head.in_channels], num_classes, self.dimensions, deep_supervision)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C, H, W) of an image (B, input_channels, H, W)."""
        self.check_size(image)
        logits: Tensor = self.decoder([self.classifier(self.backbone(image)["out"])])
        return functional.interpolate(logits, image.shape[2:], mode="bilinear", align_corners=False)


def write_coco_checkpoint(weights: Path, target: Path, input_channels: int = _COLOURS) -> None:
    """Turns torchvision's COCO weights into a checkpoint for `nnUNetv2_train -pretrained_weights`.

    Weights go through a checkpoint and not through the plans, because nnU-Net builds the network from its plans for
    every prediction, and would need the file again. nnU-Net leaves the heads out; our trainers copy those of classes
    that have the same name.

    Args:
        weights: State dict of torchvision's deeplabv3_resnet50 (`DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1`).
        target: The checkpoint, written in one step.
        input_channels: Channels of the images. Where they are not three, each gets the mean of the weights of red,
            green and blue, scaled to the same sum.

    Raises:
        PartialError: The file cannot be read, or holds another network.
    """
    converted = _renamed(_read(weights))
    stem = converted.get(_STEM)
    if stem is not None and input_channels != _COLOURS:
        mean = stem.mean(1, keepdim=True) * (_COLOURS / input_channels)
        converted[_STEM] = mean.repeat(1, input_channels, 1, 1)
    categories = DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"]
    with torch.device("meta"):
        expected = _shapes(DeepLabV3(input_channels, len(categories), strides=[[1, 1]]).state_dict())
    if _shapes(converted) != expected:
        wrong = sorted(key for key in expected if expected[key] != _shapes(converted).get(key)) or sorted(
            converted.keys() - expected.keys()
        )
        raise PartialError(
            f"{weights}: expected the state dict of torchvision's deeplabv3_resnet50 with weights of COCO; "
            f"{len(wrong)} entries differ, e.g. {wrong[0]}"
        )
    labels = {"background" if name == "__background__" else name: n for n, name in enumerate(categories)}
    checkpoint = {"network_weights": converted, "init_args": {"dataset_json": {"labels": labels}}}
    with atomic_path(target) as temporary:
        torch.save(checkpoint, temporary)


def _read(weights: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:
        raise PartialError(f"{weights}: cannot be read as a state dict of PyTorch ({error})") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise PartialError(f"{weights}: expected a state dict, names to tensors, found {type(content).__name__}")
    return content


def _renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the names of `DeepLabV3`, without the auxiliary classifier."""
    converted = {}
    for key, value in weights.items():
        new = key
        for old_prefix, new_prefix in _RENAMED.items():
            if key.startswith(old_prefix):
                new = new_prefix + key.removeprefix(old_prefix)
        if not key.startswith(_LEFT_OUT):
            converted[new] = value
    return converted


def _shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in weights.items()}
