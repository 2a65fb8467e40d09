"""The naive loss against loops in float64 that share no code with it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_partial.losses.naive import NaiveLoss
from tests.unit.loss_tables import (
    assert_two_ranks_equal_one,
    full_batch,
    loss_and_gradient,
    random_batch,
)


def by_loops(logits: torch.Tensor, labels: torch.Tensor, table: torch.Tensor) -> tuple[float, np.ndarray]:
    """Cross-entropy and batch Dice voxel by voxel, 'present' or else absent, and their gradient by hand."""
    batch, classes = logits.shape[:2]
    space = list(np.ndindex(*logits.shape[2:]))
    loss, gradient = 0.0, np.zeros(logits.shape)
    for c in range(classes):
        places = [(b, c, *index) for b in range(batch) for index in space]
        targets = []
        for b, _, *index in places:
            value = int(labels[(b, 0, *index)])
            targets.append(float(value >= 0 and int(table[b, value, c]) == 1))
        p = [1 / (1 + math.exp(-logits[place].item())) for place in places]
        overlap = sum(q * t for q, t in zip(p, targets, strict=True))
        denominator = sum(p) + sum(targets)
        loss -= 2 * overlap / denominator
        for place, q, t in zip(places, p, targets, strict=True):
            loss -= math.log(q if t else 1 - q) / len(space)
            by_probability = -2 * t / denominator + 2 * overlap / denominator**2
            gradient[place] = (q - t) / len(space) + by_probability * q * (1 - q)
    return loss, gradient


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(5, 4, 3), (6, 7), (1, 1, 1)])
def test_equals_loops_on_random_tables(shape: tuple[int, ...], seed: int) -> None:
    batch = random_batch(seed, shape=shape)
    value, gradient = loss_and_gradient(NaiveLoss(), *batch)
    expected, expected_gradient = by_loops(*batch)
    assert value == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-12, rtol=1e-9)


def test_everything_annotated_equals_bce_and_batch_dice() -> None:
    (logits, labels, table), onehot = full_batch(0)
    logits.requires_grad_()
    p, axes = torch.sigmoid(logits), (0, 2, 3, 4)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, onehot, reduction="none")
    dice = 2 * (p * onehot).sum(axes) / (p.sum(axes) + onehot.sum(axes))
    expected = cross_entropy.sum() / onehot[0, 0].numel() - dice.sum()
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    value, gradient = loss_and_gradient(NaiveLoss(), logits, labels, table)
    assert value == pytest.approx(expected.item(), abs=1e-9)
    np.testing.assert_allclose(gradient, expected_gradient.numpy(), atol=1e-12, rtol=1e-9)


def test_an_unlabelled_case_teaches_that_there_is_nothing() -> None:
    logits, labels, table = random_batch(3)
    value, gradient = loss_and_gradient(NaiveLoss(), logits, labels, torch.full_like(table, -1))
    p = torch.sigmoid(logits)
    voxels = logits[0, 0].numel()
    assert value == pytest.approx(-torch.log1p(-p).sum().item() / voxels, abs=1e-9)
    np.testing.assert_allclose(gradient, (p / voxels).numpy(), rtol=1e-9)


def test_outside_of_the_image_is_background() -> None:
    logits, labels, table = random_batch(5)
    outside = loss_and_gradient(NaiveLoss(), logits, torch.full_like(labels, -1), table)
    absent = loss_and_gradient(NaiveLoss(), logits, torch.zeros_like(labels), torch.zeros_like(table))
    assert outside[0] == absent[0]
    assert (outside[1] == absent[1]).all()


def test_the_table_is_left_as_it_was() -> None:
    logits, labels, table = random_batch(6)
    before = table.clone()
    NaiveLoss()(logits, labels, table)
    assert (table == before).all()


def test_two_ranks_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    assert_two_ranks_equal_one(NaiveLoss(), tmp_path)
