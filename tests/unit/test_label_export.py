"""Export of labels against interpolating everything, as nnU-Net does it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet
from scipy import ndimage

from nnunet_partial.inference import label_export
from nnunet_partial.inference.label_export import export_labels
from nnunet_partial.inference.model.plan import Decoding, Resampling
from nnunet_partial.inference.resampling import axis_maps
from nnunet_partial.inference.winners import Argmax, LastRegion

SPACINGS = [(1.0, 1.0, 1.0), (5.0, 0.7, 0.7), (0.7, 5.0, 0.7), (0.7, 0.7, 5.0), (0.24, 1.25, 1.25)]


def decoding_of(regions: bool, values) -> Decoding:
    return Decoding(regions, tuple(int(v) for v in values), tuple(f"class{v}" for v in values), int(max(values)))


def by_nnunet(logits, shape, spacing, new_spacing, decoding, resampling) -> np.ndarray:
    """Everything interpolated, then decoded."""
    if resampling.kind == "torch":
        full = resample_torch_fornnunet(logits, shape, spacing, new_spacing, force_separate_z=resampling.separate_z)
    else:
        full = resample_data_or_seg_to_shape(
            logits, shape, spacing, new_spacing, order=resampling.order, force_separate_z=resampling.separate_z
        )
    if not decoding.regions:
        return np.array(decoding.values)[full.argmax(0)]
    labels = np.zeros(full.shape[1:], np.int64)
    for channel, value in zip(full, decoding.values, strict=True):
        labels[channel > 0] = value
    return labels


def blocks_of(logits, rng):
    cuts = sorted({0, logits.shape[1], *(int(c) for c in rng.integers(0, logits.shape[1] + 1, 3))})
    return [logits[:, a:b] for a, b in itertools.pairwise(cuts)]


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("kind", ["spline", "torch"])
def test_equals_interpolating_everything(seed, regions, kind):
    rng = np.random.default_rng(seed)
    channels = int(rng.choice([1, 2, 3, 7, 20]))
    shape, new_shape = ([int(n) for n in rng.integers(1, top, 3)] for top in (12, 24))
    logits = rng.normal(size=(channels, *shape)).astype(np.float32)
    if seed % 3:  # smooth ones are decided by copying, noise by interpolating whole planes
        logits = ndimage.gaussian_filter(logits, (0, 2, 2, 2))
    spacing, new_spacing = SPACINGS[seed % 5], SPACINGS[seed // 5 % 5]
    decoding = decoding_of(regions, rng.permutation(channels) + 1)
    resampling = Resampling(kind, 1, 0, None if seed % 2 else False)
    maps = axis_maps(resampling, shape, new_shape, spacing, new_spacing)
    assert maps is not None
    found = export_labels(blocks_of(logits, rng), maps, decoding, threads=1 + seed % 2)
    expected = by_nnunet(logits, new_shape, spacing, new_spacing, decoding, resampling)
    assert found.dtype == np.uint8
    # channels that are equal to a rounding
    assert (found != expected).sum() <= (1 if kind == "spline" else 2)


@pytest.mark.parametrize("regions", [False, True])
def test_smooth_volume_uses_few_and_many_candidates(regions):
    """Twelve balls that touch: some cells have two candidates, others more than four."""
    rng = np.random.default_rng(0)
    grid = np.mgrid[:16, :16, :16]
    centres = rng.uniform(5, 11, (12, 3))
    distance = [np.sqrt(((grid - c[:, None, None, None]) ** 2).sum(0)) for c in centres]
    logits = np.float32(4) - np.array(distance, np.float32)
    new_shape, spacing = [40, 37, 41], (1.0, 1.0, 1.0)
    decoding = decoding_of(regions, np.arange(12) + 1)
    resampling = Resampling("spline", 1, 0, False)
    maps = axis_maps(resampling, (16, 16, 16), new_shape, spacing, spacing)
    assert maps is not None
    expected = by_nnunet(logits, new_shape, spacing, spacing, decoding, resampling)
    assert len(np.unique(expected)) > 6
    np.testing.assert_array_equal(export_labels([logits], maps, decoding), expected)


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("at_once", [1, 3 * 17 * 19, 1 << 18])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_noise_is_the_same_however_many_channels_are_interpolated_at_once(monkeypatch, regions, at_once, dtype):
    monkeypatch.setattr(label_export, "_INTERPOLATED_AT_ONCE", at_once)
    logits = np.random.default_rng(4).normal(size=(11, 5, 8, 9)).astype(dtype)
    logits[4] = logits[2]  # equal ones: the first wins
    decoding = decoding_of(regions, np.arange(11) + 1)
    new_shape, spacing = (12, 17, 19), (1.0, 1.0, 1.0)
    maps = axis_maps(Resampling("spline", 1, 0, False), logits.shape[1:], new_shape, spacing, spacing)
    assert maps is not None
    full = logits.astype(np.float32)
    for axis, axis_map in enumerate(maps, start=1):
        full = axis_map.along(full, axis)
    expected = full.argmax(0) + 1
    if regions:
        expected = ((full > 0) * np.arange(1, 12)[:, None, None, None]).max(0)
    np.testing.assert_array_equal(export_labels([logits], maps, decoding, threads=2), expected)


def test_many_labels_need_16_bits():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(300, 3, 4, 5)).astype(np.float16)
    decoding = decoding_of(False, np.arange(300))
    spacing = (1.0, 1.0, 1.0)
    maps = axis_maps(Resampling(), (3, 4, 5), (3, 4, 5), spacing, spacing)
    assert maps is not None
    found = export_labels([logits], maps, decoding)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, logits.argmax(0))


def test_equal_logits_and_zero_are_decided_as_nnunet_does():
    maps = axis_maps(Resampling(), (1, 1, 2), (1, 1, 4), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    assert maps is not None
    equal = np.zeros((2, 1, 1, 2), np.float32)
    assert export_labels([equal], maps, decoding_of(False, [3, 4])).ravel().tolist() == [3] * 4
    assert export_labels([equal], maps, decoding_of(True, [3, 4])).ravel().tolist() == [0] * 4


def test_too_few_planes_are_an_error():
    maps = axis_maps(Resampling(), (3, 2, 2), (5, 2, 2), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    assert maps is not None
    with pytest.raises(ValueError, match="expected at least 3 planes, got 2"):
        export_labels([np.zeros((1, 2, 2, 2), np.float32)], maps, decoding_of(True, [1]))


@pytest.mark.parametrize("rule", [Argmax(), LastRegion()])
def test_every_possible_winner_is_a_candidate(rule):
    rng = np.random.default_rng(2)
    corners = (rng.normal(size=(5, 8, 200)) + 3 * rng.normal(size=(5, 1, 200))).astype(np.float32)
    candidates = rule.candidates(corners.min(1), corners.max(1))
    for _ in range(50):
        weights = rng.dirichlet(np.ones(8), 200).T.astype(np.float32)
        logits = (corners * weights).sum(1)[:, None]
        winner = rule.winners(logits, logits.max(-1), np.uint8)[0]
        won = np.flatnonzero(winner)
        assert candidates[winner[won] - 1, won].all()
    assert not candidates.all()


@pytest.mark.parametrize("rule", [Argmax(), LastRegion()])
@pytest.mark.parametrize("known", [[0], [1, 4], [0, 1, 2, 3, 4]])
def test_every_candidate_is_a_contender(rule, known):
    rng = np.random.default_rng(3)
    found = []
    for _ in range(50):
        corners = (rng.normal(size=(5, 8, 6)) + 3 * rng.normal(size=(5, 1, 1))).astype(np.float32)
        lows, highs = corners.min(1), corners.max(1)
        contenders = rule.contenders(highs.max(-1), lows[known])
        assert not (rule.candidates(lows, highs).any(-1) & ~contenders).any()
        found.append(contenders)
    assert np.any(found) and not np.all(found)
