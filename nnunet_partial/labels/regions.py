"""Our classes and atoms in nnU-Net's words, so that stock nnU-Net builds and decodes sigmoid or softmax heads."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from nnunet_partial.errors import LabelError
from nnunet_partial.labels.partial_labels import PartialLabels
from nnunet_partial.labels.sidecar import BLOCK, to_json
from nnunet_partial.labels.space import BACKGROUND, LabelSpace

__all__ = ["atom_labels", "region_labels", "with_atom_labels", "with_region_labels"]

_IGNORE = "ignore"


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


def atom_labels(space: LabelSpace) -> dict[str, int]:
    """nnU-Net's `labels` for a softmax over the atoms: atom a has value and channel a, the background 0.

    Args:
        space: A label space of one axis.

    Raises:
        LabelError: There are several axes, or an atom has a name that nnU-Net keeps for itself.
    """
    if len(space.axes) > 1:
        raise LabelError(f"a softmax needs one axis of exclusivity, the label space has {sorted(space.axes)}")
    if _IGNORE in space.atoms or BACKGROUND in space.atoms[1:]:
        raise LabelError(f"softmax heads: an atom cannot be called '{_IGNORE}' or '{BACKGROUND}'; rename it")
    return {BACKGROUND: 0, **{atom: value for value, atom in enumerate(space.atoms) if value > 0}}


def with_atom_labels(dataset_json: Mapping[str, Any], labels: PartialLabels) -> dict[str, Any]:
    """A copy of dataset.json whose labels are the atoms, for trainers with softmax heads and their model folders."""
    rewritten = deepcopy(dict(dataset_json))
    rewritten["labels"] = atom_labels(labels.space)
    rewritten.pop("regions_class_order", None)
    rewritten[BLOCK] = to_json(labels)
    return rewritten
