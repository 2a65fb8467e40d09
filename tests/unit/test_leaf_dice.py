"""The label-set Dice losses against loops over voxels, and the property that defines them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nnunet_partial.losses.leaf_dice import LeafDiceLoss
from nnunet_partial.trainers import PartialLabelTrainerLeafDice, PartialLabelTrainerMarginalDice
from tests.unit.atom_tables import (
    SHAPES,
    assert_equals,
    everything,
    full_batch,
    label_set,
    loss_and_gradient,
    probabilities,
    protocol,
    random_batch,
    rolled_within_label_sets,
)

EPSILON = 1e-5


def leaf_by_loops(p: torch.Tensor, sets: dict) -> torch.Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for a in range(len(p)):
        overlap, size, told = torch.zeros((), dtype=torch.float64), EPSILON, False
        for place, s in sets.items():
            if s == {a}:
                overlap, size, told = overlap + p[(a, *place)], size + 1 + p[(a, *place)], True
            elif a not in s:
                size, told = size + p[(a, *place)], True
        total = total + (1 - 2 * overlap / size if told else 0.0)
    return total / len(p)


def marginal_by_loops(p: torch.Tensor, sets: dict) -> torch.Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for a in range(len(p) if sets else 0):
        overlap, size = torch.zeros((), dtype=torch.float64), EPSILON
        for place, s in sets.items():
            phi = sum(p[(c, *place)] for c in s) / len(s) if a in s else p[(a, *place)]
            target = 1 / len(s) if a in s else 0.0
            overlap, size = overlap + target * phi, size + target + phi
        total = total + 1 - 2 * overlap / size
    return total / len(p)


def by_loops(cross_entropy: bool, kind: str):
    """The loss voxel by voxel; autograd gives its gradient."""

    def loss(logits: torch.Tensor, labels: torch.Tensor, possible: torch.Tensor) -> torch.Tensor:
        p = probabilities(logits)
        samples, size = [], math.prod(logits.shape[2:])
        for case in range(len(logits)):
            sets = {place: label_set(labels, possible, case, place) for place in np.ndindex(*logits.shape[2:])}
            sets = {place: s for place, s in sets.items() if s != everything(possible)}
            total = {"leaf": leaf_by_loops, "marginal": marginal_by_loops}[kind](p[case], sets)
            for place, s in sets.items() if cross_entropy else ():
                total = total - p[(case, sorted(s), *place)].sum().log() / size
            samples.append(total)
        return sum(samples) / len(samples)

    return loss


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["leaf", "marginal"])
@pytest.mark.parametrize("cross_entropy", [False, True])
def test_equals_loops(seed: int, shape: tuple[int, ...], kind: str, cross_entropy: bool) -> None:
    assert_equals(LeafDiceLoss(cross_entropy, kind), by_loops(cross_entropy, kind), random_batch(seed, shape=shape))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["leaf", "marginal"])
def test_probability_moved_within_label_sets_changes_nothing(seed: int, kind: str) -> None:
    """The axiom of a label-set loss."""
    logits, labels, possible = random_batch(seed)
    moved = rolled_within_label_sets(probabilities(logits), labels, possible).log()
    assert not torch.allclose(moved.softmax(1), logits.softmax(1))
    for cross_entropy in (False, True):
        before, _ = loss_and_gradient(LeafDiceLoss(cross_entropy, kind), logits, labels, possible)
        after, _ = loss_and_gradient(LeafDiceLoss(cross_entropy, kind), moved, labels, possible)
        assert after == pytest.approx(before, abs=1e-12)


@pytest.mark.parametrize("kind", ["leaf", "marginal"])
def test_everything_annotated_equals_cross_entropy_and_mean_class_dice(kind: str) -> None:
    batch, onehot = full_batch(0)

    def ordinary(logits: torch.Tensor, labels: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        p = logits.softmax(1)
        dice = 2 * (p * onehot).sum((2, 3, 4)) / ((p + onehot).sum((2, 3, 4)) + EPSILON)
        return torch.nn.functional.cross_entropy(logits, labels[:, 0]) + 1 - dice.mean()

    assert_equals(LeafDiceLoss(kind=kind), ordinary, batch)


def test_leaf_dice_of_merged_kidneys_by_hand() -> None:
    """Value 1 is a kidney of either side, so the sides are told of outside of it alone."""
    logits = torch.zeros(1, 3, 4, dtype=torch.float64)
    labels = torch.tensor([[[0, 0, 0, 1]]])
    value, _ = loss_and_gradient(LeafDiceLoss(cross_entropy=False), logits, labels, protocol(3, (0,), (1, 2)))
    background = 2 * 1 / (3 + 4 / 3 + EPSILON)
    assert value == pytest.approx(1 - background / 3, abs=1e-12)


def test_marginal_dice_of_merged_kidneys_by_hand() -> None:
    logits = torch.tensor([[[2.0], [1.0], [0.0]]], dtype=torch.float64).log_softmax(1).expand(1, 3, 4)
    labels = torch.tensor([[[0, 0, 0, 1]]])
    loss = LeafDiceLoss(cross_entropy=False, kind="marginal")
    value, _ = loss_and_gradient(loss, logits, labels, protocol(3, (0,), (1, 2)))
    b, left, right = logits[0, :, 0].exp().tolist()
    side = (left + right) / 2
    dice = 2 * 3 * b / (3 + 4 * b + EPSILON)
    dice += 2 * 0.5 * side / (0.5 + 3 * left + side + EPSILON)
    dice += 2 * 0.5 * side / (0.5 + 3 * right + side + EPSILON)
    assert value == pytest.approx(1 - dice / 3, abs=1e-12)


def test_atom_that_is_never_told_of_has_no_part() -> None:
    """Values 0 and 1 leave atoms 0 and 2 open together; atom 1 alone is decided."""
    logits = torch.zeros(1, 3, 2, dtype=torch.float64)
    labels = torch.tensor([[[0, 0]]])
    value, gradient = loss_and_gradient(LeafDiceLoss(cross_entropy=False), logits, labels, protocol(3, (0, 2), (1,)))
    assert value == pytest.approx(1 / 3, abs=1e-12)
    assert (gradient == 0).all()


def test_each_kind_has_a_trainer() -> None:
    recipes = PartialLabelTrainerLeafDice.recipe, PartialLabelTrainerMarginalDice.recipe
    losses = [recipe.loss() for recipe in recipes]
    assert [(loss.kind, loss.cross_entropy) for loss in losses] == [("leaf", True), ("marginal", True)]


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind: expected one of"):
        LeafDiceLoss(kind="generalised")
