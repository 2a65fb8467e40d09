"""The plan variants: networks and the settings they were published with. Nothing here needs PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["VARIANTS", "Variant"]

_UNETS = "dynamic_network_architectures.architectures.unet."
_OURS = "nnunet_partial.networks."


@dataclass(frozen=True)
class Variant:
    """A network and the setting it is trained in.

    Sizes and the architecture's strides and kernels are in the order of the image's axes, (z, y, x). What is None
    stays as the plans have it.

    Attributes:
        network: The network's name, for people.
        source: Where the setting comes from.
        architecture: As plans hold it.
        patch_size: In voxels.
        spacing: In mm.
        batch_size: Patches a batch.
        dimensions: 2 or 3; None where both will do.
        smallest_batch: Fewest patches that the network can be trained with.
    """

    network: str
    source: str
    architecture: Mapping[str, Any] | None = None
    patch_size: tuple[int, ...] | None = None
    spacing: tuple[float, ...] | None = None
    batch_size: int | None = None
    dimensions: int | None = 3
    smallest_batch: int = 1

    @property
    def configuration(self) -> str:
        """The configuration it is meant for."""
        return "2d" if self.dimensions == 2 else "3d_fullres"


def _strides(*stages: int | tuple[int, ...], dimensions: int = 3) -> list[list[int]]:
    """Strides or kernel sizes of the stages; a number stands for all axes."""
    return [[stage] * dimensions if isinstance(stage, int) else list(stage) for stage in stages]


def _stages(features: Sequence[int], strides: list[list[int]], first_kernel: tuple[int, ...] = (3, 3, 3)) -> Any:
    return {
        "n_stages": len(features),
        "features_per_stage": list(features),
        "kernel_sizes": _strides(first_kernel, *[3] * (len(features) - 1)),
        "strides": strides,
    }


def _unet(stages: dict[str, Any], blocks: Sequence[int] | None = None) -> dict[str, Any]:
    """A U-Net as nnU-Net plans it: two convolutions a stage, or residual blocks and one convolution in the decoder."""
    count = stages["n_stages"]
    return {
        "network_class_name": _UNETS + ("PlainConvUNet" if blocks is None else "ResidualEncoderUNet"),
        "arch_kwargs": {
            **stages,
            **({"n_conv_per_stage": [2] * count} if blocks is None else {"n_blocks_per_stage": list(blocks)}),
            "n_conv_per_stage_decoder": [2 if blocks is None else 1] * (count - 1),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _ours(name: str, strides: list[list[int]], **arch_kwargs: Any) -> dict[str, Any]:
    """A network of this package."""
    return {
        "network_class_name": _OURS + name,
        "arch_kwargs": {"strides": strides, **arch_kwargs},
        "_kw_requires_import": [],
    }


_SWIN = _strides(1, 2, 2, 2, 2, 2)
_FLARE = "Zhu et al. 2023, Table 2"
_MULTITALENT = "Ulrich et al. 2023, section 2.2"
_MULTITALENT_SIZES: dict[str, Any] = {"patch_size": (96, 192, 192), "spacing": (1.5, 1.0, 1.0), "batch_size": 4}
_VERSATILE = "Chen et al. 2024, section 4.2"
_VERSATILE_SIZES: dict[str, Any] = {"patch_size": (112, 112, 112), "spacing": (2.0, 2.0, 2.0), "batch_size": 8}


def _mednext(size: str, source: str) -> Variant:
    # the two larger ones would keep more than 14 GiB of activations a patch
    architecture = _ours("mednext.MedNeXt", _strides(1, 2, 2, 2, 2, 1), size=size, use_checkpoint=size in "ML")
    return Variant(f"MedNeXt-{size}", source, architecture, **_VERSATILE_SIZES)


VARIANTS: dict[str, Variant] = {
    "small": Variant("the plans' own, fewer and narrower stages", "ours", dimensions=None),
    "flare-small": Variant(
        "U-Net, 16 channels",
        _FLARE,
        _unet(_stages((16, 32, 64, 128, 256), _strides(1, 2, 2, 2, 2))),
        patch_size=(128, 128, 128),
        spacing=(2.42, 1.95, 1.95),
        batch_size=4,
    ),
    "flare-tiny": Variant(
        "U-Net, 8 channels",
        _FLARE,
        _unet(_stages((8, 16, 32, 64, 128), _strides(1, 2, 2, 2, 2))),
        patch_size=(80, 96, 96),
        spacing=(5.0, 3.9, 3.9),
        batch_size=4,
    ),
    "multitalent": Variant(
        "U-Net, 30 channels",
        _MULTITALENT,
        _unet(_stages((30, 60, 120, 240, 320, 320), _strides(1, 2, 2, 2, 2, (1, 2, 2)))),
        **_MULTITALENT_SIZES,
    ),
    "multitalent-resenc": Variant(
        "residual encoder U-Net, 30 channels",
        _MULTITALENT,
        _unet(
            _stages((30, 60, 120, 240, 320, 320), _strides(1, (1, 2, 2), 2, 2, 2, 2), first_kernel=(1, 3, 3)),
            blocks=(1, 2, 3, 4, 4, 4),
        ),
        **_MULTITALENT_SIZES,
    ),
    "multitalent-swinunetr": Variant(
        "Swin UNETR",
        _MULTITALENT,
        _ours("swin_unetr.SwinUNETR", _SWIN, feature_size=48, use_checkpoint=True),
        **_MULTITALENT_SIZES,
    ),
    "transunet": Variant(
        "3D TransUNet",
        "Chen et al. 2024, section 4.1",
        _ours(
            "transunet.TransUNet3D",
            **_stages((32, 64, 128, 256, 320), _strides(1, 2, 2, 2, 2)),
            n_blocks_per_stage=[1, 2, 2, 2, 2],
            n_conv_per_stage_decoder=[2, 2, 2, 2],
            patch_size=[112, 112, 112],
        ),
        **_VERSATILE_SIZES,
    ),
    "swin-unetr": Variant(
        "Swin UNETR",
        _VERSATILE,
        _ours("swin_unetr.SwinUNETR", _SWIN, feature_size=48, use_checkpoint=False),
        patch_size=(96, 96, 96),
        spacing=(2.0, 2.0, 2.0),
        batch_size=8,
    ),
    "unet-plus-plus": Variant(
        "UNet++",
        _VERSATILE,
        _ours("unet_plus_plus.UNetPlusPlus", _strides(1, 2, 2, 2, 2), features=[32, 32, 64, 128, 256, 32]),
        **_VERSATILE_SIZES,
    ),
    "mednext-s": _mednext("S", "Roy et al. 2023; sizes as mednext-l"),
    "mednext-b": _mednext("B", "Roy et al. 2023; sizes as mednext-l"),
    "mednext-m": _mednext("M", "Roy et al. 2023; sizes as mednext-l"),
    "mednext-l": _mednext("L", _VERSATILE),
    "deeplabv3": Variant(
        "DeepLabV3, ResNet-50",
        "Jenke et al. 2024, section 3.2",
        _ours("deeplab.DeepLabV3", _strides(1, dimensions=2)),
        patch_size=(512, 640),
        batch_size=16,
        dimensions=2,
        smallest_batch=2,
    ),
}
"""Variants by name. Where a paper is silent the value is ours; docs/networks.md says which."""
