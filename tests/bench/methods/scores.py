"""Scores of one training: Dice on held-out cases, and false positives of classes a case's source does not annotate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_partial.evaluation import class_masks, confusion, dice
from tests.bench.methods.collection import Case, Collection, SizeUnit

__all__ = ["dice_of_case", "false_positives", "mean_dice", "unit_of"]

Masks = NDArray[np.bool_]


def _truth(collection: Collection, case: Case, index: int) -> tuple[Masks, Masks]:
    full = collection.full
    return class_masks(case.truth, full.states[full.row_of(case.name)], index)


def dice_of_case(collection: Collection, case: Case, masks: Masks) -> dict[str, float]:
    """Dice of each class that the case is scored on; NaN where it is neither there nor predicted.

    Args:
        collection: The collection.
        case: One of its cases.
        masks: Predicted classes, (C, X, Y, Z).
    """
    scores = {}
    for index, name in enumerate(collection.classes):
        if name in case.scored:
            present, known = _truth(collection, case, index)
            scores[name] = dice(confusion(present, masks[index], known))
    return scores


def mean_dice(by_case: Mapping[str, Mapping[str, float]], classes: tuple[str, ...]) -> dict[str, float | None]:
    """Mean over the cases in which a class has a Dice; None where there is no such case.

    Args:
        by_case: Case to class to Dice, NaN where undefined.
        classes: All classes.
    """
    means: dict[str, float | None] = {}
    for name in classes:
        defined = [scores[name] for scores in by_case.values() if name in scores and not math.isnan(scores[name])]
        means[name] = sum(defined) / len(defined) if defined else None
    return means


def false_positives(collection: Collection, predict: Callable[[Case], Masks]) -> dict[str, dict[str, Any]]:
    """Voxels predicted as a class in cases whose source does not annotate it, and that are something else in truth.

    Args:
        collection: The collection; its probes are looked at.
        predict: Case to predicted classes, (C, X, Y, Z).

    Returns:
        Class to 'cases', the collection's unit ('ml' or 'percent': mean over these cases) and 'rate' (false positives
        over all voxels that are not the class); classes that every probe's source annotates are missing.
    """
    found: dict[str, list[tuple[float, int, int]]] = {}
    for case in collection.probes:
        masks = predict(case)
        voxel = math.prod(case.spacing_mm) / 1000 if collection.size_unit == "ml" else 100 / case.labels.size
        for name in collection.unannotated(case):
            index = collection.classes.index(name)
            present, known = _truth(collection, case, index)
            counts = confusion(present, masks[index], known)
            if counts.fp + counts.tn:
                found.setdefault(name, []).append((counts.fp * voxel, counts.fp, counts.fp + counts.tn))
    return {
        name: {
            "cases": len(rows),
            collection.size_unit: sum(size for size, _, _ in rows) / len(rows),
            "rate": sum(fp for _, fp, _ in rows) / sum(negatives for _, _, negatives in rows),
        }
        for name, rows in found.items()
    }


def unit_of(result: Mapping[str, Any]) -> SizeUnit:
    """In what a training's false positives are told.

    Args:
        result: Content of its JSON file.
    """
    return "percent" if any("percent" in entry for entry in result["false_positives"].values()) else "ml"
