"""Labels from logits that are interpolated slab by slab, against whole channels and nnU-Net's own functions."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from scipy import ndimage

from nnunet_partial.inference import full_resolution
from nnunet_partial.inference.full_resolution import interpolated_channels, labels_by_slabs, labels_of_channels
from nnunet_partial.inference.model.nnunet_plans import read_plan
from nnunet_partial.inference.model.plan import Decoding, PredictionPlan, Resampling
from nnunet_partial.inference.preprocessing import Prepared
from nnunet_partial.inference.resampling import VolumeResampler
from tests.unit.test_resampling import SPACINGS
from tests.unit.tiny_models import make_dataset_json, make_plans

ORDERS = [(3, 0), (3, 1), (3, 3), (2, 0), (1, 3), (0, 2)]


def plan_of(resampling: Resampling) -> PredictionPlan:
    plan = read_plan(make_plans(), make_dataset_json(), configuration="3d_fullres", trainer="t", mirror_axes=None)
    return replace(plan, logit_resampling=resampling)


def prepared_of(shape, new_shape, spacing, new_spacing) -> Prepared:
    """Of logits of one shape and voxel size, for an image of another one."""
    box = tuple(slice(0, n) for n in new_shape)
    return Prepared(np.zeros((1, *shape), np.float32), tuple(new_shape), box, new_spacing, spacing)


def decoding_of(regions: bool, channels: int) -> Decoding:
    values = tuple(range(1, channels + 1))
    return Decoding(regions, values, tuple(f"class{v}" for v in values), channels)


def undecided(full, regions: bool) -> np.ndarray:
    """Voxels that a rounding decides."""
    if regions:
        return (np.abs(full) < 1e-4).any(0)
    best = np.sort(full, 0)
    return best[-1] - best[-2] < 1e-4


def random_case(seed: int):
    rng = np.random.default_rng(seed)
    spacing, new_spacing = SPACINGS[seed % len(SPACINGS)]
    shape, new_shape = (tuple(int(n) for n in rng.integers(1, top, 3)) for top in (10, 20))
    logits = rng.normal(size=(int(rng.integers(2, 6)), *shape)).astype(np.float32)
    return logits, new_shape, spacing, new_spacing


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("orders", ORDERS)
@pytest.mark.parametrize("force", [None, True, False])
def test_slabs_are_parts_of_the_volume(seed, orders, force):
    logits, new_shape, spacing, new_spacing = random_case(seed)
    resampler = VolumeResampler.between(Resampling("spline", *orders, force), new_shape, spacing, new_spacing)
    volume = logits[0]
    limits = resampler.limits(volume)
    whole = resampler.resampled(volume, limits)
    assert whole.shape == new_shape
    axis = resampler.slab_axis
    assert axis != resampler.apart
    for thickness in (1, 3, 100):
        starts = range(0, new_shape[axis], thickness)
        slabs = [resampler.resampled(volume, limits, slice(start, start + thickness)) for start in starts]
        assert [slab.shape[axis] for slab in slabs[:-1]] == [thickness] * (len(slabs) - 1)
        np.testing.assert_allclose(np.concatenate(slabs, axis), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("orders", ORDERS)
@pytest.mark.parametrize("regions", [False, True])
def test_labels_are_nnunets_and_those_of_whole_channels(monkeypatch, seed, orders, regions):
    logits, new_shape, spacing, new_spacing = random_case(seed)
    force = [None, True, False][seed % 3]
    monkeypatch.setattr(full_resolution, "_SLAB_VOXELS", [1, 300, 1 << 22][seed // 3 % 3])
    plan = plan_of(Resampling("spline", *orders, force))
    prepared = prepared_of(logits.shape[1:], new_shape, spacing, new_spacing)
    decoding = decoding_of(regions, len(logits))
    found = labels_by_slabs(logits, prepared, plan, decoding)
    full = resample_data_or_seg_to_shape(
        logits, new_shape, spacing, new_spacing, order=orders[0], order_z=orders[1], force_separate_z=force
    )
    clear = ~undecided(full, regions)
    np.testing.assert_array_equal(found[clear], labels_of_channels(full, decoding)[clear])
    if prepared.maps(plan) is None:
        whole = labels_of_channels(interpolated_channels(logits, prepared, plan), decoding)
        np.testing.assert_array_equal(found[clear], whole[clear])
    assert found.dtype == np.uint8


def test_many_labels_need_16_bits():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(300, 2, 3, 4)).astype(np.float32)
    decoding = decoding_of(False, 300)
    prepared = prepared_of((2, 3, 4), (4, 5, 6), (1.0,) * 3, (1.0,) * 3)
    found = labels_by_slabs(logits, prepared, plan_of(Resampling("spline", 3)), decoding)
    assert found.dtype == np.uint16
    assert found.max() > 255


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 1.0, 1.0), (1.0, 5.0, 1.0)])
def test_memory_is_that_of_a_slab(monkeypatch, spacing):
    monkeypatch.setattr(full_resolution, "_SLAB_VOXELS", 1 << 14)
    logits = np.random.default_rng(0).normal(size=(5, 24, 24, 24)).astype(np.float32)
    logits = ndimage.gaussian_filter(logits, (0, 3, 3, 3))
    new_shape = (64, 80, 96)
    prepared = prepared_of(logits.shape[1:], new_shape, spacing, spacing)
    plan = plan_of(Resampling("spline", 3, 3, None))
    volume = 4 * np.prod(new_shape)
    labels_by_slabs(logits, prepared, plan, decoding_of(False, 5))  # the matrices are kept

    tracemalloc.start()
    labels_by_slabs(logits, prepared, plan, decoding_of(False, 5))
    by_slabs = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    labels_of_channels(interpolated_channels(logits, prepared, plan), decoding_of(False, 5))
    by_channels = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert by_slabs < volume  # of which a quarter is the result
    assert by_channels > 3 * volume
