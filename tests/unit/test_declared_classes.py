"""Masks and probabilities of the classes that softmax models declare, by hand and against SciPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax

from nnunet_partial.inference.backends.backend import NumpyArrays
from nnunet_partial.inference.full_resolution import probabilities_of_channels
from nnunet_partial.inference.model.declared_classes import declared_classes
from nnunet_partial.inference.model.exported_model import export_model, load_exported
from nnunet_partial.inference.model.nnunet_plans import read_decoding, read_plan
from nnunet_partial.inference.predictor import Prediction, Predictor
from nnunet_partial.inference.preprocessing import Prepared
from nnunet_partial.inference.protocol_view import protocol_view
from nnunet_partial.inference.writing.segmentation_nrrd import layers_of_masks
from nnunet_partial.labels import AnnotationSet, LabelSpace, PartialLabels
from nnunet_partial.labels.regions import with_atom_labels, with_region_labels
from tests.unit.tiny_models import make_dataset_json, make_plans, write_model

ATOMS = ("background", "liver_tissue", "liver_tumour", "spleen")
LIVER = frozenset({"liver_tissue", "liver_tumour"})
SPACE = LabelSpace(
    {"anatomy": ATOMS},
    {"liver": LIVER, "liver_tumour": frozenset({"liver_tumour"}), "spleen": frozenset({"spleen"})},
)
EVERYTHING = SPACE.everything
LABELS = PartialLabels(
    SPACE,
    {
        "btcv": AnnotationSet("btcv", "btcv", "CT", {0: EVERYTHING - LIVER, 6: LIVER}),
        "lits": AnnotationSet(
            "lits",
            "lits",
            "CT",
            {0: EVERYTHING - LIVER, 1: frozenset({"liver_tissue"}), 2: frozenset({"liver_tumour"})},
        ),
    },
    {"a": "btcv", "b": "lits"},
)
CHANNELS = {"liver": (1, 2), "liver_tumour": (2,), "spleen": (3,)}
OWN = {"background": 0, "liver": 1, "spleen": 2, "kidney": 3}
CROP = (slice(1, 4), slice(0, 3), slice(2, 4))
SHAPE = (5, 3, 4)


class NoBackend(NumpyArrays):
    outputs = 0
    description = "none"

    def predict(self, patches: np.ndarray) -> np.ndarray:
        raise NotImplementedError


def prediction_of(content, logits, protocol=None) -> Prediction:
    """Of logits (C, 3, 3, 2) at the resolution of an image (5, 3, 4) that is cropped to `CROP`."""
    plan = read_plan(make_plans(), content, configuration="3d_fullres", trainer="t", mirror_axes=None)
    plan = replace(plan, transpose_forward=(0, 1, 2))
    view = None if protocol is None else protocol_view(content, plan.decoding, protocol)
    prepared = Prepared(np.zeros((1, 3, 3, 2), np.float32), SHAPE, CROP, plan.spacing_mm, plan.spacing_mm)
    return Prediction(Predictor(plan, NoBackend(), view=view), prepared, logits)


def softmax_content():
    return with_atom_labels(make_dataset_json(), LABELS)


def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, 3, 3, 2)).astype(np.float32)


@pytest.mark.parametrize("protocol", [None, "btcv", "lits"])
def test_masks_are_those_of_the_classes_with_and_without_protocol(protocol):
    logits = noise()
    best = np.zeros(SHAPE, int)
    best[CROP] = logits.argmax(0)
    masks = dict(prediction_of(softmax_content(), logits, protocol).masks())
    assert list(masks) == ["liver", "liver_tumour", "spleen"]
    for name, channels in CHANNELS.items():
        np.testing.assert_array_equal(masks[name], np.isin(best, channels))
        assert masks[name].any()


def test_label_maps_stay_those_of_atoms_or_of_the_protocol():
    logits = noise()
    atoms = np.zeros(SHAPE, int)
    atoms[CROP] = logits.argmax(0)
    np.testing.assert_array_equal(prediction_of(softmax_content(), logits).labels(), atoms)
    values = np.array([0, 6, 6, 0])
    np.testing.assert_array_equal(prediction_of(softmax_content(), logits, "btcv").labels(), values[atoms])


@pytest.mark.parametrize("protocol", [None, "btcv"])
def test_probabilities_are_sums_and_nothing_outside_of_the_crop(protocol):
    logits = noise()
    expected = softmax(logits.astype(np.float64), axis=0)
    found = dict(prediction_of(softmax_content(), logits, protocol).probabilities())
    assert list(found) == list(CHANNELS)
    for name, channels in CHANNELS.items():
        whole = np.zeros(SHAPE)
        whole[CROP] = expected[list(channels)].sum(0)
        np.testing.assert_allclose(found[name], whole, atol=1e-6)


def test_only_the_background_of_a_stock_model_is_certain_outside_of_the_crop():
    logits = noise()
    found = dict(prediction_of(make_dataset_json(OWN), logits).probabilities())
    assert list(found) == list(OWN)
    np.testing.assert_allclose(sum(found.values()), np.ones(SHAPE), atol=1e-6)
    assert found["background"][0, 0, 0] == 1
    assert found["liver"][0, 0, 0] == 0


def test_sum_of_probabilities_is_never_above_one():
    logits = np.random.default_rng(1).normal(size=(30, 16, 16, 16)).astype(np.float32)
    (every,) = probabilities_of_channels(iter, logits, [range(30)], regions=False)
    assert every.max() == 1
    np.testing.assert_allclose(every, 1, atol=1e-5)


def test_classes_of_a_segmentation_overlap_in_layers():
    logits = np.full((4, 3, 3, 2), -1, np.float32)
    logits[1], logits[2, 0] = 0, 1  # a tumour in the first slice of a liver
    layers, segments = layers_of_masks(prediction_of(softmax_content(), logits).masks())
    assert [segment.name for segment in segments] == ["liver", "liver_tumour", "spleen"]
    assert [segment.layer for segment in segments] == [0, 1, 0]
    liver, tumour = layers[0] == segments[0].value, layers[1] == segments[1].value
    assert liver[CROP].all()
    assert tumour[CROP][0].all()
    assert not tumour[CROP][1:].any()


def test_channels_of_atoms():
    content = softmax_content()
    assert declared_classes(content, read_decoding(content)) == CHANNELS


@pytest.mark.parametrize(
    "content",
    [
        make_dataset_json(),
        with_region_labels(make_dataset_json(), LABELS),
        {**with_atom_labels(make_dataset_json(), LABELS), "labels": OWN},
    ],
    ids=["stock", "regions", "labels of its own"],
)
def test_channels_that_are_no_atoms(content):
    assert declared_classes(content, read_decoding(content)) is None


def test_an_exported_model_knows_its_classes(tmp_path):
    model = write_model(tmp_path / "model", dataset_json=softmax_content())
    export_model(model, tmp_path / "exported", formats=["torch"])
    plan = load_exported(tmp_path / "exported").plan
    assert plan.dataset_json["partial_labels"]["cases"] == {}
    assert declared_classes(plan.dataset_json, plan.decoding) == CHANNELS
