"""Our classes in nnU-Net's words: region labels, so that stock nnU-Net builds, trains and decodes sigmoid heads."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from nnunet_partial.labels.partial_labels import PartialLabels
from nnunet_partial.labels.sidecar import BLOCK, to_json
from nnunet_partial.labels.space import BACKGROUND, LabelSpace

__all__ = ["region_labels", "with_region_labels"]


def region_labels(space: LabelSpace) -> tuple[dict[str, int | list[int]], list[int]]:
    """nnU-Net's `labels` and `regions_class_order` for sigmoid heads, one a class.

    Class c is painted with value c + 1, later classes over earlier ones, so its region in a predicted label map is
    its own value and those of the classes inside it. nnU-Net uses sigmoid heads where a label is a list longer
    than one; a lone value is therefore written twice.

    Args:
        space: The label space; classes stand supersets first.

    Returns:
        `labels` with one region a class, in channel order, and `regions_class_order`.
    """
    names = list(space.classes)
    labels: dict[str, int | list[int]] = {BACKGROUND: 0}
    for index, name in enumerate(names):
        inside = [i + 1 for i, other in enumerate(names) if i > index and space.classes[other] < space.classes[name]]
        values = [index + 1, *inside]
        labels[name] = values if len(values) > 1 else values * 2
    return labels, list(range(1, len(names) + 1))


def with_region_labels(dataset_json: Mapping[str, Any], labels: PartialLabels) -> dict[str, Any]:
    """A copy of dataset.json whose labels are the classes as regions, for the trainer and the model folder."""
    rewritten = deepcopy(dict(dataset_json))
    rewritten["labels"], rewritten["regions_class_order"] = region_labels(labels.space)
    rewritten[BLOCK] = to_json(labels)
    return rewritten
