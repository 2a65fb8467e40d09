"""Partial-aware evaluation: only structures that were annotated are scored, and nothing else enters a mean."""

from nnunet_partial.evaluation.evaluate import Evaluation, evaluate_folder
from nnunet_partial.evaluation.metrics import Confusion, confusion, dice, iou, normalised_surface_distance
from nnunet_partial.evaluation.overlay import save_overlay, to_ras
from nnunet_partial.evaluation.reference import Reference, prediction_keys, prediction_values, read_reference
from nnunet_partial.evaluation.scoring import CaseScore, ClassScore, class_masks, score_class
from nnunet_partial.evaluation.tables import Tables, make_tables, summary_json

__all__ = [
    "CaseScore",
    "ClassScore",
    "Confusion",
    "Evaluation",
    "Reference",
    "Tables",
    "class_masks",
    "confusion",
    "dice",
    "evaluate_folder",
    "iou",
    "make_tables",
    "normalised_surface_distance",
    "prediction_keys",
    "prediction_values",
    "read_reference",
    "save_overlay",
    "score_class",
    "summary_json",
    "to_ras",
]
