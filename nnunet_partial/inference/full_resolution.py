"""Channel by channel at the resolution of the image: what needs every interpolated logit, probabilities for instance.

Slower than `label_export` by far; memory is a few volumes of one channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_partial.inference.model.plan import Decoding, PredictionPlan
from nnunet_partial.inference.preprocessing import Prepared
from nnunet_partial.inference.resampling import resample_image

__all__ = ["interpolated_channels", "labels_of_channels", "probabilities_of_channels"]

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


def labels_of_channels(channels: Iterable[FloatArray], decoding: Decoding) -> NDArray[np.unsignedinteger[Any]]:
    """Labels from interpolated logits.

    Args:
        channels: As `interpolated_channels`.
        decoding: What they mean.
    """
    dtype = np.uint8 if decoding.foreground_labels < 255 else np.uint16
    labels: NDArray[np.unsignedinteger[Any]] | None = None
    best: FloatArray | None = None
    for logits, value in zip(channels, decoding.values, strict=True):
        if labels is None:
            labels = np.full(logits.shape, 0 if decoding.regions else value, dtype)
        if decoding.regions:
            labels[logits > 0] = value
        elif best is None:
            best = logits.copy()
        else:
            labels[logits > best] = value
            np.maximum(best, logits, out=best)
    if labels is None:
        raise ValueError("channels: expected at least one")
    return labels


def probabilities_of_channels(
    channels: Callable[[], Iterator[FloatArray]], count: int, regions: bool
) -> Iterator[FloatArray]:
    """Probabilities from interpolated logits: the sigmoid of each channel, or the softmax over all.

    Args:
        channels: Gives `interpolated_channels` anew at each call; a softmax needs them twice.
        count: Their number.
        regions: Whether channels are independent.

    Yields:
        (Z', Y', X'), one a channel.
    """
    if regions:
        for logits in channels():
            yield _sigmoid(logits)
        return
    first = channels()
    highest = next(first).copy()
    total = np.ones_like(highest)
    for logits in first:
        higher = np.maximum(highest, logits)
        total = total * np.exp(highest - higher) + np.exp(logits - higher)
        highest = higher
    for logits, _ in zip(channels(), range(count), strict=True):
        yield np.exp(logits - highest) / total


def _sigmoid(logits: FloatArray) -> FloatArray:
    # of -|x|, so that nothing overflows
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, np.float32(1), small) / (1 + small))
