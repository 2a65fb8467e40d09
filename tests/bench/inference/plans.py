"""nnU-Net's plans and dataset.json of the network, as its planner would have written them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import nn

from nnunet_partial.networks.plan_variants import plan_variant
from tests.bench.inference.presets import Network

__all__ = ["CONFIGURATION", "PLANS", "TORCH_PLANS", "build_network", "make_dataset_json", "make_plans"]

PLANS, TORCH_PLANS = "nnUNetPlans", "nnUNetPlans_torchres"
CONFIGURATION = "3d_fullres"

_SPLINE: dict[str, Any] = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
_TORCH: dict[str, Any] = {"is_seg": False, "force_separate_z": False, "memefficient_seg_resampling": False}


def _resampling(name: str) -> dict[str, Any]:
    """nnU-Net's default, or what its planners '*_torchres' plan."""
    if name == TORCH_PLANS:
        function, image, logits = "resample_torch_fornnunet", _TORCH, _TORCH
    else:
        function, image, logits = "resample_data_or_seg_to_shape", _SPLINE, {**_SPLINE, "order": 1}
    return {
        "resampling_fn_data": function,
        "resampling_fn_data_kwargs": image,
        "resampling_fn_seg": function,
        "resampling_fn_seg_kwargs": {**logits, "is_seg": True},
        "resampling_fn_probabilities": function,
        "resampling_fn_probabilities_kwargs": logits,
    }


def make_plans(network: Network, statistics: Mapping[str, float], name: str = PLANS) -> dict[str, Any]:
    """Plans with one configuration.

    Args:
        network: Its sizes.
        statistics: Of intensities.
        name: `PLANS`, or `TORCH_PLANS` for resampling by PyTorch.
    """
    configuration = {
        "data_identifier": f"{name}_{CONFIGURATION}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(network.patch),
        "median_image_size_in_voxels": list(network.patch),
        "spacing": list(network.spacing_mm),
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        **_resampling(name),
        # replaced by that of the variant
        "architecture": {"network_class_name": "", "arch_kwargs": {}, "_kw_requires_import": []},
        "batch_dice": True,
    }
    base = {
        "dataset_name": "Dataset001_Phantoms",
        "plans_name": f"{name}_base",
        "original_median_spacing_after_transp": list(network.spacing_mm),
        "original_median_shape_after_transp": list(network.patch),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": dict(statistics)},
    }
    return plan_variant(
        base,
        "flare-small",
        name,
        configuration=CONFIGURATION,
        patch_size=network.patch,
        spacing=network.spacing_mm,
        features=network.features,
    )


def build_network(plans: Mapping[str, Any], heads: int) -> nn.Module:
    """The network as nnU-Net's trainers build it.

    Args:
        plans: Of `make_plans`.
        heads: Output channels.
    """
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    found = plans["configurations"][CONFIGURATION]["architecture"]
    network: nn.Module = get_network_from_plans(
        found["network_class_name"],
        found["arch_kwargs"],
        found["_kw_requires_import"],
        1,
        heads,
        deep_supervision=False,
    )
    return network


def make_dataset_json(names: Sequence[str], decoding: Literal["regions", "argmax"]) -> dict[str, Any]:
    """dataset.json of a model.

    Args:
        names: Of the classes, without the background.
        decoding: Whether channels are regions, of which the background is none.
    """
    labels: dict[str, Any] = {"background": 0} | {name: value for value, name in enumerate(names, start=1)}
    content: dict[str, Any] = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1}
    if decoding == "regions":
        # one region of two labels makes it a model of regions for nnU-Net; the second label is never written
        labels[names[0]] = [1, len(names) + 1]
        content["regions_class_order"] = list(range(1, len(names) + 1))
    return {**content, "file_ending": ".nii.gz"}
