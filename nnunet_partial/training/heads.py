"""What the network's channels mean: one sigmoid a class, or one softmax over the atoms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nnunet_partial.errors import LabelError
from nnunet_partial.inference.predictor import Prediction
from nnunet_partial.labels import UNKNOWN, PartialLabels, with_atom_labels, with_region_labels

__all__ = ["SIGMOID", "SOFTMAX", "Heads", "known_states"]


class Heads(Protocol):
    """One way to use the channels of a network.

    Attributes:
        name: Its name.
        units: What the channels stand for, 'Classes' or 'Atoms'.
    """

    name: str
    units: str

    def check(self, labels: PartialLabels) -> None:
        """Raises LabelError where a label space does not fit these heads."""

    def dataset_json(self, dataset_json: Mapping[str, Any], labels: PartialLabels) -> dict[str, Any]:
        """A copy of dataset.json from which stock nnU-Net builds and decodes these heads."""

    def channels(self, labels: PartialLabels) -> tuple[str, ...]:
        """Names of the channels, in order."""

    def table(self, labels: PartialLabels, implied_negatives: bool) -> npt.NDArray[Any]:
        """What the loss looks up: (S, V, channels), set by set."""

    def found(self, logits: Tensor, labels: PartialLabels) -> Tensor:
        """Where each class is predicted: bool (B, C, *S) of logits (B, channels, *S)."""

    def masks(self, prediction: Prediction, labels: PartialLabels) -> Iterator[npt.NDArray[np.bool_]]:
        """Masks (z, y, x) of the classes in the image, one after the other, in the order of the classes."""


def known_states(labels: PartialLabels, implied_negatives: bool) -> npt.NDArray[np.int8]:
    """States of the classes with or without what other classes' labels imply.

    Without, a class counts only in cases that annotate it, as if nobody had noticed that a liver voxel is no spleen
    (loss masking; Jenke et al. 2024, ablation of section 3.3).

    Returns:
        (S, V, C): 1 present, 0 absent, -1 unknown.
    """
    if implied_negatives:
        return labels.states
    return np.where(labels.annotated[:, None, :], labels.states, np.int8(UNKNOWN))


class _SigmoidHeads:
    """One channel a class; classes may overlap."""

    name, units = "sigmoid", "Classes"

    def __repr__(self) -> str:
        return self.name

    def check(self, labels: PartialLabels) -> None:
        pass  # any label space will do

    def dataset_json(self, dataset_json: Mapping[str, Any], labels: PartialLabels) -> dict[str, Any]:
        return with_region_labels(dataset_json, labels)

    def channels(self, labels: PartialLabels) -> tuple[str, ...]:
        return labels.class_names

    def table(self, labels: PartialLabels, implied_negatives: bool) -> npt.NDArray[Any]:
        return known_states(labels, implied_negatives)

    def found(self, logits: Tensor, labels: PartialLabels) -> Tensor:
        return logits > 0

    def masks(self, prediction: Prediction, labels: PartialLabels) -> Iterator[npt.NDArray[np.bool_]]:
        return (mask for _, mask in prediction.masks())


class _SoftmaxHeads:
    """One channel an atom, background first; a class is predicted where the likeliest atom belongs to it."""

    name, units = "softmax", "Atoms"

    def __repr__(self) -> str:
        return self.name

    def check(self, labels: PartialLabels) -> None:
        if len(labels.space.axes) > 1:
            raise LabelError(
                f"softmax heads need one axis, on which every voxel is one atom; the dataset has "
                f"{sorted(labels.space.axes)}. Train with sigmoid heads, e.g. -tr PartialLabelTrainer"
            )

    def dataset_json(self, dataset_json: Mapping[str, Any], labels: PartialLabels) -> dict[str, Any]:
        return with_atom_labels(dataset_json, labels)

    def channels(self, labels: PartialLabels) -> tuple[str, ...]:
        return labels.space.atoms

    def table(self, labels: PartialLabels, implied_negatives: bool) -> npt.NDArray[Any]:
        return labels.possible

    def found(self, logits: Tensor, labels: PartialLabels) -> Tensor:
        members = torch.from_numpy(labels.space.class_matrix).to(logits.device)
        # (C, A) looked up by the likeliest atom: (C, B, *S)
        return members[:, logits.argmax(1)].transpose(0, 1)

    def masks(self, prediction: Prediction, labels: PartialLabels) -> Iterator[npt.NDArray[np.bool_]]:
        atoms = prediction.labels()
        for members in labels.space.class_matrix:
            yield np.asarray(members[atoms], bool)


SIGMOID: Heads = _SigmoidHeads()
SOFTMAX: Heads = _SoftmaxHeads()
