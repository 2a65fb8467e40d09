"""Export of labels against nnU-Net's own functions, which interpolate everything and decode it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from scipy import ndimage

from nnunet_partial.inference import label_export
from nnunet_partial.inference.label_export import export_labels
from nnunet_partial.inference.model.plan import Decoding, Resampling
from nnunet_partial.inference.resampling import axis_maps
from nnunet_partial.inference.winners import Argmax, LastRegion

SPACINGS = [(1.0, 1.0, 1.0), (5.0, 0.7, 0.7), (0.7, 5.0, 0.7), (0.7, 0.7, 5.0), (0.24, 1.25, 1.25)]


def decoding_of(regions: bool, values) -> Decoding:
    return Decoding(regions, tuple(int(v) for v in values), tuple(f"class{v}" for v in values), int(max(values)))


def label_manager(regions: bool, values) -> LabelManager:
    """nnU-Net's, of as many channels; labels are 0, 1, 2, ..., and regions overlap."""
    if not regions:
        return LabelManager({"background": 0, **{f"class{v}": int(v) for v in values if v}}, None)
    names = {f"region{number}": [number + 1, number + 2] for number in range(len(values))}
    return LabelManager({"background": 0, **names}, [int(v) for v in values])


def interpolated(logits, shape, spacing, new_spacing, resampling) -> np.ndarray:
    """All logits, by nnU-Net."""
    force = {"force_separate_z": resampling.separate_z}
    if resampling.kind == "torch":
        mode = ("nearest-exact", "linear")[resampling.order_z]
        return resample_torch_fornnunet(logits, shape, spacing, new_spacing, aniso_axis_mode=mode, **force)
    orders = {"order": resampling.order, "order_z": resampling.order_z}
    return resample_data_or_seg_to_shape(logits, shape, spacing, new_spacing, **orders, **force)


def by_nnunet(logits, shape, spacing, new_spacing, decoding, resampling) -> np.ndarray:
    """Everything interpolated and decoded by nnU-Net."""
    full = interpolated(logits, shape, spacing, new_spacing, resampling)
    manager = label_manager(decoding.regions, decoding.values)
    assert manager.num_segmentation_heads == len(logits)
    return np.asarray(manager.convert_logits_to_segmentation(full))


def margin_of(full, regions: bool) -> np.ndarray:
    """How far logits are from another label."""
    if regions:
        return np.abs(full).min(0)
    best = np.sort(full, 0)
    return best[-1] - best[-2] if len(best) > 1 else np.full(full.shape[1:], np.inf)


def random_spacing(rng) -> tuple[float, ...]:
    return tuple(float(mm) for mm in np.exp(rng.uniform(np.log(0.3), np.log(8), 3)))


def blocks_of(logits, rng):
    cuts = sorted({0, logits.shape[1], *(int(c) for c in rng.integers(0, logits.shape[1] + 1, 3))})
    return [logits[:, a:b] for a, b in itertools.pairwise(cuts)]


def check(rng, channels: int, largest: tuple[int, int], regions: bool, resampling: Resampling, spacings) -> np.ndarray:
    """Compares the export of random logits, returns their labels."""
    shape, new_shape = ([int(n) for n in rng.integers(1, top, 3)] for top in largest)
    logits = rng.normal(size=(channels, *shape)).astype(np.float32)
    if rng.random() < 2 / 3:  # smooth ones are decided by copying, noise by interpolating whole planes
        logits = ndimage.gaussian_filter(logits, (0, 2, 2, 2))
    decoding = decoding_of(regions, rng.permutation(channels) + 1 if regions else np.arange(channels))
    maps = axis_maps(resampling, shape, new_shape, *spacings)
    assert maps is not None
    found = export_labels(blocks_of(logits, rng), maps, decoding, threads=int(rng.integers(1, 3)))
    expected = by_nnunet(logits, new_shape, *spacings, decoding, resampling)
    different = found != expected
    # channels that are equal to a rounding
    assert different.sum() <= (1 if resampling.kind == "spline" else 2)
    assert (margin_of(interpolated(logits, new_shape, *spacings, resampling), regions)[different] < 1e-5).all()
    return found


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("kind", ["spline", "torch"])
@pytest.mark.parametrize("order_z", [0, 1])
def test_equals_nnunets_export(seed, regions, kind, order_z):
    rng = np.random.default_rng(seed)
    channels = int(rng.choice([1, 2, 3, 7, 20]))
    resampling = Resampling(kind, 1, order_z, [None, False, True][seed % 3])
    spacings = SPACINGS[seed % 5], SPACINGS[seed // 5 % 5]
    if seed % 2:
        spacings = random_spacing(rng), random_spacing(rng)
    found = check(rng, channels, (12, 24), regions, resampling, spacings)
    assert found.dtype == np.uint8


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("channels", [117, 260])
@pytest.mark.parametrize("order_z", [0, 1])
def test_many_classes_equal_nnunets_export(seed, regions, channels, order_z):
    rng = np.random.default_rng(seed)
    resampling = Resampling("spline", 1, order_z, [None, None, False, True][seed])
    found = check(rng, channels, (7, 14), regions, resampling, (random_spacing(rng), random_spacing(rng)))
    assert found.dtype == (np.uint8 if channels < 255 else np.uint16)


@pytest.mark.parametrize("regions", [False, True])
def test_smooth_volume_uses_few_and_many_candidates(regions):
    """Twelve balls that touch: some cells have two candidates, others more than four."""
    rng = np.random.default_rng(0)
    grid = np.mgrid[:16, :16, :16]
    centres = rng.uniform(5, 11, (12, 3))
    distance = [np.sqrt(((grid - c[:, None, None, None]) ** 2).sum(0)) for c in centres]
    logits = np.float32(4) - np.array(distance, np.float32)
    new_shape, spacing = [40, 37, 41], (1.0, 1.0, 1.0)
    decoding = decoding_of(regions, np.arange(12) + regions)
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
