"""A small network for small machines: nnU-Net's plans with fewer and narrower stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from nnunet_partial.errors import PartialError

__all__ = ["shrink_plans"]


def shrink_plans(
    plans: Mapping[str, Any],
    name: str,
    *,
    configuration: str = "3d_fullres",
    patch_size: Sequence[int],
    features: Sequence[int],
    batch_size: int = 2,
) -> dict[str, Any]:
    """Plans with the same preprocessing and a smaller network of the same kind.

    Preprocessed data stay valid: only patch size, batch size and the width and number of stages change.

    Args:
        plans: Content of an nnU-Net plans file.
        name: Name of the new plans; save them as NAME.json beside the old ones.
        configuration: The configuration to keep; others are left out.
        patch_size: Patch size in voxels, in the plans' axis order.
        features: Channels of each stage, highest resolution first; its length is the number of stages.
        batch_size: Batch size.

    Returns:
        The new plans.

    Raises:
        PartialError: There are more stages than in the plans, or the patch cannot be halved that often.
    """
    shrunk = deepcopy(dict(plans))
    chosen = shrunk["configurations"][configuration]
    kwargs = chosen["architecture"]["arch_kwargs"]
    stages = len(features)
    if stages > kwargs["n_stages"]:
        raise PartialError(f"plans '{plans['plans_name']}' have {kwargs['n_stages']} stages, {stages} were asked for")
    for key, length in (("kernel_sizes", stages), ("strides", stages), ("n_conv_per_stage", stages)):
        if key in kwargs:
            kwargs[key] = kwargs[key][:length]
    if "n_blocks_per_stage" in kwargs:
        kwargs["n_blocks_per_stage"] = kwargs["n_blocks_per_stage"][:stages]
    kwargs["n_conv_per_stage_decoder"] = kwargs["n_conv_per_stage_decoder"][: stages - 1]
    kwargs["features_per_stage"] = list(features)
    kwargs["n_stages"] = stages
    for axis, size in enumerate(patch_size):
        factor = 1
        for stride in kwargs["strides"]:
            factor *= stride[axis]
        if size % factor:
            raise PartialError(f"patch size {list(patch_size)}: axis {axis} must be a multiple of {factor}")
    chosen["patch_size"], chosen["batch_size"] = list(patch_size), batch_size
    shrunk["plans_name"] = name
    shrunk["configurations"] = {configuration: chosen}
    return shrunk
