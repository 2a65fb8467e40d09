"""Scores of one case: which structures can be scored at all, and how well they were found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from nnunet_partial.evaluation.metrics import Confusion, confusion, dice, normalised_surface_distance
from nnunet_partial.labels.table import PRESENT, UNKNOWN

__all__ = [
    "NOT_ANNOTATED",
    "SCORED",
    "TRUE_NEGATIVE",
    "CaseScore",
    "ClassScore",
    "Status",
    "class_masks",
    "score_class",
]

Status = Literal["scored", "true negative", "not annotated"]
SCORED: Status = "scored"
TRUE_NEGATIVE: Status = "true negative"
NOT_ANNOTATED: Status = "not annotated"


@dataclass(frozen=True)
class ClassScore:
    """How well one class was found in one case.

    Attributes:
        class_name: The class.
        status: 'scored'; 'true negative' (annotated, neither in the reference nor predicted where it is known);
            or 'not annotated'.
        dice: In [0, 1]; NaN for a true negative (undefined), None where not annotated.
        nsd: In [0, 1]; NaN for a true negative, None where not annotated or not computed.
        confusion: Voxel counts over the known voxels; None where not annotated.
        reference_voxels: Known voxels of the class in the reference.
        predicted_voxels: Predicted voxels of the class in the whole case, known or not, annotated or not.
        unknown_voxels: Voxels of the case where nothing is known of the class.
    """

    class_name: str
    status: Status
    dice: float | None
    nsd: float | None
    confusion: Confusion | None
    reference_voxels: int
    predicted_voxels: int
    unknown_voxels: int


@dataclass(frozen=True)
class CaseScore:
    """The scores of one case.

    Attributes:
        case: Its identifier.
        source: The dataset it came from.
        patient: The patient; the case itself where unknown.
        reference_file: Label map of the reference.
        prediction_file: Predicted label map.
        classes: One entry a class, annotated or not.
    """

    case: str
    source: str
    patient: str
    reference_file: str
    prediction_file: str
    classes: tuple[ClassScore, ...]


def score_class(
    class_name: str,
    reference: npt.NDArray[np.bool_],
    prediction: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_] | None,
    *,
    annotated: bool,
    spacing_mm: Sequence[float],
    nsd_tolerance_mm: float | None = 2.0,
) -> ClassScore:
    """Scores one class of one case.

    A class is 'not annotated', and gets no score whatever was predicted, where the case's annotation set does not
    annotate it or where none of its voxels is known. The surface is scored only where every voxel is known: at the
    rim of what is known, a surface means nothing.

    Args:
        class_name: The class.
        reference: Voxels of the class in the reference, (X, Y) or (X, Y, Z).
        prediction: Predicted voxels, same shape.
        known: Voxels where the reference says whether it is the class, same shape; None where all are known.
        annotated: Whether the case's annotation set annotates the class (`PartialLabels.annotated`).
        spacing_mm: Voxel size along each array axis, in mm.
        nsd_tolerance_mm: Tolerance of the surface score, in mm; None leaves it out.

    Returns:
        The score.

    Raises:
        ValueError: The shapes differ.
    """
    counts = confusion(reference, prediction, known)
    known_voxels = counts.tp + counts.fp + counts.fn + counts.tn
    unknown_voxels = reference.size - known_voxels
    reference_voxels = counts.tp + counts.fn
    predicted_voxels = int(np.count_nonzero(prediction))
    if not annotated or known_voxels == 0:
        return ClassScore(
            class_name, NOT_ANNOTATED, None, None, None, reference_voxels, predicted_voxels, unknown_voxels
        )
    is_defined = counts.tp + counts.fp + counts.fn > 0
    nsd = None
    if nsd_tolerance_mm is not None and unknown_voxels == 0:
        nsd = (
            normalised_surface_distance(reference, prediction, spacing_mm, nsd_tolerance_mm) if is_defined else math.nan
        )
    return ClassScore(
        class_name,
        SCORED if is_defined else TRUE_NEGATIVE,
        dice(counts),
        nsd,
        counts,
        reference_voxels,
        predicted_voxels,
        unknown_voxels,
    )


def class_masks(
    label_map: npt.NDArray[np.integer], states_row: npt.NDArray[np.int8], class_index: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """What a label map says of one class.

    Args:
        label_map: Label values, any shape; -1 (outside of the image) counts as nothing known.
        states_row: (V, C), `PartialLabels.states` of the case's annotation set.
        class_index: Column of the class.

    Returns:
        Where the class is present, and where it is known whether it is; both of the label map's shape.

    Raises:
        IndexError: The label map holds values above V - 1.
    """
    # value -1 picks the entry appended here
    column = np.append(states_row[:, class_index], np.int8(UNKNOWN))
    if label_map.max(initial=0) >= len(states_row):
        raise IndexError(f"label value {label_map.max()} is not in the table, which ends at {len(states_row) - 1}")
    # indexing, not take(): NumPy then converts the indices piece by piece instead of making an 8-byte copy
    states = column[label_map]
    return states == PRESENT, states != UNKNOWN
