"""Model folders of nnU-Net with tiny networks, for the tests of prediction."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

LABELS: dict[str, Any] = {"background": 0, "liver": 1, "spleen": 2}
REGIONS: dict[str, Any] = {"background": 0, "organ": [1, 2], "liver": [1], "spleen": 2}
_SPLINE = "resample_data_or_seg_to_shape"


def architecture(dimensions: int, residual: bool = False) -> dict[str, Any]:
    """Two stages of four and eight features, as nnU-Net plans them."""
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet."
        + ("ResidualEncoderUNet" if residual else "PlainConvUNet"),
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [4, 8],
            "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
            "kernel_sizes": [[3] * dimensions] * 2,
            "strides": [[1] * dimensions, [2] * dimensions],
            "n_blocks_per_stage" if residual else "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def configuration(dimensions: int = 3, channels: int = 1, **changes: Any) -> dict[str, Any]:
    """A configuration of plans; a change to None removes a key."""
    options = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    content = {
        "data_identifier": "nnUNetPlans",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [8] * dimensions,
        "spacing": [3.0, 1.5, 1.25][3 - dimensions :],
        "normalization_schemes": ["CTNormalization", "ZScoreNormalization"][:channels],
        "use_mask_for_norm": [False, True][:channels],
        "resampling_fn_data": _SPLINE,
        "resampling_fn_data_kwargs": options,
        "resampling_fn_seg": _SPLINE,
        "resampling_fn_seg_kwargs": {**options, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": _SPLINE,
        "resampling_fn_probabilities_kwargs": {**options, "order": 1},
        "architecture": architecture(dimensions),
        **changes,
    }
    return {key: value for key, value in content.items() if value is not None}


def make_plans(**configurations: Any) -> dict[str, Any]:
    """Plans of these configurations; '3d_fullres' alone by default."""
    numbers = {"mean": 80.0, "median": 80.0, "std": 140.0, "percentile_00_5": -900.0, "percentile_99_5": 900.0}
    return {
        "dataset_name": "Dataset100_Abdomen",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [1, 0, 2],
        "transpose_backward": [1, 0, 2],
        "configurations": configurations or {"3d_fullres": configuration()},
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": numbers, "1": {**numbers, "mean": 5.0}},
    }


def make_dataset_json(
    labels: Mapping[str, Any] = LABELS, channels: Sequence[str] = ("CT",), **more: Any
) -> dict[str, Any]:
    names = {str(index): name for index, name in enumerate(channels)}
    return {"channel_names": names, "labels": dict(labels), "numTraining": 1, "file_ending": ".nii.gz", **more}


def stock_network(
    plans: Mapping[str, Any], dataset_json: Mapping[str, Any], name: str = "3d_fullres"
) -> torch.nn.Module:
    """The network as nnU-Net's trainers build it, with weights that are not all alike."""
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    found = plans["configurations"][name]["architecture"]
    heads = LabelManager(dataset_json["labels"], dataset_json.get("regions_class_order")).num_segmentation_heads
    network: torch.nn.Module = get_network_from_plans(
        found["network_class_name"],
        found["arch_kwargs"],
        found["_kw_requires_import"],
        len(dataset_json["channel_names"]),
        heads,
        deep_supervision=False,
    )
    for tensor in network.parameters():
        tensor.data += 0.1 * torch.randn_like(tensor)
    return network.eval()


def checkpoint_of(network: torch.nn.Module, **changes: Any) -> dict[str, Any]:
    """What nnU-Net's trainer saves: NumPy's numbers among the logs, the optimiser, plans and device."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.99, nesterov=True)
    return {
        "network_weights": network.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": None,
        "logging": {
            "mean_fg_dice": [np.float64(0.5), np.mean(np.ones(2, np.float32)), np.float32(0.25), np.bool_(True)],
            "dice_per_class_or_region": [[np.float64(0.5), np.int64(3)], [np.nan, 1.0]],
            "epoch_start_timestamps": [1.5, np.array([1.0, 2.0])],
        },
        "_best_ema": np.float64(0.5),
        "current_epoch": 4,
        "init_args": {"plans": {}, "configuration": "3d_fullres", "fold": 0, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
        **changes,
    }


def write_model(
    folder: Path,
    plans: Mapping[str, Any] | None = None,
    dataset_json: Mapping[str, Any] | None = None,
    folds: Sequence[str | int] = (0,),
    name: str = "3d_fullres",
    **changes: Any,
) -> Path:
    """Writes a model folder; each fold has weights of its own.

    Args:
        folder: The model folder.
        plans: Content of plans.json.
        dataset_json: Content of dataset.json.
        folds: Which folds there are.
        name: Configuration that was trained.
        changes: Of the checkpoints.
    """
    plans, dataset_json = copy.deepcopy(plans or make_plans()), dataset_json or make_dataset_json()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    for seed, fold in enumerate(folds):
        torch.manual_seed(seed)
        content = checkpoint_of(stock_network(plans, dataset_json, name))
        content["init_args"]["configuration"] = name
        (folder / f"fold_{fold}").mkdir()
        torch.save({**content, **changes}, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder
