"""The marginal and exclusion losses against loops over voxels and tables written by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nnunet_partial.losses.marginal import MarginalExclusionLoss
from tests.unit.atom_tables import (
    SHAPES,
    Batch,
    assert_equals,
    everything,
    full_batch,
    label_set,
    loss_and_gradient,
    probabilities,
    protocol,
    random_batch,
)


def marginal_by_loops(p: torch.Tensor, sets: dict, case_sets: set[frozenset[int]], size: int) -> torch.Tensor:
    """Marginal cross-entropy and Dice of one case."""
    total = torch.zeros((), dtype=torch.float64)
    for place, s in sets.items():
        total = total - p[(sorted(s), *place)].sum().log() / size
    groups = []
    for g in sorted(case_sets, key=len):
        told = all(s <= g or not s & g for s in sets.values())
        if told and frozenset().union(*(h for h in groups if h < g)) != g:
            groups.append(g)
    for g in groups if sets else []:
        overlap, size_of_both = torch.zeros((), dtype=torch.float64), 0.0
        for place, s in sets.items():
            predicted = p[(sorted(g), *place)].sum()
            overlap = overlap + predicted * (s <= g)
            size_of_both = size_of_both + predicted + (s <= g)
        total = total + (1 - (2 * overlap + 1e-5) / (size_of_both + 1e-5)) / len(groups)
    return total


def exclusion_by_loops(p: torch.Tensor, sets: dict, size: int) -> torch.Tensor:
    """Exclusion Dice and cross-entropy of one case."""
    terms = []
    for a in range(len(p)):
        excluding = [place for place, s in sets.items() if 0 not in s and a not in s]
        if excluding:
            overlap = sum(p[(a, *place)] for place in excluding)
            predicted = sum(p[(a, *place)] for place in sets)
            cross_entropy = sum((p[(a, *place)] + 1).log() for place in excluding) / size
            terms.append(2 * overlap / (predicted + len(excluding)) + cross_entropy)
    return sum(terms) / len(terms) if terms else torch.zeros((), dtype=torch.float64)


def by_loops(weight: float = 1.0):
    """The loss voxel by voxel; autograd gives its gradient."""

    def loss(logits: torch.Tensor, labels: torch.Tensor, possible: torch.Tensor) -> torch.Tensor:
        p = probabilities(logits)
        samples, anything, size = [], everything(possible), math.prod(logits.shape[2:])
        for case in range(len(logits)):
            case_sets = {frozenset(row.nonzero().flatten().tolist()) for row in possible[case]} - {anything}
            sets = {place: label_set(labels, possible, case, place) for place in np.ndindex(*logits.shape[2:])}
            sets = {place: s for place, s in sets.items() if s != anything}
            marginal = marginal_by_loops(p[case], sets, case_sets, size)
            samples.append(marginal + weight * exclusion_by_loops(p[case], sets, size))
        return sum(samples) / len(samples)

    return loss


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_equals_loops(seed: int, shape: tuple[int, ...], weight: float) -> None:
    assert_equals(MarginalExclusionLoss(weight), by_loops(weight), random_batch(seed, shape=shape))


def dice_loss(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    dice = [(2 * (p * y).sum() + 1e-5) / (p.sum() + y.sum() + 1e-5) for p, y in pairs]
    return 1 - torch.stack(dice).mean()


def liver_batch() -> Batch:
    """Atoms background, liver, spleen, kidney; only the liver is annotated."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 4, 4, 4, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (1, 1, 4, 4, 4), generator=generator)
    return logits, labels, protocol(4, (0, 2, 3), (1,))


def test_liver_dataset_by_hand() -> None:
    def by_hand(logits: torch.Tensor, labels: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        p, liver = probabilities(logits)[0], (labels[0, 0] == 1).double()
        merged = p[0] + p[2] + p[3]
        marginal = -(liver * p[1].log() + (1 - liver) * merged.log()).mean()
        marginal = marginal + dice_loss([(p[1], liver), (merged, 1 - liver)])
        exclusion = [
            2 * (p[a] * liver).sum() / (p[a].sum() + liver.sum()) + (liver * (p[a] + 1).log()).mean() for a in (0, 2, 3)
        ]
        return marginal + torch.stack(exclusion).mean()

    assert_equals(MarginalExclusionLoss(), by_hand, liver_batch())


def test_merged_kidneys_by_hand() -> None:
    """Value 1 is a kidney of either side: it excludes background and spleen, and neither side."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(1, 4, 5, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (1, 1, 5, 5), generator=generator)

    def by_hand(logits: torch.Tensor, labels: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        p, y = probabilities(logits)[0], (labels[0, 0] == 1).double()
        rest, kidney = p[0] + p[3], p[1] + p[2]
        marginal = -torch.where(y > 0, kidney, rest).log().mean() + dice_loss([(rest, 1 - y), (kidney, y)])
        exclusion = [2 * (p[a] * y).sum() / (p[a].sum() + y.sum()) + (y * (p[a] + 1).log()).mean() for a in (0, 3)]
        return marginal + (exclusion[0] + exclusion[1]) / 2

    assert_equals(MarginalExclusionLoss(), by_hand, (logits, labels, protocol(4, (0, 3), (1, 2))))


def test_everything_annotated_equals_cross_entropy_and_dice() -> None:
    batch, onehot = full_batch(0)

    def ordinary(logits: torch.Tensor, labels: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        p = logits.softmax(1)
        dice = [dice_loss(list(zip(p[case], onehot[case], strict=True))) for case in range(2)]
        return torch.nn.functional.cross_entropy(logits, labels[:, 0]) + torch.stack(dice).mean()

    assert_equals(MarginalExclusionLoss(exclusion_weight=0.0), ordinary, batch)


def test_background_excludes_nothing() -> None:
    logits, labels, table = liver_batch()
    labels = torch.zeros_like(labels)
    with_exclusion = loss_and_gradient(MarginalExclusionLoss(), logits, labels, table)
    without = loss_and_gradient(MarginalExclusionLoss(0.0), logits, labels, table)
    assert with_exclusion[0] == without[0]
    np.testing.assert_array_equal(with_exclusion[1], without[1])


def test_exclusion_falls_as_probability_leaves_the_excluded_voxels() -> None:
    """The spleen may not be where the liver is, and may be where the liver is not."""
    logits, labels, table = liver_batch()
    marginal, both = (loss_and_gradient(MarginalExclusionLoss(w), logits, labels, table)[1] for w in (0.0, 1.0))
    spleen = (both - marginal)[0, 2]
    liver = (labels[0, 0] == 1).numpy()
    assert (spleen[liver] > 0).all()
    assert (spleen[~liver] < 0).all()


def test_voxels_outside_the_image_have_no_gradient() -> None:
    logits, labels, table = liver_batch()
    labels[0, 0, 0] = -1
    _, gradient = loss_and_gradient(MarginalExclusionLoss(), logits, labels, table)
    assert (gradient[0, :, 0] == 0).all()
    assert (gradient[0, :, 1:] != 0).all()
