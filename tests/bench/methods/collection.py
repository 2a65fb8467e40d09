"""A collection: partly labelled training cases, the full truth that is hidden behind them, and cases to score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nnunet_partial.labels import AnnotationSet, LabelSpace, PartialLabels
from nnunet_partial.labels.space import DEFAULT_AXIS, supersets_first

__all__ = ["Case", "Collection", "Protocol", "SizeUnit", "label_model", "normalised"]

SizeUnit = Literal["ml", "percent"]
"""Of false positives: mL, or percent of the image."""


@dataclass(frozen=True)
class Protocol:
    """What a source annotates.

    Attributes:
        modality: 'CT', 'MR' or 'RGB'.
        labels: Label name to the atoms it could be, in the order of the label values 1, 2, ...
        every_slice: Only every n-th axial slice was annotated; 1 for all of them.
    """

    modality: str
    labels: Mapping[str, tuple[str, ...]]
    every_slice: int = 1

    def annotate(self, atoms: NDArray[np.integer], names: Sequence[str]) -> NDArray[np.int16]:
        """The label map an annotator draws.

        Args:
            atoms: Index into `names`, (X, Y, Z).
            names: The atoms.
        """
        value_of_atom = np.zeros(len(names), np.int16)
        for value, covered in enumerate(self.labels.values(), start=1):
            value_of_atom[[names.index(atom) for atom in covered]] = value
        labels: NDArray[np.int16] = value_of_atom[atoms]
        if self.every_slice > 1:
            skipped = np.arange(labels.shape[2]) % self.every_slice != self.every_slice // 2
            labels[:, :, skipped] = len(self.labels) + 1
        return labels

    def possible(self, names: Sequence[str]) -> dict[int, frozenset[str]]:
        """Label value to the atoms a voxel of it could be."""
        seen = frozenset(atom for covered in self.labels.values() for atom in covered)
        values = {0: frozenset(names) - seen}
        values.update({v: frozenset(covered) for v, covered in enumerate(self.labels.values(), start=1)})
        if self.every_slice > 1:
            values[len(self.labels) + 1] = frozenset(names)
        return values


@dataclass(frozen=True)
class Case:
    """One volume, or one frame as a volume of one slice, whose axes are then (1, H, W).

    Attributes:
        name: Its name.
        image: Normalised intensities, float32 (channels, X, Y, Z), axes of volumes RAS+.
        labels: What its source annotated, int16 (X, Y, Z); -1 where there is no image.
        truth: The fullest labels there are, likewise, with values of `Collection.full`.
        scored: Classes that a prediction is scored on: all, or those hidden from the training.
        spacing_mm: Voxel size; of no meaning for frames.
        focus: Structure that a frame looks at; '' for volumes.
    """

    name: str
    image: NDArray[np.float32]
    labels: NDArray[np.int16]
    truth: NDArray[np.int16]
    scored: tuple[str, ...]
    spacing_mm: tuple[float, float, float]
    focus: str = ""


@dataclass(frozen=True)
class Collection:
    """What one seed of the benchmark works on.

    Attributes:
        name: Its name.
        labels: Label model of the training: what the sources annotate. Holds the training cases.
        full: The same cases, and those to be scored, with everything labelled that is known.
        training: Training cases; unlabelled ones included.
        held_out: Cases on which Dice is measured.
        probes: Cases of the kind trained on whose truth is known, to look for classes that their source does not
            annotate.
        patch: Voxels of a training patch.
        size_unit: In what false positives are told.
    """

    name: str
    labels: PartialLabels
    full: PartialLabels
    training: tuple[Case, ...]
    held_out: tuple[Case, ...]
    probes: tuple[Case, ...]
    patch: tuple[int, int, int]
    size_unit: SizeUnit = "ml"

    @property
    def classes(self) -> tuple[str, ...]:
        """Declared classes."""
        return self.labels.class_names

    def unannotated(self, case: Case) -> tuple[str, ...]:
        """Classes that a training case's source does not annotate."""
        annotated = self.labels.annotated[self.labels.row_of(case.name)]
        return tuple(name for name, known in zip(self.classes, annotated, strict=True) if not known)


def label_model(
    atoms: Sequence[str],
    classes: Mapping[str, tuple[str, ...]],
    protocols: Mapping[str, Protocol],
    cases: Mapping[str, str],
) -> PartialLabels:
    """The label model of sources with one annotation set each.

    Args:
        atoms: Atoms of the only axis, background first.
        classes: Class to its atoms.
        protocols: Source to its protocol.
        cases: Case to its source.
    """
    space = LabelSpace({DEFAULT_AXIS: tuple(atoms)}, supersets_first({n: frozenset(a) for n, a in classes.items()}))
    sets = {
        source: AnnotationSet(source, source, protocol.modality, protocol.possible(atoms))
        for source, protocol in protocols.items()
    }
    return PartialLabels(space, sets, cases)


def normalised(image: NDArray[np.generic], modality: str) -> NDArray[np.float32]:
    """CT by a fixed window, so that HU keep their meaning; MR by the mean and spread of its own tissue; RGB to [-2, 2].

    Args:
        image: HU, arbitrary units, or colours in [0, 1].
        modality: 'CT', 'MR' or 'RGB'.
    """
    values = image.astype(np.float32)
    if modality == "RGB":
        return 4 * values - 2
    if modality == "CT":
        return (np.clip(values, -160, 240) - 40) / np.float32(100)
    tissue = values[values > values.mean() / 2]
    return np.asarray((values - tissue.mean()) / (tissue.std() + 1e-6), np.float32)
