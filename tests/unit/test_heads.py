"""Sigmoid and softmax heads: tables, predicted classes, and decoding against nnU-Net's own label manager."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_partial.errors import LabelError
from nnunet_partial.evaluation import prediction_keys, prediction_values
from nnunet_partial.inference.backends.backend import NumpyArrays
from nnunet_partial.inference.model.nnunet_plans import read_plan
from nnunet_partial.inference.predictor import Prediction, Predictor
from nnunet_partial.inference.preprocessing import Prepared
from nnunet_partial.labels import AnnotationSet, LabelSpace, PartialLabels, one_axis_per_source
from nnunet_partial.training.heads import SIGMOID, SOFTMAX, Heads, known_states
from tests.unit.tiny_models import make_dataset_json, make_plans

SPACE = LabelSpace(
    {"anatomy": ("background", "liver", "tumour", "spleen")},
    {
        "liver": frozenset({"liver", "tumour"}),  # bears the name of one of its atoms
        "tumour": frozenset({"tumour"}),
        "spleen": frozenset({"spleen"}),
    },
)
ALL = SPACE.everything
LABELS = PartialLabels(
    SPACE,
    {
        "lits": AnnotationSet(
            "lits",
            "lits",
            "CT",
            {0: ALL - {"liver", "tumour"}, 1: frozenset({"liver"}), 2: frozenset({"tumour"}), 3: ALL},
        ),
        "spleens": AnnotationSet("spleens", "spleens", "CT", {0: ALL - {"spleen"}, 3: frozenset({"spleen"})}),
    },
    {"a": "lits", "b": "spleens"},
)


def label_manager(content: dict[str, Any]) -> LabelManager:
    return LabelManager(content["labels"], content.get("regions_class_order"))


def decoded(heads: Heads, logits: torch.Tensor) -> tuple[np.ndarray, list[np.ndarray]]:
    """Label map and masks of logits (channels, z, y, x) of an image that has the network's resolution."""
    content = heads.dataset_json(make_dataset_json({"background": 0, "x": 1}), LABELS)
    plan = read_plan(make_plans(), content, configuration="3d_fullres", trainer="t", mirror_axes=None)
    plan = replace(plan, transpose_forward=(0, 1, 2))
    shape = tuple(logits.shape[1:])
    spacing = plan.spacing_mm
    whole = (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
    prepared = Prepared(np.zeros((1, *shape), np.float32), shape, whole, spacing, spacing)
    prediction = Prediction(Predictor(plan, NoBackend()), prepared, logits.numpy())
    return prediction.labels(), list(heads.masks(prediction, LABELS))


class NoBackend(NumpyArrays):
    outputs = 0
    description = "none"

    def predict(self, patches: np.ndarray) -> np.ndarray:
        raise NotImplementedError


@pytest.mark.parametrize("heads", [SIGMOID, SOFTMAX], ids=["sigmoid", "softmax"])
def test_painted_label_map_is_that_of_nnunet(heads: Heads) -> None:
    logits = torch.randn(len(heads.channels(LABELS)), 6, 5, 4, generator=torch.Generator().manual_seed(1))
    content = heads.dataset_json({"labels": {"background": 0, "x": 1}}, LABELS)
    manager = label_manager(content)
    assert manager.num_segmentation_heads == len(heads.channels(LABELS))
    assert manager.has_regions == (heads is SIGMOID)
    expected = np.asarray(manager.convert_logits_to_segmentation(logits))
    painted, masks = decoded(heads, logits)
    np.testing.assert_array_equal(painted, expected)
    if heads is SOFTMAX:  # sigmoid classes may hide each other in the painted map
        for mask, values in zip(masks, [{1, 2}, {2}, {3}], strict=True):
            np.testing.assert_array_equal(mask, np.isin(expected, sorted(values)))


def test_sigmoid_masks_may_overlap() -> None:
    logits = torch.full((3, 1, 1, 2), -1.0)
    logits[0] = 2
    logits[1, ..., 1] = 2
    painted, masks = decoded(SIGMOID, logits)
    assert [mask.ravel().tolist() for mask in masks] == [[True, True], [False, True], [False, False]]
    assert painted.ravel().tolist() == [1, 2]


def test_ties_go_to_the_first_atom_as_in_argmax() -> None:
    painted, _ = decoded(SOFTMAX, torch.zeros(4, 1, 1, 3))
    assert painted.ravel().tolist() == [0, 0, 0]


@pytest.mark.parametrize("heads", [SIGMOID, SOFTMAX], ids=["sigmoid", "softmax"])
def test_found_agrees_with_decoding(heads: Heads) -> None:
    logits = torch.randn(2, len(heads.channels(LABELS)), 4, 3, 2, generator=torch.Generator().manual_seed(2))
    found = heads.found(logits, LABELS)
    assert found.dtype == torch.bool
    for case in range(2):
        for mask, predicted in zip(decoded(heads, logits[case])[1], found[case], strict=True):
            np.testing.assert_array_equal(mask, predicted.numpy())


def test_tables() -> None:
    assert SOFTMAX.table(LABELS, implied_negatives=True).dtype == bool
    assert SOFTMAX.table(LABELS, implied_negatives=True).shape == (2, 4, 4)
    np.testing.assert_array_equal(SIGMOID.table(LABELS, implied_negatives=True), LABELS.states)


def test_masking_only_forgets_what_other_labels_imply() -> None:
    with_implied, without = known_states(LABELS, True), known_states(LABELS, False)
    spleen = LABELS.class_names.index("spleen")
    assert with_implied[0, 1, spleen] == 0  # a liver voxel is no spleen
    assert (without[0, :, spleen] == -1).all()
    np.testing.assert_array_equal(without[1, :, spleen], with_implied[1, :, spleen])
    assert (without[1, :, :2] == -1).all()


def test_evaluation_reads_the_classes_of_a_softmax_model() -> None:
    content = SOFTMAX.dataset_json({"labels": {"background": 0}}, LABELS)
    assert content["labels"] == {"background": 0, "liver": 1, "tumour": 2, "spleen": 3}
    assert prediction_values(content) == {"liver": {1, 2}, "tumour": {2}, "spleen": {3}}
    assert prediction_keys(content) == {"liver": "(1, 2)", "tumour": "2", "spleen": "3"}


def test_a_softmax_over_several_axes_is_refused() -> None:
    apart = one_axis_per_source(LABELS)
    with pytest.raises(LabelError, match="softmax heads need one axis"):
        SOFTMAX.check(apart)
    SIGMOID.check(apart)


def test_an_atom_with_a_name_that_nnunet_keeps_is_refused() -> None:
    space = LabelSpace({"anatomy": ("background", "ignore")}, {"x": frozenset({"ignore"})})
    labels = PartialLabels(space, {"s": AnnotationSet("s", "s", "CT", {0: space.everything})}, {})
    with pytest.raises(LabelError, match="cannot be called 'ignore'"):
        SOFTMAX.dataset_json({"labels": {}}, labels)
