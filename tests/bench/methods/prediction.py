"""From the logits of one or several networks to masks of the declared classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnunet_partial.errors import PartialError
from nnunet_partial.labels import LabelSpace, PartialLabels
from nnunet_partial.labels.regions import region_labels
from nnunet_partial.training import SIGMOID, Recipe

__all__ = ["DECODINGS", "ChannelLogits", "class_masks_of", "compete", "painted"]

DECODINGS = ("threshold", "argmax", "painted")
"""'threshold': each class where its probability exceeds one half. 'argmax': of classes that exclude each other only
the most probable one keeps a voxel (Jenke et al. 2024, sections 2.1 and 3.2). 'painted': what is read from nnU-Net's
label map, into which later classes are painted over earlier ones. Softmax heads have no threshold: all are the argmax
over the atoms."""


@dataclass(frozen=True)
class ChannelLogits:
    """What one network says of a volume.

    Attributes:
        recipe: What it was trained with.
        labels: The label space it was trained on.
        logits: (channels, X, Y, Z).
        modality: Of the cases it was trained on; '' for several.
    """

    recipe: Recipe
    labels: PartialLabels
    logits: Tensor
    modality: str = ""

    def channels(self, name: str, modality: str = "") -> list[Tensor]:
        """Logits of a class: its own channel, or heads `SOURCE.CLASS` of sources kept apart.

        Args:
            name: The class.
            modality: Only channels that were trained on this modality; '' for all.
        """
        modality_of = {entry.source: entry.modality for entry in self.labels.sets.values()}
        found = []
        for index, channel in enumerate(self.recipe.heads.channels(self.labels)):
            source = "" if channel == name else channel.split(".", 1)[0]
            trained_on = modality_of.get(source, self.modality)
            if name in (channel, channel.split(".", 1)[-1]) and modality in ("", trained_on or modality):
                found.append(self.logits[index])
        return found


def class_masks_of(
    outputs: Sequence[ChannelLogits], labels: PartialLabels, modality: str = ""
) -> dict[str, NDArray[np.bool_]]:
    """Masks of the declared classes, (C, X, Y, Z), one array a decoding.

    The probability of a class is the mean over all its channels: heads `SOURCE.CLASS` of sources kept apart, and the
    networks that have the class; where some of them were trained on the modality of the image, over these.

    Args:
        outputs: One entry a network; several only with sigmoid heads.
        labels: The declared label model.
        modality: Of the image; '' where that does not matter.

    Raises:
        PartialError: No network has a channel for a class.
    """
    if outputs[0].recipe.heads is not SIGMOID:
        only = outputs[0]
        found = only.recipe.heads.found(only.logits[None], only.labels)[0].numpy()
        return dict.fromkeys(DECODINGS, found)
    probabilities = np.stack([_probability(outputs, name, modality) for name in labels.class_names])
    above = probabilities > 0.5
    return {
        "threshold": above,
        "argmax": above & compete(probabilities, labels.space.exclusive),
        "painted": painted(above, labels.space),
    }


def compete(probabilities: NDArray[np.float32], exclusive: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where no class that excludes a class is more probable.

    Overlapping classes (a tumour and its organ) do not compete. For classes that all exclude each other this is the
    argmax.

    Args:
        probabilities: (C, X, Y, Z).
        exclusive: (C, C), see `LabelSpace.exclusive`.
    """
    winners = np.ones(probabilities.shape, bool)
    for index, rivals in enumerate(exclusive):
        if rivals.any():
            winners[index] = probabilities[index] >= probabilities[rivals].max(0)
    return winners


def painted(found: NDArray[np.bool_], space: LabelSpace) -> NDArray[np.bool_]:
    """The masks that are read from a label map into which classes are painted in their order.

    Args:
        found: (C, X, Y, Z).
        space: Of these classes.
    """
    label_map = np.zeros(found.shape[1:], int)
    regions, values = region_labels(space)
    for mask, value in zip(found, values, strict=True):
        label_map[mask] = value
    return np.stack([np.isin(label_map, regions[name]) for name in space.classes])


def _probability(outputs: Sequence[ChannelLogits], name: str, modality: str) -> NDArray[np.float32]:
    all_channels = [channel for output in outputs for channel in output.channels(name)]
    channels = [channel for output in outputs for channel in output.channels(name, modality)] or all_channels
    if not channels:
        raise PartialError(f"no network has a channel for class '{name}'; no source annotates it, or none was trained")
    mean: NDArray[np.float32] = torch.stack(channels).sigmoid().mean(0).numpy()
    return mean
