"""Metrics of one structure in one case, from boolean masks: confusion counts, Dice, IoU, surface agreement."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Confusion", "confusion", "dice", "iou", "normalised_surface_distance"]

# Spacings from files are rounded to float32: without slack, surfaces 2 mm apart miss a tolerance of 2 mm.
_ROUNDING_MM = 1e-4


@dataclass(frozen=True)
class Confusion:
    """Voxel counts of a structure.

    Attributes:
        tp: In the reference and predicted.
        fp: Predicted, not in the reference.
        fn: In the reference, not predicted.
        tn: Neither.
    """

    tp: int
    fp: int
    fn: int
    tn: int


def confusion(
    reference: npt.NDArray[np.bool_], prediction: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_] | None = None
) -> Confusion:
    """Counts agreement over the voxels where the reference is known.

    Args:
        reference: Structure in the reference, any shape.
        prediction: Predicted structure, same shape.
        known: Voxels where somebody looked, same shape; None where that is all of them.

    Returns:
        The counts; they add up to the number of known voxels.

    Raises:
        ValueError: The shapes differ.
    """
    if reference.shape != prediction.shape or (known is not None and known.shape != reference.shape):
        raise ValueError(
            f"expected masks of one shape, found reference {reference.shape}, prediction {prediction.shape}, "
            f"known {None if known is None else known.shape}"
        )
    if known is not None:
        reference = reference & known
        prediction = prediction & known
    total = reference.size if known is None else int(np.count_nonzero(known))
    tp = int(np.count_nonzero(reference & prediction))
    fp = int(np.count_nonzero(prediction)) - tp
    fn = int(np.count_nonzero(reference)) - tp
    return Confusion(tp, fp, fn, total - tp - fp - fn)


def dice(counts: Confusion) -> float:
    """Dice coefficient, 2 TP / (2 TP + FP + FN), in [0, 1].

    Returns:
        The coefficient; NaN where reference and prediction are both empty, as in nnU-Net: it is undefined then.
    """
    denominator = 2 * counts.tp + counts.fp + counts.fn
    return 2 * counts.tp / denominator if denominator else math.nan


def iou(counts: Confusion) -> float:
    """Intersection over union, TP / (TP + FP + FN), in [0, 1]; NaN where both are empty."""
    denominator = counts.tp + counts.fp + counts.fn
    return counts.tp / denominator if denominator else math.nan


def normalised_surface_distance(
    reference: npt.NDArray[np.bool_],
    prediction: npt.NDArray[np.bool_],
    spacing_mm: Sequence[float],
    tolerance_mm: float = 2.0,
) -> float:
    """Share of both surfaces that lies within a tolerance of the other one (NSD, surface Dice), in [0, 1].

    Nikolov et al. 2018, arXiv:1809.04430, equation 5: surface elements are those of marching cubes between
    neighbouring voxels, weighted by their area (in 2D by their length) in mm. The image ends where the array
    ends, so a structure that is cut off there has a surface there. A single slice of a volume counts as 2D.

    Args:
        reference: Structure in the reference, (X, Y) or (X, Y, Z).
        prediction: Predicted structure, same shape.
        spacing_mm: Voxel size along each array axis, in mm.
        tolerance_mm: Deviation that is accepted, in mm, 0 or more.

    Returns:
        The score; NaN where both are empty, 0 where one is.

    Raises:
        ValueError: The shapes differ, or the spacing does not fit them.
    """
    if reference.shape != prediction.shape or len(spacing_mm) != reference.ndim or reference.ndim not in (2, 3):
        raise ValueError(
            f"expected two 2D or 3D masks of one shape and one spacing an axis, found shapes {reference.shape} and "
            f"{prediction.shape}, spacing {tuple(spacing_mm)}"
        )
    box = _bounding_box(reference | prediction)
    if box is None:
        return math.nan
    if not reference.any() or not prediction.any():
        return 0.0
    single = next((axis for axis, length in enumerate(reference.shape) if length == 1 and reference.ndim == 3), None)
    masks = [
        np.pad(mask[box], [(int(axis != single),) * 2 for axis in range(mask.ndim)]) for mask in (reference, prediction)
    ]
    spacing = tuple(float(s) for axis, s in enumerate(spacing_mm) if axis != single)
    if single is not None:
        masks = [mask.squeeze(single) for mask in masks]

    import torch
    from monai.metrics import compute_surface_dice

    expected, predicted = (torch.from_numpy(mask)[None, None] for mask in masks)
    with warnings.catch_warnings():
        # MONAI warns of an argument that it passes itself
        warnings.simplefilter("ignore", FutureWarning)
        score = compute_surface_dice(
            y_pred=predicted,
            y=expected,
            class_thresholds=[tolerance_mm + _ROUNDING_MM],
            include_background=True,
            spacing=spacing,
            use_subvoxels=True,
        )
    return float(score.item())


def _bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...] | None:
    """The smallest box that holds all true voxels; None where there are none."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        occupied = np.flatnonzero(mask.any(axis=others))
        if not occupied.size:
            return None
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    return tuple(box)
