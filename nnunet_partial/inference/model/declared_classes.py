"""The classes of our softmax models: sets of atoms, each of which has a channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnunet_partial.inference.model.plan import Decoding

__all__ = ["declared_classes"]


def declared_classes(dataset_json: Mapping[str, Any], decoding: Decoding) -> dict[str, tuple[int, ...]] | None:
    """Which channels of a softmax over atoms make up each class that the dataset declares.

    The liver, say, is healthy tissue and tumour, each an atom with a channel of its own, and it is found where one of
    these is the likeliest.

    Args:
        dataset_json: Of the model, or of an exported one.
        decoding: Of the model.

    Returns:
        Class to the channels of its atoms, rising; classes may overlap and none has the background. None where channels
        are no atoms: one is a class by itself, with its region or label.

    Raises:
        LabelError: The block `partial_labels` of the dataset.json contradicts itself.
    """
    from nnunet_partial.labels.sidecar import has_partial_labels, partial_labels_of

    if decoding.regions or not has_partial_labels(dataset_json):
        return None
    space = partial_labels_of(dataset_json, "the model's dataset.json").space
    # nnU-Net calls the first channel 'background', whatever the axis calls its atom
    if len(space.axes) > 1 or decoding.names[1:] != space.atoms[1:]:
        return None
    return {
        name: tuple(channel for channel, atom in enumerate(space.atoms) if atom in atoms)
        for name, atoms in space.classes.items()
    }
