"""Which classes of a case get a score, and which one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nnunet_partial.evaluation import Confusion, class_masks, score_class
from nnunet_partial.labels import ABSENT, PRESENT, UNKNOWN

SHAPE = (10, 9, 8)


def cube(low, high):
    mask = np.zeros(SHAPE, bool)
    mask[low:high, low:high, low:high] = True
    return mask


NOTHING = np.zeros(SHAPE, bool)


def score(reference, prediction, known=None, annotated=True, tolerance=2.0):
    return score_class(
        "liver", reference, prediction, known, annotated=annotated, spacing_mm=(1, 1, 1), nsd_tolerance_mm=tolerance
    )


def test_perfect_prediction_is_scored_one():
    result = score(cube(2, 6), cube(2, 6))
    assert (result.status, result.dice, result.nsd) == ("scored", 1.0, 1.0)
    assert result.confusion == Confusion(tp=64, fp=0, fn=0, tn=720 - 64)
    assert (result.reference_voxels, result.predicted_voxels, result.unknown_voxels) == (64, 64, 0)


def test_perfect_prediction_of_an_unannotated_class_gets_no_score():
    result = score(cube(2, 6), cube(2, 6), annotated=False)
    assert result.status == "not annotated"
    assert (result.dice, result.nsd, result.confusion) == (None, None, None)
    assert result.predicted_voxels == 64


def test_prediction_of_an_annotated_but_absent_organ_is_scored_zero():
    result = score(NOTHING, cube(2, 6))
    assert (result.status, result.dice, result.nsd) == ("scored", 0.0, 0.0)


def test_missed_organ_is_scored_zero():
    result = score(cube(2, 6), NOTHING)
    assert (result.status, result.dice, result.nsd) == ("scored", 0.0, 0.0)


def test_absent_and_not_predicted_is_a_true_negative():
    result = score(NOTHING, NOTHING)
    assert result.status == "true negative"
    assert math.isnan(result.dice) and math.isnan(result.nsd)
    assert result.confusion == Confusion(0, 0, 0, 720)


def test_only_known_voxels_count():
    known = np.zeros(SHAPE, bool)
    known[:4] = True
    result = score(cube(2, 6), cube(3, 7), known)
    # known slices x = 2 and 3: the reference has 32 voxels there; of the 16 predicted at x = 3, 9 are hit
    assert result.confusion == Confusion(tp=9, fp=7, fn=23, tn=4 * 72 - 39)
    assert result.dice == pytest.approx(18 / 48)
    assert (result.reference_voxels, result.predicted_voxels, result.unknown_voxels) == (32, 64, 6 * 72)


def test_surface_is_not_scored_at_the_rim_of_what_is_known():
    known = np.ones(SHAPE, bool)
    assert score(cube(2, 6), cube(2, 6), known).nsd == 1.0
    known[0, 0, 0] = False
    result = score(cube(2, 6), cube(2, 6), known)
    assert (result.dice, result.nsd) == (1.0, None)
    assert score(NOTHING, NOTHING, known).nsd is None


def test_surface_is_not_scored_without_tolerance():
    assert score(cube(2, 6), cube(2, 6), tolerance=None).nsd is None


def test_class_of_which_nothing_is_known_counts_as_not_annotated():
    result = score(NOTHING, cube(2, 6), NOTHING)
    assert result.status == "not annotated"
    assert (result.predicted_voxels, result.unknown_voxels) == (64, 720)


def test_prediction_outside_of_what_is_known_is_a_true_negative():
    known = ~cube(1, 7)
    result = score(NOTHING, cube(2, 6), known)
    assert (result.status, result.predicted_voxels) == ("true negative", 64)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_class_masks_equal_the_table_voxel_by_voxel(dtype):
    rng = np.random.default_rng(0)
    states = rng.choice(np.array([PRESENT, ABSENT, UNKNOWN], np.int8), (6, 4))
    label_map = np.asfortranarray(rng.integers(0, 6, (7, 6, 5)).astype(dtype))
    for index in range(4):
        present, known = class_masks(label_map, states, index)
        for voxel, value in np.ndenumerate(label_map):
            assert present[voxel] == (states[value, index] == PRESENT)
            assert known[voxel] == (states[value, index] != UNKNOWN)


def test_outside_of_the_image_nothing_is_known():
    states = np.array([[ABSENT], [PRESENT]], np.int8)
    present, known = class_masks(np.array([[-1, 0], [1, -1]], np.int16), states, 0)
    assert present.tolist() == [[False, False], [True, False]]
    assert known.tolist() == [[False, True], [True, False]]


def test_value_beyond_the_table_is_refused():
    with pytest.raises(IndexError, match="label value 2"):
        class_masks(np.array([[0, 2]]), np.zeros((2, 1), np.int8), 0)
