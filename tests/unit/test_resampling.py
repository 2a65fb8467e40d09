"""Resampling against nnU-Net's own functions, over random shapes, spacings and orders."""

from __future__ import annotations

import numpy as np
import pytest
from nnunetv2.preprocessing.resampling.default_resampling import (
    compute_new_shape,
    determine_do_sep_z_and_axis,
    resample_data_or_seg_to_shape,
)
from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet

from nnunet_partial.inference.model.nnunet_plans import read_plan
from nnunet_partial.inference.model.plan import Resampling
from nnunet_partial.inference.resampling import (
    AxisMap,
    axis_maps,
    resample_image,
    resampled_shape,
    separate_axis,
)
from tests.unit.tiny_models import make_dataset_json, make_plans

SPACINGS = [
    ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    ((2.5, 0.8, 0.8), (2.42, 1.95, 1.95)),
    ((5.0, 0.7, 0.7), (1.5, 1.5, 1.5)),
    ((0.7, 5.0, 0.7), (1.0, 1.0, 1.0)),
    ((0.7, 0.8, 3.0), (1.0, 1.0, 1.0)),
    ((0.24, 1.25, 1.25), (1.0, 1.0, 1.0)),
    ((1.0, 1.0, 1.0), (6.0, 1.0, 1.0)),
    ((4.0, 4.0, 1.0), (1.0, 1.0, 1.0)),
]


def random_case(seed: int) -> tuple[np.ndarray, list[int], tuple, tuple]:
    rng = np.random.default_rng(seed)
    spacing, new_spacing = SPACINGS[seed % len(SPACINGS)]
    shape, new_shape = (tuple(int(n) for n in rng.integers(1, 20, 3)) for _ in range(2))
    image = rng.normal(size=(2, *shape)).astype(np.float32)
    return image, list(new_shape), spacing, new_spacing


@pytest.mark.parametrize(("spacing", "new_spacing"), SPACINGS)
@pytest.mark.parametrize("force", [None, True, False])
def test_separate_axis_is_that_of_nnunet(spacing, new_spacing, force):
    apart, axis = determine_do_sep_z_and_axis(force, spacing, new_spacing)
    assert separate_axis(Resampling(separate_z=force), spacing, new_spacing) == (axis if apart else None)


@pytest.mark.parametrize("seed", range(20))
def test_resampled_shape_is_that_of_nnunet(seed):
    rng = np.random.default_rng(seed)
    shape, spacing, new_spacing = rng.integers(1, 600, 3), rng.uniform(0.3, 6, 3), rng.uniform(0.3, 6, 3)
    assert resampled_shape(shape, spacing, new_spacing) == compute_new_shape(shape, spacing, new_spacing).tolist()


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize(("order", "order_z"), [(3, 0), (1, 0), (0, 0), (2, 1), (3, 3), (1, 1)])
@pytest.mark.parametrize("force", [None, False])
def test_image_equals_nnunets(seed, order, order_z, force):
    image, shape, spacing, new_spacing = random_case(seed)
    expected = resample_data_or_seg_to_shape(
        image, shape, spacing, new_spacing, order=order, order_z=order_z, force_separate_z=force
    )
    found = resample_image(image, shape, spacing, new_spacing, Resampling("spline", order, order_z, force))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("force", [None, False])
def test_image_equals_nnunets_torch_resampling(seed, force):
    image, shape, spacing, new_spacing = random_case(seed)
    expected = resample_torch_fornnunet(image, shape, spacing, new_spacing, force_separate_z=force)
    found = resample_image(image, shape, spacing, new_spacing, Resampling("torch", 1, 0, force))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize("mode", ["linear", "nearest-exact"])
@pytest.mark.parametrize("force", [None, True, False])
def test_torch_resampling_across_slices_is_that_of_the_plans(seed, mode, force):
    image, shape, spacing, new_spacing = random_case(seed)
    options = {"is_seg": False, "force_separate_z": force, "aniso_axis_mode": mode}
    plans = make_plans()
    content = plans["configurations"]["3d_fullres"]
    for key in ("resampling_fn_data", "resampling_fn_probabilities"):
        content[key], content[f"{key}_kwargs"] = "resample_torch_fornnunet", options
    plan = read_plan(plans, make_dataset_json(), configuration="3d_fullres", trainer="t", mirror_axes=None)
    expected = resample_torch_fornnunet(image, shape, spacing, new_spacing, **options)
    found = resample_image(image, shape, spacing, new_spacing, plan.image_resampling)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    maps = axis_maps(plan.logit_resampling, image.shape[1:], shape, spacing, new_spacing)
    assert maps is not None
    mapped = image
    for axis, axis_map in enumerate(maps, start=1):
        mapped = axis_map.along(mapped, axis)
    np.testing.assert_allclose(mapped, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 31])
@pytest.mark.parametrize("new_size", [1, 2, 3, 5, 8, 16, 33])
def test_axis_maps_by_hand(size, new_size):
    linear, nearest = AxisMap.linear(size, new_size), AxisMap.nearest(size, new_size)
    for index in range(new_size):
        place = min(max((index + 0.5) * size / new_size - 0.5, 0), size - 1)
        low = int(place)
        assert linear.lower[index] == low
        assert linear.weight[index] == pytest.approx(place - low, abs=1e-12)
        assert linear.upper[index] == (low + 1 if linear.weight[index] else low) < size
        assert abs(nearest.lower[index] + 0.5 - (index + 0.5) * size / new_size) <= 0.5 + 1e-9
    assert nearest.copies
    assert linear.copies == (size == 1 or size == new_size or not linear.weight.any())


def test_splines_have_no_axis_maps_and_equal_shapes_are_copied():
    spline, ones = Resampling("spline", 3), (1.0, 1.0, 1.0)
    assert axis_maps(spline, (4, 4, 4), (8, 8, 8), ones, ones) is None
    maps = axis_maps(spline, (4, 5, 6), (4, 5, 6), ones, ones)
    assert maps is not None
    assert [len(m.lower) for m in maps] == [4, 5, 6]
    assert all(m.copies for m in maps)
    maps = axis_maps(Resampling("none"), (4, 5, 6), (8, 8, 8), ones, ones)
    assert maps is not None
    assert [len(m.lower) for m in maps] == [4, 5, 6]
    image = np.ones((1, 4, 5, 6), np.float32)
    assert resample_image(image, (8, 8, 8), ones, ones, Resampling("none")) is image
