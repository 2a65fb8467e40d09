"""The selected partial loss against loops in float64 that share no code with it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_partial.losses.selected import SelectedPartialLoss
from tests.unit.loss_tables import (
    assert_two_ranks_equal_one,
    full_batch,
    known_voxels,
    loss_and_gradient,
    random_batch,
)


def by_loops(
    logits: torch.Tensor, labels: torch.Tensor, table: torch.Tensor, optional: tuple[int, ...] | None = None
) -> tuple[float, np.ndarray]:
    """Equation 2 pair by pair, and its gradient by hand."""
    voxels = int(np.prod(logits.shape[2:]))
    total, pairs, gradient = 0.0, 0, np.zeros(logits.shape)
    for case, c in np.ndindex(*logits.shape[:2]):
        known = list(known_voxels(labels, table, case, c))
        annotated = bool((table[case, :, c] >= 0).any())
        if optional is not None and c not in optional:
            seen = dict(known)
            known = [((case, c, *i), seen.get((case, c, *i), 0.0)) for i in np.ndindex(*logits.shape[2:])]
            annotated = True
        if not annotated:
            continue
        pairs += 1
        p = {place: 1 / (1 + math.exp(-logits[place].item())) for place, _ in known}
        overlap = sum(p[place] * target for place, target in known)
        denominator = sum(p[place] + target for place, target in known)
        for place, target in known:
            q = p[place]
            total -= math.log(q if target else 1 - q) / voxels
            by_probability = -2 * target / denominator + 2 * overlap / denominator**2
            gradient[place] = (q - target) / voxels + by_probability * q * (1 - q)
        total -= 2 * overlap / denominator if known else 0.0
    return total / max(pairs, 1), gradient / max(pairs, 1)


@pytest.mark.parametrize("optional", [None, (), (0, 2)])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(5, 4, 3), (6, 7), (1, 1, 1)])
def test_equals_loops_on_random_tables(shape: tuple[int, ...], seed: int, optional: tuple[int, ...] | None) -> None:
    logits, labels, table = random_batch(seed, shape=shape)
    table[0, :, seed] = -1
    value, gradient = loss_and_gradient(SelectedPartialLoss(optional), logits, labels, table)
    expected, expected_gradient = by_loops(logits, labels, table, optional)
    assert value == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("optional", [None, (), (1,)])
def test_everything_annotated_equals_mean_bce_and_image_dice(optional: tuple[int, ...] | None) -> None:
    (logits, labels, table), onehot = full_batch(0)
    logits.requires_grad_()
    p = torch.sigmoid(logits)
    dice = 2 * (p * onehot).sum((2, 3, 4)) / (p.sum((2, 3, 4)) + onehot.sum((2, 3, 4)))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, onehot) - dice.mean()
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    value, gradient = loss_and_gradient(SelectedPartialLoss(optional), logits, labels, table)
    assert value == pytest.approx(expected.item(), abs=1e-9)
    np.testing.assert_allclose(gradient, expected_gradient.numpy(), atol=1e-9, rtol=0)


def test_dice_is_that_of_each_image() -> None:
    """A class that is large in one image and tiny in the other counts by images, not by voxels."""
    logits = torch.zeros(2, 1, 10, dtype=torch.float64)
    labels = torch.zeros(2, 1, 10, dtype=torch.int64)
    labels[0, 0, :9] = 1
    labels[1, 0, :1] = 1
    table = torch.tensor([[[0], [1]]] * 2, dtype=torch.int8)
    value, _ = loss_and_gradient(SelectedPartialLoss(), logits, labels, table)
    large, tiny = 2 * 4.5 / (5 + 9), 2 * 0.5 / (5 + 1)
    assert value == pytest.approx(math.log(2) - (large + tiny) / 2, abs=1e-12)


def test_a_patch_without_the_annotated_class_teaches_that_there_is_none() -> None:
    logits = torch.full((1, 1, 4, 4), -1.0, dtype=torch.float64)
    table = torch.tensor([[[0], [1]]], dtype=torch.int8)
    labels = torch.zeros(1, 1, 4, 4, dtype=torch.int64)
    value, gradient = loss_and_gradient(SelectedPartialLoss(), logits, labels, table)
    p = 1 / (1 + math.e)
    assert value == pytest.approx(-math.log(1 - p), abs=1e-12)
    np.testing.assert_allclose(gradient, p / 16, rtol=1e-12)


def test_pairs_that_are_not_annotated_do_not_count_in_the_mean() -> None:
    logits, labels, table = random_batch(1, classes=2, unknown=0.0)
    alone, _ = loss_and_gradient(SelectedPartialLoss(), logits[:, :1], labels, table[:, :, :1])
    table[:, :, 1] = -1
    assert loss_and_gradient(SelectedPartialLoss(), logits, labels, table)[0] == pytest.approx(alone, abs=1e-12)


def test_unknown_voxels_of_an_annotated_pair_count_in_the_size_of_the_image() -> None:
    logits = torch.zeros(1, 1, 8, dtype=torch.float64)
    labels = torch.tensor([[[0, 0, -1, -1, 1, 1, 1, 1]]])
    table = torch.tensor([[[0], [-1]]], dtype=torch.int8)
    value, gradient = loss_and_gradient(SelectedPartialLoss(), logits, labels, table)
    assert value == pytest.approx(2 * math.log(2) / 8, abs=1e-12)
    assert gradient[0, 0].tolist() == [0.5 / 8] * 2 + [0.0] * 6


def test_an_annotated_pair_counts_though_the_patch_shows_nothing_known_of_it() -> None:
    """What is annotated is declared for the case; a patch of slices that nobody looked at does not change it."""
    logits = torch.zeros(2, 1, 8, dtype=torch.float64)
    labels = torch.cat([torch.zeros(1, 1, 8), torch.full((1, 1, 8), -1.0)]).long()
    table = torch.zeros(2, 1, 1, dtype=torch.int8)
    value, _ = loss_and_gradient(SelectedPartialLoss(), logits, labels, table)
    assert value == pytest.approx(math.log(2) / 2, abs=1e-12)


def test_classes_that_are_not_optional_are_absent_where_unknown() -> None:
    logits, labels, table = random_batch(2, unknown=1.0)
    value, gradient = loss_and_gradient(SelectedPartialLoss(optional=(0, 1, 3)), logits, labels, table)
    p = torch.sigmoid(logits[:, 2])
    assert value == pytest.approx(-torch.log1p(-p).mean().item(), abs=1e-9)
    np.testing.assert_allclose(gradient[:, 2], (p / p.numel()).numpy(), rtol=1e-9)
    assert (gradient[:, [0, 1, 3]] == 0).all()


def test_optional_classes_must_exist() -> None:
    with pytest.raises(ValueError, match=r"optional: expected classes of 0 to 3, got \[4\]"):
        SelectedPartialLoss(optional=(1, 4))(*random_batch(0))


def test_two_ranks_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    assert_two_ranks_equal_one(SelectedPartialLoss(), tmp_path)
