"""Logits kept at boundaries only: masks are those of all logits, in a fraction of their memory."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from nnunet_partial.inference.boundary_logits import BoundaryLogits
from nnunet_partial.inference.full_resolution import labels_of_channels
from nnunet_partial.inference.label_export import export_labels
from nnunet_partial.inference.model.plan import Decoding
from nnunet_partial.inference.resampling import AxisMap

ALONE = Decoding(True, (1,), ("organ",), 1)


def in_blocks(logits, rng):
    """Blocks that are overwritten once the next one is asked for."""
    start = 0
    while start < logits.shape[1]:
        size = int(rng.integers(1, 4))
        block = logits[:, start : start + size].copy()
        yield block
        block[:] = np.nan
        start += size


@pytest.mark.parametrize("seed", range(150))
def test_masks_are_those_of_all_logits(seed):
    rng = np.random.default_rng(seed)
    channels, smooth = int(rng.integers(1, 5)), int(rng.choice((0, 1, 3)))
    logits = rng.standard_normal((channels, *rng.integers(1, 10, 3))).astype(np.float32)
    if smooth:
        logits = gaussian_filter(logits, (0, smooth, smooth, smooth)).astype(np.float32)
    logits[rng.random(logits.shape) < rng.choice((0, 0.3))] = 0
    new_shape = rng.integers(1, 21, 3).tolist()
    kinds = [AxisMap.nearest if copied else AxisMap.linear for copied in rng.random(3) < 0.3]
    maps = tuple(kind(old, new) for kind, old, new in zip(kinds, logits.shape[1:], new_shape, strict=True))
    kept = BoundaryLogits(in_blocks(logits, rng))
    for number, channel in enumerate(logits):
        found = kept.channel(number)
        assert found.shape == (1, *channel.shape)
        np.testing.assert_array_equal(found[0] > 0, channel > 0)
        dense = channel
        for axis, axis_map in enumerate(maps):
            dense = axis_map.along(dense, axis)
        np.testing.assert_array_equal(export_labels([found], maps, ALONE), export_labels([channel[None]], maps, ALONE))
        # interpolated voxel by voxel; 0 up to a rounding may be either
        clear = np.abs(dense) > 1e-6
        expected = labels_of_channels([dense], ALONE)
        np.testing.assert_array_equal(export_labels([found], maps, ALONE)[clear], expected[clear])


def test_values_are_kept_at_the_boundary_and_nowhere_else():
    logits = np.full((2, 5, 6, 7), -3, np.float32)
    logits[1, 2, 2, 3] = 4
    kept = BoundaryLogits([logits])
    np.testing.assert_array_equal(kept.channel(0), np.full((1, 5, 6, 7), -1))
    expected = np.full((1, 5, 6, 7), -1, np.float32)
    expected[0, 1:4, 1:4, 2:5] = logits[1, 1:4, 1:4, 2:5]
    np.testing.assert_array_equal(kept.channel(1), expected)


@pytest.mark.parametrize("positive", [True, False])
def test_a_single_voxel(positive):
    logits = np.full((1, 1, 1, 1), 5 if positive else 0, np.float32)
    np.testing.assert_array_equal(BoundaryLogits([logits]).channel(0), [[[[1 if positive else -1]]]])


def test_balls_take_a_tenth_of_their_logits():
    z, y, x = np.ogrid[:48, :48, :48]
    radii = np.arange(4, 20).reshape(-1, 1, 1, 1)
    logits = (radii - np.sqrt((z - 24) ** 2 + (y - 24) ** 2 + (x - 24) ** 2)).astype(np.float32)
    assert BoundaryLogits([logits]).nbytes < logits.nbytes / 4
    assert BoundaryLogits([logits[:2]]).nbytes < logits[:2].nbytes / 10
