"""Preparing images against nnU-Net's preprocessor."""

from __future__ import annotations

import numpy as np
import pytest
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_partial.errors import PartialError, VolumeError
from nnunet_partial.inference.model.plan import Architecture, Decoding, Normalization, PredictionPlan, Resampling
from nnunet_partial.inference.preprocessing import prepare

STATISTICS = {"mean": 20.0, "std": 50.0, "percentile_00_5": -90.0, "percentile_99_5": 110.0}
SCHEMES = ["CTNormalization", "ZScoreNormalization", "NoNormalization", "RescaleTo01Normalization"]


def make_plan(schemes=("CTNormalization",), masks=None, spacing=(1.5, 1.0, 1.0), transpose=(0, 1, 2)) -> PredictionPlan:
    masks = masks or (False,) * len(schemes)
    return PredictionPlan(
        dataset="Dataset001_Test",
        configuration="3d_fullres",
        trainer="nnUNetTrainer",
        plans="nnUNetPlans",
        channel_names=tuple(f"channel{i}" for i in range(len(schemes))),
        file_ending=".nii.gz",
        reader="SimpleITKIO",
        patch_size=(8,) * len(spacing),
        spacing_mm=spacing,
        transpose_forward=transpose,
        normalizations=tuple(Normalization(s, m, STATISTICS) for s, m in zip(schemes, masks, strict=True)),
        image_resampling=Resampling("spline", 3, 0, None),
        logit_resampling=Resampling("spline", 1, 0, None),
        decoding=Decoding(False, (0, 1), ("background", "organ"), 1),
        mirror_axes=(),
        architecture=Architecture("torch.nn.Identity", {}),
        dataset_json={},
    )


def by_nnunet(image, spacing, plan):
    function = "resample_data_or_seg_to_shape"
    seg, data = ({"is_seg": s, "order": o, "order_z": 0, "force_separate_z": None} for s, o in ((True, 1), (False, 3)))
    plans = PlansManager(
        {
            "dataset_name": plan.dataset,
            "plans_name": plan.plans,
            "transpose_forward": list(plan.transpose_forward),
            "transpose_backward": list(plan.transpose_backward),
            "foreground_intensity_properties_per_channel": {
                str(i): dict(n.statistics) for i, n in enumerate(plan.normalizations)
            },
            "configurations": {
                "c": {
                    "spacing": list(plan.spacing_mm),
                    "patch_size": list(plan.patch_size),
                    "normalization_schemes": [n.scheme for n in plan.normalizations],
                    "use_mask_for_norm": [n.within_mask for n in plan.normalizations],
                    "resampling_fn_data": function,
                    "resampling_fn_data_kwargs": data,
                    "resampling_fn_seg": function,
                    "resampling_fn_seg_kwargs": seg,
                    "architecture": {"network_class_name": "", "arch_kwargs": {}, "_kw_requires_import": []},
                }
            },
        }
    )
    properties = {"spacing": list(spacing)}
    prepared, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(
        image, None, properties, plans, plans.get_configuration("c"), {"file_ending": ".nii.gz"}
    )
    return prepared, properties


def random_image(channels: int, shape=(9, 14, 12), seed: int = 0) -> np.ndarray:
    """Noise with a rim of zeros and a hole."""
    rng = np.random.default_rng(seed)
    image = rng.normal(30, 60, size=(channels, *shape)).astype(np.float32)
    image[:, :2] = 0
    image[:, :, :, -3:] = 0
    image[:, 4:6, 5:7, 4:6] = 0
    return image


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_equals_nnunets_preprocessing(scheme, mask, transpose):
    plan = make_plan((scheme, "NoNormalization"), (mask, False), transpose=transpose)
    image, spacing = random_image(2), (2.0, 0.7, 0.9)
    expected, properties = by_nnunet(image, spacing, plan)
    before = image.copy()
    found = prepare(image, spacing, plan)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_allclose(found.data, expected, rtol=1e-5, atol=1e-4)
    assert found.shape == tuple(properties["shape_before_cropping"])
    assert [[b.start, b.stop] for b in found.box] == [list(b) for b in properties["bbox_used_for_cropping"]]
    assert found.cropped_shape == tuple(properties["shape_after_cropping_and_before_resampling"])


def test_slices_keep_their_distance_for_a_2d_network():
    plan = make_plan(spacing=(1.0, 1.3))
    image, spacing = random_image(1), (5.0, 0.7, 0.9)
    expected, _ = by_nnunet(image, spacing, plan)
    found = prepare(image, spacing, plan)
    assert found.network_spacing_mm == (5.0, 1.0, 1.3)
    np.testing.assert_allclose(found.data, expected, atol=1e-4)


def test_rgb_photographs():
    plan = make_plan(("RGBTo01Normalization",) * 3, spacing=(1.0, 1.0))
    image = np.random.default_rng(0).integers(1, 256, (3, 1, 8, 9)).astype(np.float32)
    np.testing.assert_allclose(prepare(image, (999, 1, 1), plan).data, image / 255, rtol=1e-6)
    with pytest.raises(PartialError, match="RGB values of 0 to 255"):
        prepare(image - 2, (999, 1, 1), plan)


def test_all_zero_image_is_kept_whole():
    found = prepare(np.zeros((1, 4, 5, 6), np.float32), (1.5, 1.0, 1.0), make_plan(("NoNormalization",)))
    assert found.cropped_shape == found.shape == (4, 5, 6)


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_restored_puts_labels_back(transpose):
    plan = make_plan(("NoNormalization",), transpose=transpose)
    image = random_image(1)
    found = prepare(image, (1.0, 1.0, 1.0), plan)
    cropped = image[0].transpose(transpose)[found.box]
    restored = found.restored(cropped, plan)
    inside = np.zeros(image.shape[1:])
    inside[2:, :, :-3] = image[0, 2:, :, :-3]
    np.testing.assert_array_equal(restored, inside)


@pytest.mark.parametrize(
    ("image", "spacing", "message"),
    [
        (np.ones((2, 4, 4, 4)), (1, 1, 1), r"expected 1 channels \(channel0\), found 2"),
        (np.ones((4, 4, 4)), (1, 1, 1), "expected axes"),
        (np.ones((1, 4, 4, 4)), (1, 1), "2 voxel sizes"),
        (np.ones((1, 0, 4, 4)), (1, 1, 1), "at least one voxel"),
        (np.ones((1, 4, 4, 4)), (0.1, 1, 1), "leave no voxel"),
    ],
)
def test_what_does_not_fit_is_refused(image, spacing, message):
    with pytest.raises(PartialError, match=message):
        prepare(image.astype(np.float32), spacing, make_plan())


def test_unknown_normalization_is_refused():
    with pytest.raises(PartialError, match="'Magic': expected one of CTNormalization"):
        prepare(np.ones((1, 4, 4, 4), np.float32), (1, 1, 1), make_plan(("Magic",)))


@pytest.mark.parametrize(
    "spacing", [(1e6, 1e6, 1e6), (1.5, 1e6, 1.0), (1e200, 1e200, 1e200), (np.nan, 1.0, 1.0), (40.0, 30.0, 30.0)]
)
def test_voxel_sizes_that_make_an_image_too_large_are_named(spacing, monkeypatch):
    monkeypatch.setattr("nnunet_partial.inference.preprocessing.resample_image", None)  # nothing of that size is made
    message = r"voxel size: found .* mm, which makes \S+ voxels at the network's 1\.5 x 1 x 1 mm of 1000"
    with pytest.raises(VolumeError, match=message):
        prepare(np.ones((1, 10, 10, 10), np.float32), spacing, make_plan())


def test_an_image_must_fit_into_memory_twice(monkeypatch):
    # 3000 voxels of 4 bytes in two channels
    image, spacing, plan = np.ones((2, 10, 10, 10), np.float32), (1.5, 3.0, 1.0), make_plan(("NoNormalization",) * 2)
    monkeypatch.setattr("nnunet_partial.inference.preprocessing.memory_bytes", lambda: 2 * 2 * 4 * 3000)
    assert prepare(image, spacing, plan).data.shape == (2, 10, 30, 10)
    monkeypatch.setattr("nnunet_partial.inference.preprocessing.memory_bytes", lambda: 2 * 2 * 4 * 3000 - 1)
    with pytest.raises(VolumeError, match=r"found 1\.5 x 3 x 1 mm, .*3e\+03 voxels"):
        prepare(image, spacing, plan)


def test_more_voxels_than_any_scan_has_are_refused_on_any_machine(monkeypatch):
    monkeypatch.setattr("nnunet_partial.inference.preprocessing.memory_bytes", lambda: 1 << 60)
    # 17 GB, were they more than one number
    image = np.broadcast_to(np.float32(1), (1, 2000, 2000, 1080))
    with pytest.raises(VolumeError, match=r"at most 4\.29e\+09"):
        prepare(image, (1.5, 1.0, 1.0), make_plan())
