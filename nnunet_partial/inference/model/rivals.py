"""Which classes exclude each other, so that the most probable one can be written instead of the last one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nnunet_partial.inference.model.plan import Decoding, PredictionPlan

__all__ = ["competing", "with_competition"]


def competing(dataset_json: Mapping[str, Any], decoding: Decoding) -> Decoding:
    """The same channels, of which those that exclude each other compete: the one with the highest logit is written.

    Jenke et al. (IJCARS 2024, section 2.2) take the class of the highest sigmoid output, and background where that is
    not above one half. Here classes may overlap, so only those compete that exclude each other: no voxel can be both.

    Args:
        dataset_json: Of the model. Its block `partial_labels` says which classes exclude each other: those of one axis
            without a common atom; without a block, regions without a common value do.
        decoding: Of the model; the channels of a softmax compete by themselves.

    Raises:
        LabelError: The block `partial_labels` contradicts itself.
    """
    if not decoding.regions:
        return decoding
    from nnunet_partial.labels.sidecar import has_partial_labels, partial_labels_of

    if has_partial_labels(dataset_json):
        space = partial_labels_of(dataset_json, "the model's dataset.json").space
        if decoding.names == tuple(space.classes):
            return replace(decoding, rivals=tuple(tuple(map(int, row.nonzero()[0])) for row in space.exclusive))
    regions = [_values(dataset_json["labels"][name]) for name in decoding.names]
    channels = range(len(regions))
    rivals = (tuple(other for other in channels if not regions[other] & region) for region in regions)
    return replace(decoding, rivals=tuple(rivals))


def with_competition(plan: PredictionPlan, compete: bool | None) -> PredictionPlan:
    """A model whose classes compete, or do not.

    Args:
        plan: Of the model.
        compete: See `competing`; None leaves the model as it is.
    """
    if compete is None:
        return plan
    if compete:
        return replace(plan, decoding=competing(plan.dataset_json, plan.decoding))
    return replace(plan, decoding=replace(plan.decoding, rivals=None))


def _values(entry: int | Sequence[int]) -> frozenset[int]:
    """The values of an entry of nnU-Net's labels."""
    return frozenset(map(int, entry if isinstance(entry, (list, tuple)) else (entry,)))
