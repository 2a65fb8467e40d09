"""What was annotated: atoms, classes, annotation sets, the possible-atoms table, and merging datasets by it."""

from nnunet_partial.labels.axes import keep_apart, one_axis_per_source, with_classes
from nnunet_partial.labels.partial_labels import PartialLabels
from nnunet_partial.labels.regions import atom_labels, region_labels, with_atom_labels, with_region_labels
from nnunet_partial.labels.sidecar import (
    BLOCK,
    from_json,
    has_partial_labels,
    load_dataset_json,
    partial_labels_of,
    to_json,
)
from nnunet_partial.labels.sides import Sides, preprocessed_axes
from nnunet_partial.labels.space import LabelSpace
from nnunet_partial.labels.splits import read_splits, stratified_splits
from nnunet_partial.labels.table import ABSENT, PRESENT, UNKNOWN, AnnotationSet

__all__ = [
    "ABSENT",
    "BLOCK",
    "PRESENT",
    "UNKNOWN",
    "AnnotationSet",
    "LabelSpace",
    "PartialLabels",
    "Sides",
    "atom_labels",
    "from_json",
    "has_partial_labels",
    "keep_apart",
    "load_dataset_json",
    "one_axis_per_source",
    "partial_labels_of",
    "preprocessed_axes",
    "read_splits",
    "region_labels",
    "stratified_splits",
    "to_json",
    "with_atom_labels",
    "with_classes",
    "with_region_labels",
]
