"""At the resolution of the image, what needs every interpolated logit: probabilities, and labels where logits are
resampled by other than linear kernels.

Slower than `label_export` by far. Probabilities take a few volumes of one channel, labels a slab of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_partial.inference.model.plan import Decoding, PredictionPlan
from nnunet_partial.inference.preprocessing import Prepared
from nnunet_partial.inference.resampling import VolumeResampler, resample_image
from nnunet_partial.inference.winners import rule_of

__all__ = ["interpolated_channels", "labels_by_slabs", "labels_of_channels", "probabilities_of_channels"]

_SLAB_VOXELS = 1 << 22

FloatArray = NDArray[np.float32]


def interpolated_channels(logits: FloatArray, prepared: Prepared, plan: PredictionPlan) -> Iterator[FloatArray]:
    """Logits of one channel after the other, as nnU-Net resamples them.

    Args:
        logits: (C, Z, Y, X) at the network's resolution.
        prepared: The image they are of.
        plan: Says how logits are resampled.

    Yields:
        (Z', Y', X') of the cropped image.
    """
    maps = prepared.maps(plan)
    for channel in logits:
        if maps is None:
            yield resample_image(
                channel[None],
                prepared.cropped_shape,
                prepared.network_spacing_mm,
                prepared.spacing_mm,
                plan.logit_resampling,
            )[0]
            continue
        volume = channel
        for axis, axis_map in enumerate(maps):
            volume = axis_map.along(volume, axis)
        yield volume


def labels_by_slabs(
    channels: Sequence[FloatArray], prepared: Prepared, plan: PredictionPlan, decoding: Decoding
) -> NDArray[np.unsignedinteger[Any]]:
    """Labels from logits that are interpolated slab by slab; what `labels_of_channels` gives, in less memory.

    Args:
        channels: Logits (Z, Y, X) at the network's resolution.
        prepared: The image they are of.
        plan: Says how logits are resampled.
        decoding: What the channels mean.

    Returns:
        (Z', Y', X') of the cropped image.
    """
    resampler = VolumeResampler.between(
        plan.logit_resampling, prepared.cropped_shape, prepared.network_spacing_mm, prepared.spacing_mm
    )
    axis = resampler.slab_axis
    limits = [resampler.limits(channel) for channel in channels]
    # on the way an axis has its size before or after
    sizes = [max(pair) for pair in zip(channels[0].shape, prepared.cropped_shape, strict=True)]
    thickness = max(1, _SLAB_VOXELS * sizes[axis] // math.prod(sizes))
    labels = np.empty(prepared.cropped_shape, _label_type(decoding))
    for start in range(0, labels.shape[axis], thickness):
        part = slice(start, start + thickness)
        slabs = (resampler.resampled(channel, cut, part) for channel, cut in zip(channels, limits, strict=True))
        labels[(*[slice(None)] * axis, part)] = labels_of_channels(slabs, decoding)
    return labels


def labels_of_channels(channels: Iterable[FloatArray], decoding: Decoding) -> NDArray[np.unsignedinteger[Any]]:
    """Labels from interpolated logits.

    Args:
        channels: As `interpolated_channels`.
        decoding: What they mean.
    """
    rule, contest, shape = rule_of(decoding), None, (0,)
    dtype = np.uint8 if len(decoding.values) < 255 else np.uint16
    for number, logits in enumerate(channels, start=1):
        rows = logits.reshape(-1, logits.shape[-1])
        if contest is None:
            contest, shape = rule.contest(rows.shape, dtype), logits.shape
        contest.enter(number, rows, rows.max(-1))
    if contest is None:
        raise ValueError("channels: expected at least one")
    return np.array([0, *decoding.values], _label_type(decoding))[contest.winner].reshape(shape)


def _label_type(decoding: Decoding) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if decoding.foreground_labels < 255 else np.uint16


def probabilities_of_channels(
    interpolated: Callable[[FloatArray], Iterator[FloatArray]],
    logits: FloatArray,
    classes: Sequence[Sequence[int]],
    regions: bool,
) -> Iterator[FloatArray]:
    """Probabilities of classes from interpolated logits: sigmoids of channels, or sums over a softmax of all channels.

    Args:
        interpolated: Gives `interpolated_channels` of some channels; those of a softmax are asked for twice or more.
        logits: (C, Z, Y, X) at the network's resolution.
        classes: Channels of each class, at least one; one only where channels are independent.
        regions: Whether channels are independent.

    Yields:
        (Z', Y', X'), one a class.
    """
    if regions:
        for (channel,) in classes:
            yield _sigmoid(next(interpolated(logits[channel : channel + 1])))
        return
    first = interpolated(logits)
    highest = next(first).copy()
    total = np.ones_like(highest)
    for channel_logits in first:
        higher = np.maximum(highest, channel_logits)
        total = total * np.exp(highest - higher) + np.exp(channel_logits - higher)
        highest = higher
    for channels in classes:
        share = np.zeros_like(total)
        for channel in channels:
            share += np.exp(next(interpolated(logits[channel : channel + 1])) - highest)
        # a sum of parts may round to more than their whole
        yield np.minimum(share / total, np.float32(1))


def _sigmoid(logits: FloatArray) -> FloatArray:
    # of -|x|, so that nothing overflows
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, np.float32(1), small) / (1 + small))
