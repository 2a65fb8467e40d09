"""What prediction must know of a trained model, but for its weights: plain data, without nnU-Net and torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Architecture", "Decoding", "Normalization", "PredictionPlan", "Resampling"]


@dataclass(frozen=True)
class Normalization:
    """How a channel is normalised.

    Attributes:
        scheme: Name of nnU-Net's class, e.g. 'CTNormalization'.
        within_mask: Statistics are of the nonzero region, and only that region is changed.
        statistics: Intensity properties of the training set: mean, std, percentile_00_5, percentile_99_5, ...
    """

    scheme: str
    within_mask: bool = False
    statistics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Resampling:
    """How volumes are resampled.

    Attributes:
        kind: 'spline' is nnU-Net's default, 'torch' its `resample_torch_fornnunet`, 'none' leaves the array as it is.
        order: Order of the spline within slices, or of the whole volume, 0 to 3; 'torch' knows 1 only.
        order_z: Order across slices where these are resampled separately, 0 to 3; 0 is the nearest slice. 'torch' knows
            0 and 1.
        separate_z: Whether slices are resampled separately; None where anisotropy decides.
    """

    kind: Literal["spline", "torch", "none"] = "spline"
    order: int = 1
    order_z: int = 0
    separate_z: bool | None = None


@dataclass(frozen=True)
class Decoding:
    """What the channels of the network mean.

    Attributes:
        regions: Each channel is a class of its own, present where its logit is above 0, and of several the last one is
            written; else the channel with the highest logit is written.
        values: What is written into a label map for each channel.
        names: Name of each channel's class.
        foreground_labels: Number of labels but the background, which decides between 8 and 16 bits.
        rivals: For each channel of `regions` those that exclude it, counted from 0: it is present only where none of
            them has a higher logit. None where channels do not compete.
    """

    regions: bool
    values: tuple[int, ...]
    names: tuple[str, ...]
    foreground_labels: int
    rivals: tuple[tuple[int, ...], ...] | None = None

    def of_channels(self, channels: Sequence[int], values: Sequence[int], foreground_labels: int) -> Decoding:
        """What some channels mean, with other values.

        Args:
            channels: Counted from 0, in the order in which they are painted.
            values: What is written for each of them.
            foreground_labels: See the attribute.
        """
        names = tuple(self.names[channel] for channel in channels)
        rivals = None
        if self.rivals is not None:
            place = {channel: number for number, channel in enumerate(channels)}
            rivals = tuple(tuple(place[r] for r in self.rivals[channel] if r in place) for channel in channels)
        return Decoding(self.regions, tuple(values), names, foreground_labels, rivals)


@dataclass(frozen=True)
class Architecture:
    """How the network is built.

    Attributes:
        class_name: Class with its module, e.g. 'dynamic_network_architectures.architectures.unet.PlainConvUNet'.
        arguments: Its keyword arguments as JSON holds them, but for the numbers of channels.
        imported: Keys of arguments whose value is the name of something to be imported.
    """

    class_name: str
    arguments: Mapping[str, Any]
    imported: tuple[str, ...] = ()


@dataclass(frozen=True)
class PredictionPlan:
    """A trained configuration. Axes are those of nnU-Net's readers, (z, y, x), or these transposed where that is said.

    Attributes:
        dataset: Name of its dataset.
        configuration: E.g. '3d_fullres'.
        trainer: Class name of its trainer.
        plans: Name of its plans.
        channel_names: Names of the input channels, in order.
        file_ending: Of images and predictions, with its dot.
        reader: Class name of nnU-Net's reader and writer.
        patch_size: Voxels of a window, 2 or 3 numbers, transposed.
        spacing_mm: Voxel size of what the network sees, as many numbers as `patch_size`, transposed.
        transpose_forward: Axis order of what the network sees.
        normalizations: One an input channel.
        image_resampling: Of images, to the network's spacing.
        logit_resampling: Of logits, back to the image's spacing.
        decoding: What the output channels mean.
        mirror_axes: Axes along which nnU-Net mirrors windows in prediction, transposed; empty where that is off. They
            are those of the checkpoint, whatever its classes are called: a stock model that tells left from right by
            its classes, trained with mirroring, is mirrored here as nnU-Net does.
        architecture: How the network is built.
        dataset_json: The model's dataset.json.
        label_values: Class to what is written for it by default, in the order of `LabelValues`; None for the values of
            `decoding`.
    """

    dataset: str
    configuration: str
    trainer: str
    plans: str
    channel_names: tuple[str, ...]
    file_ending: str
    reader: str
    patch_size: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    transpose_forward: tuple[int, ...]
    normalizations: tuple[Normalization, ...]
    image_resampling: Resampling
    logit_resampling: Resampling
    decoding: Decoding
    mirror_axes: tuple[int, ...]
    architecture: Architecture
    dataset_json: Mapping[str, Any]
    label_values: Mapping[str, int] | None = None

    @property
    def transpose_backward(self) -> tuple[int, ...]:
        """Axis order that undoes `transpose_forward`."""
        return tuple(self.transpose_forward.index(axis) for axis in range(len(self.transpose_forward)))
