"""nnU-Net's plans.json and dataset.json as a `PredictionPlan`, without nnU-Net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.model.plan import Architecture, Decoding, Normalization, PredictionPlan, Resampling

__all__ = ["find_configuration", "read_decoding", "read_plan"]

_UNETS = "dynamic_network_architectures.architectures.unet."
_SPLINE, _TORCH, _NONE = "resample_data_or_seg_to_shape", "resample_torch_fornnunet", "no_resampling_hack"
_ANISOTROPY = 3  # nnU-Net's default threshold
# what says only how `resample_torch_fornnunet` computes, not what
_HOW = {"num_threads", "device", "memefficient_seg_resampling"}


def read_plan(
    plans: Mapping[str, Any],
    dataset_json: Mapping[str, Any],
    *,
    configuration: str,
    trainer: str,
    mirror_axes: Sequence[int] | None,
    source: str = "plans.json",
    preprocessed: bool = False,
) -> PredictionPlan:
    """What prediction must know of a configuration.

    Args:
        plans: Content of plans.json, in the present format or that of nnU-Net before 2.5.
        dataset_json: Content of dataset.json.
        configuration: Name of the configuration.
        trainer: Class name of the trainer.
        mirror_axes: `inference_allowed_mirroring_axes` of the checkpoint; None where there is no mirroring.
        source: Name of the plans file, for messages.
        preprocessed: nnU-Net itself preprocesses the images, so that any preprocessor will do.

    Raises:
        PartialError: A key is missing, or the plans ask for something only nnU-Net itself can do.
    """
    content = find_configuration(plans, configuration, source)
    _refuse_extensions(plans, content, configuration, source, preprocessed)
    place = f"{source}, configuration '{configuration}'"
    names = _channel_names(dataset_json)
    patch_size = tuple(int(size) for size in _get(content, "patch_size", place))
    return PredictionPlan(
        dataset=str(_get(plans, "dataset_name", source)),
        configuration=configuration,
        trainer=trainer,
        plans=str(_get(plans, "plans_name", source)),
        channel_names=names,
        file_ending=str(_get(dataset_json, "file_ending", "dataset.json")),
        reader=str(_get(plans, "image_reader_writer", source)),
        patch_size=patch_size,
        spacing_mm=_spacing(content, patch_size, place),
        transpose_forward=_transpose(plans, source),
        normalizations=_normalizations(plans, content, len(names), place),
        image_resampling=_resampling(content, "resampling_fn_data", place),
        logit_resampling=_resampling(content, "resampling_fn_probabilities", place),
        decoding=read_decoding(dataset_json),
        mirror_axes=_mirror_axes(mirror_axes, len(patch_size)),
        architecture=_architecture(content, len(patch_size), place),
        dataset_json=dataset_json,
    )


def find_configuration(plans: Mapping[str, Any], name: str, source: str = "plans.json") -> dict[str, Any]:
    """A configuration with what it inherits.

    Args:
        plans: Content of plans.json.
        name: Name of the configuration.
        source: Name of the plans file, for messages.

    Raises:
        PartialError: It, or one it inherits from, does not exist, or the inheritance goes round in circles.
    """
    configurations = _get(plans, "configurations", source)
    chain: list[str] = []
    current: str | None = name
    while current is not None:
        if current in chain:
            raise PartialError(f"{source}: 'inherits_from' goes round in circles: {[*chain, current]}; mend the plans")
        if current not in configurations:
            heir = f", from which '{chain[-1]}' inherits" if chain else ""
            raise PartialError(f"{source}: no configuration '{current}'{heir}; there are {list(configurations)}")
        chain.append(current)
        current = configurations[current].get("inherits_from")
    return {key: value for parent in reversed(chain) for key, value in configurations[parent].items()}


def read_decoding(dataset_json: Mapping[str, Any]) -> Decoding:
    """What the output channels mean, by nnU-Net's rules.

    Channels are regions as soon as one label is a list of two or more values, in which case there is a channel for each
    entry but the background; else there is one for each label value. The ignore label has none.

    Args:
        dataset_json: Content of dataset.json.

    Raises:
        PartialError: `labels` are missing or against the rules, or `regions_class_order` does not fit them.
    """
    labels = _get(dataset_json, "labels", "dataset.json")
    if not isinstance(labels, Mapping) or labels.get("background") not in (0, "0"):
        raise PartialError(f"dataset.json: expected 'labels' with \"background\": 0, found {labels!r}")
    values = {str(name): _values(value) for name, value in labels.items() if name != "ignore"}
    every = sorted({value for several in values.values() for value in several})
    ignored = labels.get("ignore")
    if ignored is not None and ignored != every[-1] + 1:
        raise PartialError(f"dataset.json: expected 'ignore' to be the highest label, {every[-1] + 1}, found {ignored}")
    foreground = sum(value != 0 for value in every)
    if any(isinstance(value, (list, tuple)) and len(value) > 1 for value in labels.values()):
        regions = [name for name, several in values.items() if set(several) != {0}]
        order = dataset_json.get("regions_class_order")
        if order is None or len(order) != len(regions):
            raise PartialError(
                f"dataset.json: expected 'regions_class_order' with one label for each of {regions}, found {order}"
            )
        return Decoding(True, tuple(int(value) for value in order), tuple(regions), foreground)
    if every != list(range(len(every))):
        raise PartialError(
            f"dataset.json: expected label values 0, 1, 2, ... without gaps, as nnU-Net does, found {every}"
        )
    names = tuple("/".join(name for name, several in values.items() if value in several) for value in every)
    return Decoding(False, tuple(every), names, foreground)


def _get(content: Mapping[str, Any], key: str, place: str) -> Any:
    if key not in content:
        raise PartialError(f"{place}: '{key}' is missing; there are {sorted(content)}; is this a file of nnU-Net v2?")
    return content[key]


def _values(label: Any) -> tuple[int, ...]:
    try:
        return tuple(int(value) for value in label) if isinstance(label, (list, tuple)) else (int(label),)
    except (TypeError, ValueError) as error:
        raise PartialError(
            f"dataset.json: expected a label to be a number or a list of them, found {label!r}"
        ) from error


def _refuse_extensions(
    plans: Mapping[str, Any], content: Mapping[str, Any], configuration: str, source: str, preprocessed: bool
) -> None:
    """Refuses what would change the result without anybody noticing."""
    if content.get("previous_stage") is not None:
        raise PartialError(
            f"{source}: configuration '{configuration}' is the second stage of a cascade, which also needs the "
            f"prediction of '{content['previous_stage']}'; use nnUNetv2_predict, or a configuration of one stage"
        )
    needed = [(plans, "label_manager", "LabelManager")]
    if not preprocessed:
        needed.append((content, "preprocessor_name", "DefaultPreprocessor"))
    for place, key, known in needed:
        if place.get(key, known) != known:
            raise PartialError(f"{source}: expected '{key}' {known}, found {place[key]}; use nnUNetv2_predict")


def _channel_names(dataset_json: Mapping[str, Any]) -> tuple[str, ...]:
    key = "modality" if "modality" in dataset_json else "channel_names"
    names = _get(dataset_json, key, "dataset.json")
    indices = [str(index) for index in range(len(names))]
    if not isinstance(names, Mapping) or not indices or set(names) != set(indices):
        raise PartialError(f'dataset.json: expected \'{key}\' to name the channels "0", "1", ..., found {names!r}')
    return tuple(str(names[index]) for index in indices)


def _spacing(content: Mapping[str, Any], patch_size: Sequence[int], place: str) -> tuple[float, ...]:
    spacing = tuple(float(length) for length in _get(content, "spacing", place))
    if len(patch_size) not in (2, 3) or len(spacing) != len(patch_size):
        raise PartialError(
            f"{place}: expected 'patch_size' and 'spacing' with 2 or 3 numbers each, found {list(patch_size)} and "
            f"{list(spacing)}"
        )
    return spacing


def _transpose(plans: Mapping[str, Any], source: str) -> tuple[int, ...]:
    order = plans.get("transpose_forward")
    axes = (0, 1, 2) if order is None else tuple(int(axis) for axis in order)
    if sorted(axes) != [0, 1, 2]:
        raise PartialError(f"{source}: expected 'transpose_forward' to be an order of 0, 1 and 2, found {order}")
    backward = plans.get("transpose_backward")
    expected = [axes.index(axis) for axis in range(3)]
    if backward is not None and list(backward) != expected:
        raise PartialError(
            f"{source}: expected 'transpose_backward' to undo {list(axes)}: {expected}, found {backward}"
        )
    return axes


def _normalizations(
    plans: Mapping[str, Any], content: Mapping[str, Any], channels: int, place: str
) -> tuple[Normalization, ...]:
    schemes = _get(content, "normalization_schemes", place)
    masks = _get(content, "use_mask_for_norm", place)
    if len(schemes) < channels or len(masks) < channels:
        raise PartialError(
            f"{place}: expected 'normalization_schemes' and 'use_mask_for_norm' for {channels} channels, found "
            f"{len(schemes)} and {len(masks)}"
        )
    key = "foreground_intensity_properties_per_channel"
    statistics = plans.get(key, plans.get("foreground_intensity_properties_by_modality", {}))
    return tuple(
        Normalization(
            str(schemes[channel]),
            bool(masks[channel]),
            {name: float(value) for name, value in statistics.get(str(channel), {}).items()},
        )
        for channel in range(channels)
    )


def _resampling(content: Mapping[str, Any], key: str, place: str) -> Resampling:
    name = _get(content, key, place)
    options = dict(content.get(f"{key}_kwargs") or {})
    if options.pop("is_seg", False):
        raise PartialError(f"{place}: '{key}_kwargs' has is_seg, but is for intensities and logits; mend the plans")
    if options.pop("separate_z_anisotropy_threshold", _ANISOTROPY) != _ANISOTROPY:
        raise PartialError(f"{place}: '{key}_kwargs' changes separate_z_anisotropy_threshold; use nnUNetv2_predict")
    if name == _SPLINE:
        found = Resampling(
            "spline",
            int(options.pop("order", 3)),
            int(options.pop("order_z", 0)),
            options.pop("force_separate_z", False),
        )
        valid = 0 <= found.order <= 3 and 0 <= found.order_z <= 3
    elif name == _TORCH:
        across = {"nearest-exact": 0, "linear": 1}.get(options.pop("aniso_axis_mode", "nearest-exact"))
        valid = across is not None and options.pop("mode", "linear") == "linear"
        found = Resampling("torch", 1, across or 0, options.pop("force_separate_z", None))
        options = {option: value for option, value in options.items() if option not in _HOW}
    elif name == _NONE:
        found, valid = Resampling("none"), True
    else:
        raise PartialError(
            f"{place}: expected '{key}' to be one of {[_SPLINE, _TORCH, _NONE]}, found '{name}'; use nnUNetv2_predict"
        )
    if options or not valid:
        raise PartialError(
            f"{place}: '{key}_kwargs' {content.get(f'{key}_kwargs')} ask '{name}' for something not known here; use "
            "nnUNetv2_predict"
        )
    return found


def _mirror_axes(axes: Sequence[int] | None, dimensions: int) -> tuple[int, ...]:
    found = tuple(int(axis) for axis in axes or ())
    if any(not 0 <= axis < dimensions for axis in found):
        raise PartialError(f"checkpoint: mirroring along axes {list(found)} of an image with {dimensions} axes")
    return found


def _architecture(content: Mapping[str, Any], dimensions: int, place: str) -> Architecture:
    if "architecture" not in content:
        return _old_architecture(content, dimensions, place)
    found = content["architecture"]
    arguments = dict(_get(found, "arch_kwargs", f"{place}, architecture"))
    imported = tuple(found.get("_kw_requires_import", ()))
    return Architecture(str(_get(found, "network_class_name", f"{place}, architecture")), arguments, imported)


def _old_architecture(content: Mapping[str, Any], dimensions: int, place: str) -> Architecture:
    """The U-Net that plans of nnU-Net before 2.5 stand for, which had no key 'architecture'."""
    name = _get(content, "UNet_class_name", place)
    blocks = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
    if name not in blocks:
        raise PartialError(f"{place}: expected 'UNet_class_name' to be one of {list(blocks)}, found '{name}'")
    encoder = list(_get(content, "n_conv_per_stage_encoder", place))
    base, most = (int(_get(content, key, place)) for key in ("UNet_base_num_features", "unet_max_num_features"))
    arguments = {
        "n_stages": len(encoder),
        "features_per_stage": [min(base * 2**stage, most) for stage in range(len(encoder))],
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "kernel_sizes": _get(content, "conv_kernel_sizes", place),
        "strides": _get(content, "pool_op_kernel_sizes", place),
        blocks[name]: encoder,
        "n_conv_per_stage_decoder": list(_get(content, "n_conv_per_stage_decoder", place)),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return Architecture(_UNETS + name, arguments, ("conv_op", "norm_op", "dropout_op", "nonlin"))
