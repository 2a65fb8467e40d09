"""Variants of nnU-Net's plans: the same data, another network, patch, batch or spacing. Pure; nothing needs PyTorch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple, TypeVar

from nnunet_partial.errors import PartialError
from nnunet_partial.networks.variants import VARIANTS, Variant

__all__ = ["Change", "describe_changes", "plan_variant"]

_NAME = re.compile(r"[A-Za-z0-9]+([_-][A-Za-z0-9]+)*")
_LINKS = ("inherits_from", "previous_stage", "next_stage")
_AXIS_BY_AXIS = ("strides", "kernel_sizes")
_BY_STAGE = ("kernel_sizes", "strides", "n_conv_per_stage", "n_blocks_per_stage")
_Number = TypeVar("_Number", int, float)
_Value = TypeVar("_Value")


class Change(NamedTuple):
    """One entry in which two plans differ."""

    what: str
    before: str
    after: str


def plan_variant(
    plans: Mapping[str, Any],
    variant: str,
    name: str,
    *,
    configuration: str | None = None,
    patch_size: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    batch_size: int | None = None,
    features: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Plans for the same preprocessing with another network and other sizes.

    Normalisation, transposition, resampling and batch Dice stay as they are. The plans keep one configuration, freed
    from the configurations that it inherits from or leads to. With another spacing they get a data identifier that
    names the spacing, so that preprocessed data of different spacings never mix, and variants of the same spacing
    share theirs.

    Sizes of 3D configurations are given in the order of the image's axes, (z, y, x), as papers do, and written in the
    plans' order (`transpose_forward`). Those of 2D configurations are given as they are written.

    Args:
        plans: Content of an nnU-Net plans file.
        variant: A key of `VARIANTS`.
        name: Name of the new plans; save them as NAME.json beside the old ones.
        configuration: The configuration to change; the variant's own by default.
        patch_size: In voxels; the variant's own by default, as all that follow.
        spacing: In mm.
        batch_size: Patches a batch.
        features: Channels of each stage, highest resolution first; its length is the number of stages.

    Returns:
        The new plans.

    Raises:
        PartialError: The plans lack the configuration, or the sizes do not fit it or each other.
    """
    if variant not in VARIANTS:
        raise PartialError(f"variant '{variant}': no such variant; there are {', '.join(VARIANTS)}")
    chosen = VARIANTS[variant]
    _check_name(name, plans)
    configuration = configuration or chosen.configuration
    settings = _resolved(plans, configuration)
    if chosen.architecture is None and all(given is None for given in (patch_size, spacing, batch_size, features)):
        raise PartialError(f"variant '{variant}' changes nothing by itself; give features, or a patch or batch size")
    order = _axis_order(plans, settings, variant, configuration)
    if chosen.architecture is not None:
        settings["architecture"] = _transposed(chosen.architecture, order)
    if features is not None:
        _set_features(settings["architecture"], features)
    patch_size, spacing = _first(patch_size, chosen.patch_size), _first(spacing, chosen.spacing)
    if patch_size is not None:
        _set_patch_size(settings, _in_order("patch size", patch_size, order))
    if spacing is not None:
        _set_spacing(settings, _in_order("spacing", spacing, order))
    settings["batch_size"] = _first(batch_size, chosen.batch_size, settings["batch_size"])
    _check_sizes(settings, chosen)
    return {**deepcopy(dict(plans)), "plans_name": name, "configurations": {configuration: settings}}


def _first(*values: _Value | None) -> _Value | None:
    """The first value that is given."""
    return next((value for value in values if value is not None), None)


def describe_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Where a plan variant differs from the plans it was made of; sizes in the plans' axis order.

    Args:
        before: The old plans.
        after: The variant, with its one configuration.
    """
    ((configuration, new),) = after["configurations"].items()
    rows = zip(_described(_resolved(before, configuration)), _described(new), strict=True)
    return [Change(what, old, changed) for (what, old), (_, changed) in rows if old != changed]


def _described(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    architecture = settings["architecture"]
    kwargs = architecture["arch_kwargs"]
    return [
        ("network", architecture["network_class_name"].rpartition(".")[2]),
        ("features", _shown(kwargs.get("features_per_stage"))),
        ("strides", _shown(kwargs["strides"])),
        ("patch size", _shown(settings["patch_size"])),
        ("batch size", str(settings["batch_size"])),
        ("spacing", _shown(settings["spacing"])),
        ("median image size", _shown(settings["median_image_size_in_voxels"])),
        ("data identifier", settings["data_identifier"]),
    ]


def _shown(value: Sequence[Any] | None) -> str:
    if value is None:
        return "fixed"
    return " ".join("x".join(map(str, entry)) if isinstance(entry, (list, tuple)) else f"{entry:g}" for entry in value)


def _check_name(name: str, plans: Mapping[str, Any]) -> None:
    if not _NAME.fullmatch(name):
        raise PartialError(
            f"plans name '{name}': expected letters and digits, joined by single '-' or '_' (nnU-Net splits the names "
            "of its folders at '__')"
        )
    if name == plans.get("plans_name"):
        raise PartialError(f"plans name '{name}' is the name of the plans to change; choose another")


def _resolved(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """A copy of a configuration with all that it inherits."""
    configurations = plans["configurations"]
    chain: list[str] = []
    current: str | None = configuration
    while current is not None:
        if current not in configurations or current in chain:
            raise PartialError(
                f"plans '{plans['plans_name']}': expected a configuration '{current}', found {list(configurations)}; "
                "plan it, or choose one of these"
            )
        chain.append(current)
        current = configurations[current].get("inherits_from")
    settings: dict[str, Any] = {}
    for link in reversed(chain):
        settings.update(deepcopy(configurations[link]))
    if settings.get("previous_stage") is not None:
        raise PartialError(f"configuration '{configuration}' is a cascade; choose 3d_fullres, 3d_lowres or 2d")
    if "architecture" not in settings:
        raise PartialError(
            f"plans '{plans['plans_name']}' are of an old format without 'architecture'; plan again with "
            "nnUNetv2_plan_experiment"
        )
    return {key: value for key, value in settings.items() if key not in _LINKS}


def _axis_order(
    plans: Mapping[str, Any], settings: Mapping[str, Any], variant: str, configuration: str
) -> tuple[int, ...]:
    """For each axis of the plans the axis of the image that it is."""
    dimensions = len(settings["patch_size"])
    expected = VARIANTS[variant].dimensions
    if expected not in (None, dimensions):
        raise PartialError(
            f"variant '{variant}' is for {expected}D configurations, and '{configuration}' is {dimensions}D; "
            f"choose {VARIANTS[variant].configuration}"
        )
    return tuple(plans["transpose_forward"]) if dimensions == 3 else (0, 1)


def _in_order(what: str, values: Sequence[_Number], order: Sequence[int]) -> list[_Number]:
    if len(values) != len(order) or min(values) <= 0:
        raise PartialError(f"{what}: expected {len(order)} numbers above 0, found {list(values)}")
    return [values[axis] for axis in order]


def _transposed(architecture: Mapping[str, Any], order: Sequence[int]) -> dict[str, Any]:
    result = deepcopy(dict(architecture))
    kwargs = result["arch_kwargs"]
    for key in _AXIS_BY_AXIS:
        if key in kwargs:
            kwargs[key] = [[stage[axis] for axis in order] for stage in kwargs[key]]
    return result


def _set_features(architecture: dict[str, Any], features: Sequence[int]) -> None:
    network, kwargs = architecture["network_class_name"].rpartition(".")[2], architecture["arch_kwargs"]
    if "n_stages" not in kwargs:
        raise PartialError(f"features: the stages of {network} are fixed; leave features out")
    stages = len(features)
    if not 2 <= stages <= kwargs["n_stages"] or min(features) < 1:
        raise PartialError(
            f"features {list(features)}: {network} has {kwargs['n_stages']} stages here; expected 2 to "
            f"{kwargs['n_stages']} numbers above 0"
        )
    for key in _BY_STAGE:
        if key in kwargs:
            kwargs[key] = kwargs[key][:stages]
    kwargs["n_conv_per_stage_decoder"] = kwargs["n_conv_per_stage_decoder"][: stages - 1]
    kwargs["features_per_stage"] = list(features)
    kwargs["n_stages"] = stages


def _set_patch_size(settings: dict[str, Any], patch_size: list[int]) -> None:
    settings["patch_size"] = patch_size
    kwargs = settings["architecture"]["arch_kwargs"]
    if "patch_size" in kwargs:  # networks that learn positions
        kwargs["patch_size"] = list(patch_size)


def _set_spacing(settings: dict[str, Any], spacing: Sequence[float]) -> None:
    before = settings["spacing"]
    if all(math.isclose(old, new, rel_tol=1e-6) for old, new in zip(before, spacing, strict=True)):
        return
    factors = [old / new for old, new in zip(before, spacing, strict=True)]
    median = settings["median_image_size_in_voxels"]
    # nnU-Net's own rule for the median image size of 3d_lowres
    settings["median_image_size_in_voxels"] = [max(1, round(m * f)) for m, f in zip(median, factors, strict=True)]
    settings["data_identifier"] += "_" + "x".join(f"{value:.9g}" for value in spacing) + "mm"
    settings["spacing"] = [float(value) for value in spacing]


def _check_sizes(settings: Mapping[str, Any], chosen: Variant) -> None:
    patch, strides = settings["patch_size"], settings["architecture"]["arch_kwargs"]["strides"]
    multiples = [math.prod(axis) for axis in zip(*strides, strict=True)]
    for axis, (size, multiple) in enumerate(zip(patch, multiples, strict=True)):
        if size % multiple:
            raise PartialError(
                f"patch size {list(patch)}, in the plans' axis order: axis {axis} must be a multiple of {multiple}"
            )
    if math.prod(patch) == math.prod(multiples):
        raise PartialError(
            f"patch size {list(patch)}: one voxel is left at the lowest resolution, where nothing can be normalised; "
            "choose a larger patch or fewer stages"
        )
    if settings["batch_size"] < chosen.smallest_batch:
        raise PartialError(
            f"batch size {settings['batch_size']}: {chosen.network} needs at least {chosen.smallest_batch}"
        )
