"""The implicit-label loss against loops in float64 that share no code with it, and its positive weights."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_partial.losses.implicit import ImplicitLabelLoss, positive_weights_of
from tests.unit.loss_tables import (
    assert_two_ranks_equal_one,
    full_batch,
    known_voxels,
    loss_and_gradient,
    random_batch,
)

WEIGHTS = (0.3, 1.0, 12.5, 4000.0)


def by_loops(
    logits: torch.Tensor, labels: torch.Tensor, table: torch.Tensor, weights: tuple[float, ...]
) -> tuple[float, np.ndarray]:
    """Equations 1 and 2 voxel by voxel, and their gradient by hand."""
    batch, classes = logits.shape[:2]
    loss, gradient = 0.0, np.zeros(logits.shape)
    for c in range(classes):
        known = [voxel for case in range(batch) for voxel in known_voxels(labels, table, case, c)]
        for place, target in known:
            p = 1 / (1 + math.exp(-logits[place].item()))
            share = 1 / len(known) / classes
            loss -= share * (weights[c] * math.log(p) if target else math.log(1 - p))
            gradient[place] = share * (weights[c] * (p - 1) if target else p)
    return loss, gradient


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(5, 4, 3), (6, 7), (1, 1, 1)])
def test_equals_loops_on_random_tables(shape: tuple[int, ...], seed: int, weights: tuple[float, ...] | None) -> None:
    batch = random_batch(seed, shape=shape)
    batch[2][:, :, seed] = -1
    loss = ImplicitLabelLoss(None if weights is None else torch.tensor(weights, dtype=torch.float64))
    value, gradient = loss_and_gradient(loss, *batch)
    expected, expected_gradient = by_loops(*batch, weights or (1.0,) * 4)
    assert value == pytest.approx(expected, rel=0, abs=1e-9)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("weights", [None, (0.5, 3.0, 20.0)])
def test_everything_annotated_equals_torchs_weighted_bce(weights: tuple[float, ...] | None) -> None:
    (logits, labels, table), onehot = full_batch(0)
    logits.requires_grad_()
    pos_weight = None if weights is None else torch.tensor(weights).view(3, 1, 1, 1)
    expected = torch.nn.BCEWithLogitsLoss(pos_weight=pos_weight)(logits, onehot)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    value, gradient = loss_and_gradient(ImplicitLabelLoss(weights), logits, labels, table)
    assert value == pytest.approx(expected.item(), abs=1e-9)
    np.testing.assert_allclose(gradient, expected_gradient.numpy(), atol=1e-12, rtol=1e-9)


def test_voxels_of_another_class_are_known_negatives() -> None:
    """One image shows class 0, the other class 1; only the positives of each say anything of the other's class."""
    logits = torch.zeros(2, 2, 4, dtype=torch.float64)
    labels = torch.tensor([[[0, 0, 0, 1]], [[0, 0, 2, 2]]])
    table = torch.tensor([[[0, -1], [1, 0], [-1, -1]], [[-1, 0], [-1, -1], [0, 1]]], dtype=torch.int8)
    value, gradient = loss_and_gradient(ImplicitLabelLoss([3.0, 2.0]), logits, labels, table)
    # class 0: four voxels of its image, one of them positive, and two implied; class 1: four, two positive, one implied
    first, second = (3 + 5) * math.log(2) / 6, (2 * 2 + 3) * math.log(2) / 5
    assert value == pytest.approx((first + second) / 2, abs=1e-12)
    np.testing.assert_allclose(gradient[1, 0], [0, 0, 0.5 / 12, 0.5 / 12], atol=1e-15)
    np.testing.assert_allclose(gradient[0, 1], [0, 0, 0, 0.5 / 10], atol=1e-15)
    np.testing.assert_allclose(gradient[0, 0], [0.5 / 12] * 3 + [-1.5 / 12], atol=1e-15)


@pytest.mark.parametrize("seed", range(4))
def test_calibrated_equals_loops_of_shifted_logits(seed: int) -> None:
    logits, labels, table = random_batch(seed)
    shifted = logits + torch.tensor(WEIGHTS, dtype=torch.float64).log().view(4, 1, 1, 1)
    loss = ImplicitLabelLoss(torch.tensor(WEIGHTS, dtype=torch.float64), calibrated=True)
    value, gradient = loss_and_gradient(loss, logits, labels, table)
    expected, expected_gradient = by_loops(shifted, labels, table, WEIGHTS)
    assert value == pytest.approx(expected, rel=0, abs=1e-9)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("calibrated", [True, False])
def test_where_the_loss_is_least(calibrated: bool) -> None:
    """One voxel in ten is positive: with its weight, at the logit of a tenth, or of one half where not calibrated."""
    labels = torch.tensor([[[1, *[0] * 9]]])
    table = torch.tensor([[[0], [1]]], dtype=torch.int8)
    least = math.log(1 / 9) if calibrated else 0.0
    logits = torch.full((1, 1, 10), least, dtype=torch.float64)
    loss = ImplicitLabelLoss(torch.tensor([9.0], dtype=torch.float64), calibrated=calibrated)
    _, gradient = loss_and_gradient(loss, logits, labels, table)
    assert gradient.sum() == pytest.approx(0, abs=1e-12)


def test_without_weights_calibrated_changes_nothing() -> None:
    batch = random_batch(0)
    expected = loss_and_gradient(ImplicitLabelLoss(), *batch)
    value, gradient = loss_and_gradient(ImplicitLabelLoss(calibrated=True), *batch)
    assert value == expected[0]
    np.testing.assert_array_equal(gradient, expected[1])


def test_a_class_with_no_known_voxel_adds_nothing_and_still_counts() -> None:
    logits, labels, table = random_batch(1, classes=2, unknown=0.0)
    alone, _ = loss_and_gradient(ImplicitLabelLoss(), logits[:, :1], labels, table[:, :, :1])
    table[:, :, 1] = -1
    assert loss_and_gradient(ImplicitLabelLoss(), logits, labels, table)[0] == pytest.approx(alone / 2, abs=1e-12)


def test_images_count_by_their_known_voxels() -> None:
    logits = torch.tensor([[[0.0, 0.0, 0.0]], [[2.0, 2.0, 2.0]]], dtype=torch.float64)
    labels = torch.tensor([[[0, 0, 0]], [[0, -1, -1]]])
    value, _ = loss_and_gradient(ImplicitLabelLoss(), logits, labels, torch.zeros(2, 1, 1, dtype=torch.int8))
    assert value == pytest.approx((3 * math.log(2) + math.log1p(math.exp(2))) / 4, abs=1e-12)


def test_positive_weights_are_a_buffer() -> None:
    given = torch.tensor([2.0, 3.0])
    loss = ImplicitLabelLoss(given)
    given[0] = 7
    assert dict(loss.named_buffers())["positive_weights"].tolist() == [2.0, 3.0]
    assert not list(loss.parameters())
    assert loss.to(torch.float64).positive_weights.dtype == torch.float64


@pytest.mark.parametrize("weights", [[1.0, 0.0], [1.0, -2.0], [1.0, math.inf], [math.nan, 1.0], torch.ones(2, 2)])
def test_weights_that_are_none_are_refused(weights: torch.Tensor | list[float]) -> None:
    with pytest.raises(ValueError, match="positive_weights: expected a finite number above 0"):
        ImplicitLabelLoss(weights)


def test_every_class_needs_a_weight() -> None:
    with pytest.raises(ValueError, match="positive_weights: expected 4, one for each class, got 3"):
        ImplicitLabelLoss([1.0, 2.0, 3.0])(*random_batch(0))


def test_two_ranks_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    assert_two_ranks_equal_one(ImplicitLabelLoss(WEIGHTS, calibrated=True), tmp_path)


def test_weights_are_negatives_to_positives_with_implied_negatives() -> None:
    counts = np.array([[90, 10, 0], [60, 0, 40]])
    states = np.array([[[0, -1], [1, 0], [0, 1]], [[-1, 0], [1, 0], [0, 1]]], np.int8)
    # class 0: 90 labelled negatives and 40 implied ones to 10; class 1: 60 and 10 to 40
    assert positive_weights_of(counts, states).tolist() == [130 / 10, 70 / 40]


def test_weights_of_random_tables_equal_loops() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 1 << 40, (6, 5))
    states = rng.integers(-1, 2, (6, 5, 3)).astype(np.int8)
    expected = []
    for c in range(3):
        voxels = {-1: 0, 0: 0, 1: 0}
        for case, value in np.ndindex(6, 5):
            voxels[int(states[case, value, c])] += int(counts[case, value])
        expected.append(voxels[0] / voxels[1])
    np.testing.assert_allclose(positive_weights_of(counts, states), expected, rtol=1e-12)


def test_classes_without_positives_or_without_negatives_weigh_one() -> None:
    counts = np.array([[5, 0, 7]])
    states = np.array([[[0, -1, -1], [1, 1, 0], [0, -1, 1]]], np.int8)
    assert positive_weights_of(counts, states).tolist() == [1.0, 1.0, 1.0]
    loss = ImplicitLabelLoss(positive_weights_of(counts, states).tolist())
    assert loss.positive_weights is not None


def test_weights_balance_the_gradient() -> None:
    """At p = 1/2 the positive and the negative voxels of each class pull equally."""
    _, labels, table = random_batch(4, shape=(6, 6, 6))
    counts = np.stack([np.bincount(case[case >= 0], minlength=5) for case in labels.numpy()])
    weights = positive_weights_of(counts, table.numpy())
    assert (weights != 1).all()
    loss = ImplicitLabelLoss(torch.from_numpy(weights))
    _, gradient = loss_and_gradient(loss, torch.zeros(2, 4, 6, 6, 6, dtype=torch.float64), labels, table)
    np.testing.assert_allclose(gradient.sum((0, 2, 3, 4)), 0, atol=1e-12)
