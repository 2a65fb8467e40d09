"""What a prediction says with a protocol that knows fewer classes than the model, and what it copies."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from nnunet_partial.inference.backends.backend import NumpyArrays
from nnunet_partial.inference.label_view import LabelView
from nnunet_partial.inference.model.nnunet_plans import read_plan
from nnunet_partial.inference.model.plan import Decoding, Normalization, PredictionPlan, Resampling
from nnunet_partial.inference.predictor import Prediction, Predictor
from nnunet_partial.inference.preprocessing import Prepared
from nnunet_partial.inference.protocol_view import protocol_view
from nnunet_partial.labels.axes import one_axis_per_source
from nnunet_partial.labels.regions import with_region_labels
from tests.unit.test_protocol_view import labels_of
from tests.unit.tiny_models import make_dataset_json, make_plans

SHAPE = (9, 10, 11)
LINEAR, CUBIC = Resampling("spline", 1, 0, None), Resampling("spline", 3, 0, False)


class Scaled(NumpyArrays):
    """A network whose channels are multiples of the image, less one half."""

    description = "scaled"

    def __init__(self, factors: Sequence[float]) -> None:
        self.outputs = len(factors)
        self.factors = np.array(factors, np.float32).reshape(-1, 1, 1, 1)

    def predict(self, patches: np.ndarray) -> np.ndarray:
        return patches * self.factors - 0.5


@pytest.fixture(params=[LINEAR, CUBIC], ids=["linear", "cubic"])
def plan(request: pytest.FixtureRequest) -> PredictionPlan:
    """Of a model with heads by source, of which a protocol counts some."""
    content = with_region_labels(make_dataset_json(), one_axis_per_source(labels_of()))
    found = read_plan(make_plans(), content, configuration="3d_fullres", trainer="t", mirror_axes=None)
    return replace(
        found,
        spacing_mm=(1.5, 1.5, 1.5),
        transpose_forward=(0, 1, 2),
        normalizations=(Normalization("NoNormalization"),),
        logit_resampling=request.param,
    )


def view_of(plan: PredictionPlan) -> LabelView:
    view = protocol_view(plan.dataset_json, plan.decoding, "btcv")
    assert 0 < len(view.channels) < len(plan.decoding.values)
    return view


def factors_of(plan: PredictionPlan) -> list[float]:
    """Positive and negative, of the channels that count as of the others."""
    channels = len(plan.decoding.values)
    return [(-1) ** number * (1 + number / channels) for number in range(channels)]


def image() -> np.ndarray:
    low = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)
    return np.cumsum(low, axis=1, dtype=np.float32)


@pytest.mark.parametrize("mode", ["exact", "paper"])
def test_a_protocol_changes_label_maps_and_nothing_else(plan: PredictionPlan, mode) -> None:
    view = view_of(plan)
    backend = Scaled(factors_of(plan))
    own, seen = (Predictor(plan, backend, mode, view=given) for given in (None, view))
    given = image(), (1.0, 1.0, 1.0)
    predictions = [predictor.predicted(*given) for predictor in (own, seen)]
    assert predictions[1].logits.shape[0] == len(plan.decoding.values)
    probabilities = [dict(prediction.probabilities()) for prediction in predictions]
    assert list(probabilities[1]) == list(plan.decoding.names) == list(probabilities[0])
    masks = [dict(prediction.masks()) for prediction in predictions] + [dict(seen.masks(*given))]
    for found in masks:
        assert list(found) == list(plan.decoding.names)
    for name in plan.decoding.names:
        np.testing.assert_array_equal(probabilities[1][name], probabilities[0][name])
        for found in masks[1:]:
            np.testing.assert_array_equal(found[name], masks[0][name])
    # by hand from the masks: of the channels that count the last one that is there
    expected = np.zeros(SHAPE, np.uint8)
    for name, value in zip(view.decoding.names, view.decoding.values, strict=True):
        expected[masks[0][name]] = value
    np.testing.assert_array_equal(predictions[1].labels(), expected)
    np.testing.assert_array_equal(seen(*given), expected)
    assert set(np.unique(expected)) == {0, 3, 4}
    np.testing.assert_array_equal(predictions[0].labels(), own(*given))
    assert (own(*given) != expected).any()


def test_probabilities_of_classes_beyond_the_protocol_are_those_of_their_channels(plan: PredictionPlan) -> None:
    plan = replace(plan, spacing_mm=(1.0, 1.0, 1.0))
    factors = factors_of(plan)
    found = Predictor(plan, Scaled(factors), view=view_of(plan)).predicted(image(), (1.0, 1.0, 1.0))
    for (_, probability), factor in zip(found.probabilities(), factors, strict=True):
        np.testing.assert_allclose(probability, expit(factor * image()[0] - 0.5), atol=1e-5)


@pytest.mark.parametrize("with_view", [False, True])
def test_label_maps_of_stored_logits_do_not_copy_them(plan: PredictionPlan, with_view: bool) -> None:
    channels, shape, new_shape = 40, (64, 24, 24), (64, 32, 32)
    names = tuple(map(str, range(channels)))
    plan = replace(plan, decoding=Decoding(False, tuple(range(channels)), names, channels - 1))
    view = LabelView(tuple(range(1, channels)), Decoding(False, tuple(range(1, channels)), names[1:], channels - 1))
    logits = np.zeros((channels, *shape), np.float32)
    logits[7, :20] = 1
    box = tuple(slice(0, n) for n in new_shape)
    prepared = Prepared(np.zeros((1, *shape), np.float32), new_shape, box, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    prediction = Prediction(Predictor(plan, Scaled([]), view=view if with_view else None), prepared, logits)
    labels = prediction.labels()
    assert (labels[:20] == 7).all()
    assert (labels[20:] == with_view).all()
    tracemalloc.start()
    prediction.labels()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.7 * logits.nbytes
