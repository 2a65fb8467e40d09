"""Variants of plans, read back by nnU-Net's own classes."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nnunet_partial.errors import PartialError
from nnunet_partial.networks.plan_variants import describe_changes, plan_variant
from nnunet_partial.networks.variants import VARIANTS
from tests import documents

DOCUMENT = documents.ROOT / "docs" / "networks.md"


def configuration(spacing: list[float], patch: list[int], median: list[int], identifier: str) -> dict[str, Any]:
    """A configuration as nnU-Net 2.8 plans it, three stages deep."""
    dimensions = len(patch)
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "data_identifier": identifier,
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": patch,
        "median_image_size_in_voxels": median,
        "spacing": spacing,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 3,
                "features_per_stage": [32, 64, 128],
                "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
                "kernel_sizes": [[3] * dimensions] * 3,
                "strides": [[1] * dimensions, [2] * dimensions, [1] + [2] * (dimensions - 1)],
                "n_conv_per_stage": [2, 2, 2],
                "n_conv_per_stage_decoder": [2, 2],
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": True,
    }


def make_plans(transpose: tuple[int, int, int] = (0, 1, 2)) -> dict[str, Any]:
    """Plans of images with 5 x 0.8 x 0.8 mm; with a transposition the thick axis is another one of the image."""
    low = configuration([5.0, 1.6, 1.6], [16, 64, 64], [100, 250, 240], "nnUNetPlans_3d_lowres")
    return {
        "dataset_name": "Dataset100_Abdomen",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [5.0, 0.8, 0.8],
        "original_median_shape_after_transp": [100, 500, 480],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(transpose),
        "transpose_backward": [transpose.index(axis) for axis in range(3)],
        "configurations": {
            "2d": configuration([0.8, 0.8], [512, 512], [500, 480], "nnUNetPlans_2d"),
            "3d_lowres": {**low, "next_stage": "3d_cascade_fullres"},
            "3d_fullres": configuration([5.0, 0.8, 0.8], [32, 64, 64], [100, 500, 480], "nnUNetPlans_3d_fullres"),
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
            "3d_more": {"inherits_from": "3d_fullres", "batch_size": 7},
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {"mean": 63.0}},
    }


def only(plans: dict[str, Any]) -> dict[str, Any]:
    ((_, settings),) = plans["configurations"].items()
    return settings


def build(plans: dict[str, Any], classes: int = 14, deep_supervision: bool = False) -> nn.Module:
    """The network that stock nnU-Net builds from plans, without memory."""
    manager = PlansManager(plans)
    (name,) = manager.available_configurations
    with torch.device("meta"):
        return nnUNetTrainer.build_network_architecture(
            manager, manager.get_configuration(name), 1, classes, deep_supervision
        )


def parameters(network: nn.Module) -> int:
    return sum(value.numel() for value in network.parameters())


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "small"])
def test_nnunet_reads_every_variant(variant: str) -> None:
    plans = plan_variant(make_plans(), variant, f"nnUNetPlans_{variant}")
    manager = PlansManager(plans)
    (name,) = manager.available_configurations
    loaded = manager.get_configuration(name)
    wanted = VARIANTS[variant]
    assert manager.plans_name == f"nnUNetPlans_{variant}"
    assert tuple(loaded.patch_size) == wanted.patch_size
    assert loaded.batch_size == wanted.batch_size
    assert tuple(loaded.spacing) == (wanted.spacing or (0.8, 0.8))
    assert loaded.previous_stage_name is None
    assert loaded.next_stage_names is None
    assert loaded.batch_dice
    assert loaded.resampling_fn_data.func.__name__ == "resample_data_or_seg_to_shape"
    multiples = [math.prod(axis) for axis in zip(*loaded.pool_op_kernel_sizes, strict=True)]
    assert all(size % multiple == 0 for size, multiple in zip(loaded.patch_size, multiples, strict=True))


@pytest.mark.parametrize("transpose", itertools.permutations(range(3)))
@pytest.mark.parametrize("variant", ["multitalent", "multitalent-resenc", "transunet", "flare-tiny"])
def test_sizes_follow_the_axes_of_the_images(variant: str, transpose: tuple[int, int, int]) -> None:
    """Undoing the transposition as nnU-Net does it gives the same setting, whatever the plans' axis order is."""
    expected = only(plan_variant(make_plans(), variant, "x", patch_size=(64, 96, 32)))
    plans = plan_variant(make_plans(transpose), variant, "x", patch_size=(64, 96, 32))
    settings, backward = only(plans), plans["transpose_backward"]
    for key in ("patch_size", "spacing"):
        assert [settings[key][axis] for axis in backward] == expected[key]
    kwargs, expected_kwargs = settings["architecture"]["arch_kwargs"], expected["architecture"]["arch_kwargs"]
    for key in ("strides", "kernel_sizes"):
        assert [[stage[axis] for axis in backward] for stage in kwargs[key]] == expected_kwargs[key]
    assert kwargs.get("patch_size", settings["patch_size"]) == settings["patch_size"]


@pytest.mark.parametrize("variant", ["flare-small", "flare-tiny", "multitalent"])
def test_parameters_counted_by_hand(variant: str) -> None:
    plans = plan_variant(make_plans(), variant, "x")
    kwargs = only(plans)["architecture"]["arch_kwargs"]
    features = kwargs["features_per_stage"]

    def convolution(before: int, after: int) -> int:
        return before * after * 27 + after + 2 * after  # weights, bias, and scale and shift of the norm

    count = sum(convolution(b, a) + convolution(a, a) for b, a in zip([1, *features], features, strict=False))
    for above, below, stride in zip(features[:-1], features[1:], kwargs["strides"][1:], strict=True):
        count += below * above * math.prod(stride) + above + convolution(2 * above, above) + convolution(above, above)
        count += above * 14 + 14
    assert parameters(build(plans)) == count


def test_strides_of_multitalent() -> None:
    kwargs = only(plan_variant(make_plans(), "multitalent", "x"))["architecture"]["arch_kwargs"]
    assert kwargs["strides"] == [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]]
    kwargs = only(plan_variant(make_plans(), "multitalent-resenc", "x"))["architecture"]["arch_kwargs"]
    assert kwargs["strides"] == [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
    assert kwargs["kernel_sizes"] == [[1, 3, 3], *[[3, 3, 3]] * 5]
    assert kwargs["n_blocks_per_stage"] == [1, 2, 3, 4, 4, 4]


def test_the_small_net_of_flare_has_the_operations_of_the_paper() -> None:
    """121 G multiply-adds in Table 4 of the paper; its 5.22 M parameters do not fit the channels it names."""
    plans = plan_variant(make_plans(), "flare-small", "x")
    network = build(plans, deep_supervision=True)
    assert parameters(network) == pytest.approx(5.65e6, rel=1e-3)
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 1, *only(plans)["patch_size"], device="meta"))
    assert counter.get_total_flops() / 2 == pytest.approx(119.96e9, rel=1e-3)
    assert counter.get_total_flops() / 2 == pytest.approx(121e9, rel=0.01)


@pytest.mark.parametrize(
    ("variant", "millions", "outputs"),
    [("flare-tiny", 1.41, 4), ("multitalent", 29.29, 5), ("multitalent-resenc", 69.22, 5), ("transunet", 119.09, 4)],
)
def test_nnunet_builds_a_variant(variant: str, millions: float, outputs: int) -> None:
    plans = plan_variant(make_plans(), variant, "x")
    network = build(plans, deep_supervision=True)
    assert parameters(network) / 1e6 == pytest.approx(millions, abs=0.006)
    patch = only(plans)["patch_size"]
    found = network(torch.empty(1, 1, *patch, device="meta"))
    scales = [math.prod(axis) for axis in zip(*only(plans)["architecture"]["arch_kwargs"]["strides"][:2], strict=True)]
    assert len(found) == outputs
    assert found[0].shape == (1, 14, *patch)
    assert found[1].shape[2:] == tuple(size // scale for size, scale in zip(patch, scales, strict=True))


def test_what_concerns_the_data_stays() -> None:
    before = make_plans()
    untouched = copy.deepcopy(before)
    after = plan_variant(before, "flare-small", "x")
    assert before == untouched
    changed = {"plans_name", "configurations"}
    assert {k: v for k, v in after.items() if k not in changed} == {k: v for k, v in before.items() if k not in changed}
    changed = {"architecture", "patch_size", "batch_size", "spacing", "median_image_size_in_voxels", "data_identifier"}
    old, new = before["configurations"]["3d_fullres"], only(after)
    assert {k: v for k, v in new.items() if k not in changed} == {k: v for k, v in old.items() if k not in changed}


def test_another_spacing_has_other_data() -> None:
    settings = only(plan_variant(make_plans(), "flare-small", "x"))
    assert settings["median_image_size_in_voxels"] == [207, 205, 197]  # 100 * 5 / 2.42, 500 * 0.8 / 1.95, ...
    assert settings["data_identifier"] == "nnUNetPlans_3d_fullres_2.42x1.95x1.95mm"
    other = only(plan_variant(make_plans(), "flare-small", "x", spacing=(2.43, 1.95, 1.95)))
    assert other["data_identifier"] == "nnUNetPlans_3d_fullres_2.43x1.95x1.95mm"


def test_variants_of_one_spacing_share_their_data() -> None:
    names = ("multitalent", "multitalent-resenc", "multitalent-swinunetr")
    identifiers = {only(plan_variant(make_plans(), name, "x"))["data_identifier"] for name in names}
    assert identifiers == {"nnUNetPlans_3d_fullres_1.5x1x1mm"}


def test_the_same_spacing_has_the_same_data() -> None:
    plans = make_plans()
    settings = only(plan_variant(plans, "multitalent", "x", spacing=(5, 0.8 + 1e-9, 0.8)))
    for key in ("data_identifier", "spacing", "median_image_size_in_voxels"):
        assert settings[key] == plans["configurations"]["3d_fullres"][key]


def test_a_variant_of_a_variant() -> None:
    first = plan_variant(make_plans(), "multitalent", "first")
    second = only(plan_variant(first, "small", "second", features=(4, 8), patch_size=(16, 16, 16)))
    assert second["data_identifier"] == only(first)["data_identifier"]
    assert second["architecture"]["arch_kwargs"]["strides"] == [[1, 1, 1], [2, 2, 2]]
    assert second["batch_size"] == 4


@pytest.mark.parametrize(("name", "batch"), [("3d_lowres", 2), ("3d_more", 7)])
def test_configurations_are_freed_from_others(name: str, batch: int) -> None:
    plans = plan_variant(make_plans(), "small", "x", configuration=name, features=(4, 8))
    settings = only(plans)
    assert list(plans["configurations"]) == [name]
    assert settings["batch_size"] == batch
    assert not {"inherits_from", "next_stage", "previous_stage"} & settings.keys()
    assert PlansManager(plans).get_configuration(name).patch_size == settings["patch_size"]


def test_small_keeps_the_kind_of_network() -> None:
    plans = plan_variant(make_plans(), "small", "x", patch_size=(30, 32, 32), features=(4, 8), batch_size=3)
    settings = only(plans)
    kwargs = settings["architecture"]["arch_kwargs"]
    assert (settings["patch_size"], settings["batch_size"]) == ([30, 32, 32], 3)
    assert (kwargs["n_stages"], kwargs["features_per_stage"]) == (2, [4, 8])
    assert [len(kwargs[key]) for key in ("kernel_sizes", "strides", "n_conv_per_stage")] == [2, 2, 2]
    assert kwargs["n_conv_per_stage_decoder"] == [2]
    assert settings["data_identifier"] == "nnUNetPlans_3d_fullres"
    assert build(plans)(torch.empty(1, 1, 30, 32, 32, device="meta")).shape == (1, 14, 30, 32, 32)


def test_small_in_two_dimensions() -> None:
    plans = plan_variant(make_plans((2, 0, 1)), "small", "x", configuration="2d", patch_size=(64, 32), features=(4, 8))
    assert only(plans)["patch_size"] == [64, 32]
    assert build(plans)(torch.empty(1, 1, 64, 32, device="meta")).shape == (1, 14, 64, 32)


def test_features_of_a_variant() -> None:
    plans = plan_variant(make_plans(), "transunet", "x", features=(4, 8, 8), patch_size=(16, 24, 32))
    kwargs = only(plans)["architecture"]["arch_kwargs"]
    assert kwargs["n_blocks_per_stage"] == [1, 2, 2]
    assert kwargs["patch_size"] == [16, 24, 32]
    assert build(plans)(torch.empty(1, 1, 16, 24, 32, device="meta")).shape == (1, 14, 16, 24, 32)


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        ("flare", {}, "no such variant; there are small, flare-small"),
        ("small", {}, "changes nothing by itself"),
        ("small", {"features": (4,) * 9}, "has 3 stages here; expected 2 to 3 numbers"),
        ("small", {"features": (4,)}, "expected 2 to 3 numbers"),
        ("small", {"features": (4, 0)}, "numbers above 0"),
        ("small", {"patch_size": (31, 32, 32)}, r"patch size \[31, 32, 32\].*axis 0 must be a multiple of 2"),
        ("small", {"patch_size": (2, 4, 4)}, "one voxel is left"),
        ("small", {"patch_size": (32, 32)}, "patch size: expected 3 numbers above 0"),
        ("small", {"patch_size": (0, 32, 32)}, "patch size: expected 3 numbers above 0"),
        ("small", {"spacing": (1.0, -1.0, 1.0)}, "spacing: expected 3 numbers above 0"),
        ("small", {"batch_size": 0}, "batch size 0: .* at least 1"),
        ("deeplabv3", {"batch_size": 1}, "batch size 1: DeepLabV3, ResNet-50 needs at least 2"),
        ("swin-unetr", {"patch_size": (96, 96, 80)}, "axis 2 must be a multiple of 32"),
        ("swin-unetr", {"patch_size": (32, 32, 32)}, "one voxel is left"),
        ("swin-unetr", {"features": (8, 16)}, "stages of SwinUNETR are fixed"),
        ("mednext-s", {"patch_size": (40, 32, 32)}, "axis 0 must be a multiple of 16"),
        ("multitalent", {"configuration": "2d"}, "for 3D configurations, and '2d' is 2D; choose 3d_fullres"),
        ("deeplabv3", {"configuration": "3d_fullres"}, "for 2D configurations"),
        ("small", {"configuration": "3d", "batch_size": 1}, r"expected a configuration '3d', found \['2d'"),
        ("small", {"configuration": "3d_cascade_fullres", "batch_size": 1}, "is a cascade"),
        ("small", {"name": "nnUNetPlans", "batch_size": 1}, "is the name of the plans to change"),
        ("small", {"name": "a__b", "batch_size": 1}, "expected letters and digits"),
        ("small", {"name": "../a", "batch_size": 1}, "expected letters and digits"),
    ],
)
def test_what_does_not_fit_is_refused(variant: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PartialError, match=message):
        plan_variant(make_plans(), variant, **{"name": "x", **changes})


def test_plans_of_an_old_format_are_refused() -> None:
    plans = make_plans()
    del plans["configurations"]["3d_fullres"]["architecture"]
    with pytest.raises(PartialError, match="old format"):
        plan_variant(plans, "flare-small", "x")


def test_configurations_that_inherit_in_a_circle_are_refused() -> None:
    plans = make_plans()
    plans["configurations"]["3d_fullres"]["inherits_from"] = "3d_more"
    with pytest.raises(PartialError, match="expected a configuration"):
        plan_variant(plans, "small", "x", batch_size=1)


def test_changes_are_described() -> None:
    plans = make_plans()
    changes = describe_changes(plans, plan_variant(plans, "swin-unetr", "x", batch_size=2))
    assert changes == [
        ("network", "PlainConvUNet", "SwinUNETR"),
        ("features", "32 64 128", "fixed"),
        ("strides", "1x1x1 2x2x2 1x2x2", "1x1x1 2x2x2 2x2x2 2x2x2 2x2x2 2x2x2"),
        ("patch size", "32 64 64", "96 96 96"),
        ("spacing", "5 0.8 0.8", "2 2 2"),
        ("median image size", "100 500 480", "250 200 192"),
        ("data identifier", "nnUNetPlans_3d_fullres", "nnUNetPlans_3d_fullres_2x2x2mm"),
    ]


def test_variants_of_the_document() -> None:
    table = documents.table(DOCUMENT, "variant", "network")
    assert table.column("variant") == list(VARIANTS)
    for title, key in (("patch", "patch_size"), ("spacing, mm", "spacing")):
        expected = [getattr(variant, key) for variant in VARIANTS.values()]
        shown = [None if cell == "–" else tuple(map(float, cell.split(" × "))) for cell in table.column(title)]
        assert shown == expected
    assert table.column("source") == [variant.source for variant in VARIANTS.values()]
    batches = [variant.batch_size for variant in VARIANTS.values()]
    assert [None if cell == "–" else int(cell) for cell in table.column("batch")] == batches
