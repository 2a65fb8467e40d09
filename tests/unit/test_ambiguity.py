"""The ambiguity-aware loss against loops over voxels, the paper's equations, and tables written by hand."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_partial.losses.ambiguity import AmbiguityAwareLoss
from nnunet_partial.training.table_loss import TableLoss
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
    regions_of,
    rolled_within_label_sets,
)

NO_ENTROPY = {"entropy_weight": 0.0, "entropy_weight_unannotated": 0.0}


def groups_of(case_sets: set[frozenset[int]], region_sets: set[frozenset[int]]) -> list[frozenset[int]]:
    """Sets of which all label sets of a region tell, and which are no union of smaller such sets."""
    told = [g for g in case_sets if all(s <= g or not s & g for s in region_sets)]
    return [g for g in told if frozenset().union(*(h for h in told if h < g)) != g]


def by_loops(
    gamma: float = 2.0,
    weight: float = 1.0,
    unannotated: float = 3.0,
    slice_axis: int | None = None,
    smoothing: float = 1.0,
):
    """The loss voxel by voxel; autograd gives its gradient."""

    def region_loss(p: torch.Tensor, known: dict, size: int, case_sets: set[frozenset[int]]) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for place, s in known.items():
            q = p[(sorted(s), *place)].sum()
            total = total - (1 - q) ** gamma * q.log() / size
        groups = groups_of(case_sets, set(known.values()))
        for g in groups:
            tp, fp, fn = (torch.zeros((), dtype=torch.float64) for _ in range(3))
            for place, s in known.items():
                predicted = p[(sorted(g), *place)].sum()
                if s <= g:
                    tp, fn = tp + predicted, fn + 1 - predicted
                else:
                    fp = fp + predicted
            total = total + (1 - (2 * tp + smoothing) / (2 * tp + fp + fn + smoothing)) / len(groups)
        return total

    def loss(logits: torch.Tensor, labels: torch.Tensor, possible: torch.Tensor) -> torch.Tensor:
        p = probabilities(logits)
        samples, anything = [], everything(possible)
        for case in range(len(logits)):
            case_sets = {frozenset(row.nonzero().flatten().tolist()) for row in possible[case]} - {anything}
            terms = []
            for region in regions_of(logits.shape[2:], slice_axis):
                sets = {place: label_set(labels, possible, case, place) for place in region}
                known = {place: s for place, s in sets.items() if s != anything}
                if known:
                    terms.append(region_loss(p[case], known, len(region), case_sets))
            entropy = -(p[case] * p[case].log()).sum() / math.prod(logits.shape[2:])
            supervised = sum(terms) / len(terms) if terms else 0.0
            samples.append(supervised + (weight if terms else unannotated) * entropy)
        return sum(samples) / len(samples)

    return loss


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("slice_axis", [None, 0, 1, 2])
def test_equals_loops(seed: int, shape: tuple[int, ...], slice_axis: int | None) -> None:
    if slice_axis is not None and slice_axis >= len(shape):
        pytest.skip("no such axis")
    loss = AmbiguityAwareLoss(slice_axis=slice_axis)
    assert_equals(loss, by_loops(slice_axis=slice_axis), random_batch(seed, shape=shape))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_other_weights_equal_loops(gamma: float) -> None:
    # no float32 is a tenth
    loss = AmbiguityAwareLoss(gamma=gamma, entropy_weight=0.1, entropy_weight_unannotated=2.3)
    assert_equals(loss, by_loops(gamma, 0.1, 2.3), random_batch(3))


@pytest.mark.parametrize("slice_axis", [None, 0])
@pytest.mark.parametrize("smoothing", [1e-5, 0.1, 20.0])
def test_other_smoothing_equals_loops(smoothing: float, slice_axis: int | None) -> None:
    loss = AmbiguityAwareLoss(slice_axis=slice_axis, smoothing=smoothing)
    assert_equals(loss, by_loops(slice_axis=slice_axis, smoothing=smoothing), random_batch(4))


@pytest.mark.parametrize("smoothing", [0.0, -1.0, math.nan])
def test_smoothing_must_be_above_zero(smoothing: float) -> None:
    with pytest.raises(ValueError, match="smoothing: expected a number above 0"):
        AmbiguityAwareLoss(smoothing=smoothing)


@pytest.mark.parametrize("name", ["entropy_weight", "entropy_weight_unannotated"])
@pytest.mark.parametrize("weight", [-1.0, math.nan])
def test_entropy_weights_must_not_be_below_zero(name: str, weight: float) -> None:
    with pytest.raises(ValueError, match="entropy weights: expected numbers of at least 0"):
        AmbiguityAwareLoss(**{name: weight})


def dice_loss(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Equation 2, from the probabilities and labels of each group."""
    dice = []
    for p, y in pairs:
        tp, fp, fn = (p * y).sum(), (p * (1 - y)).sum(), ((1 - p) * y).sum()
        dice.append((2 * tp + 1) / (2 * tp + fp + fn + 1))
    return 1 - torch.stack(dice).mean()


def focal(q: torch.Tensor) -> torch.Tensor:
    return -((1 - q) ** 2 * q.log()).mean()


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_papers_equations_for_a_partial_protocol(seed: int) -> None:
    """N = 4 structures, of which 1 and 3 are annotated."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 5, 4, 4, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (1, 1, 4, 4, 4), generator=generator)
    table = protocol(5, (0, 2, 4), (1,), (3,))

    def paper(logits: torch.Tensor, labels: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        p, y = probabilities(logits)[0], labels[0, 0]
        merged = [p[0] + p[2] + p[4], p[1], p[3]]
        targets = [(y == value).double() for value in range(3)]
        q = sum(p * y for p, y in zip(merged, targets, strict=True))
        entropy = -(p * p.log()).sum(0).mean()
        return focal(q) + dice_loss(list(zip(merged, targets, strict=True))) + entropy

    assert_equals(AmbiguityAwareLoss(), paper, (logits, labels, table))


def test_everything_annotated_equals_focal_cross_entropy_and_dice() -> None:
    batch, onehot = full_batch(0)

    def ordinary(logits: torch.Tensor, labels: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        p = logits.softmax(1)
        samples = []
        for case in range(2):
            q = p[case].gather(0, labels[case])[0]
            samples.append(focal(q) + dice_loss(list(zip(p[case], onehot[case], strict=True))))
        return torch.stack(samples).mean()

    assert_equals(AmbiguityAwareLoss(**NO_ENTROPY), ordinary, batch)


def test_slices_annotated_for_different_structures() -> None:
    """As in docs/label-model.md: 1 liver, 2 spleen, 3 none of liver and spleen, 4 none of liver; atom 3 is a kidney."""
    table = protocol(4, (0, 1, 2, 3), (1,), (2,), (0, 3), (0, 2, 3))
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(1, 4, 4, 3, 3, generator=generator, dtype=torch.float64)
    both = torch.tensor([[1, 2, 3], [3, 3, 1], [2, 1, 3]])
    both_without_spleen = torch.tensor([[1, 1, 3], [3, 3, 3], [3, 1, 3]])
    only_liver = torch.tensor([[4, 4, 1], [1, 1, 4], [4, 4, 4]])
    nobody = torch.zeros(3, 3, dtype=torch.int64)

    def by_hand(logits: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        background, liver, spleen, kidney = p = probabilities(logits)[0]
        terms = [
            focal(torch.where(both == 1, liver[0], torch.where(both == 2, spleen[0], background[0] + kidney[0]))),
            focal(torch.where(both_without_spleen == 1, liver[1], background[1] + kidney[1])),
            focal(torch.where(only_liver == 1, liver[2], 1 - liver[2])),
        ]
        for at, y in enumerate((both, both_without_spleen)):
            groups = [(liver[at], y == 1), (spleen[at], y == 2), (background[at] + kidney[at], y == 3)]
            terms.append(dice_loss([(p, y.double()) for p, y in groups]))
        groups = [(liver[2], only_liver == 1), (1 - liver[2], only_liver == 4)]
        terms.append(dice_loss([(p, y.double()) for p, y in groups]))
        return torch.stack(terms).sum() / 3 - (p * p.log()).sum(0).mean()

    labels = torch.stack([both, both_without_spleen, only_liver, nobody])[None, None]
    assert_equals(AmbiguityAwareLoss(slice_axis=0), by_hand, (logits, labels, table))
    sideways = logits.movedim(2, 3).contiguous(), labels.movedim(2, 3).contiguous(), table
    assert_equals(AmbiguityAwareLoss(slice_axis=1), lambda x, *_: by_hand(x.movedim(3, 2)), sideways)


def test_merged_kidneys() -> None:
    """Value 1 is a kidney of either side; a voxel of it counts for the sum of both."""
    table = protocol(3, (0,), (1, 2))
    generator = torch.Generator().manual_seed(6)
    logits = torch.randn(1, 3, 5, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (1, 1, 5, 5), generator=generator)

    def by_hand(logits: torch.Tensor, labels: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        background, left, right = probabilities(logits)[0]
        kidney, y = left + right, (labels[0, 0] == 1).double()
        return focal(torch.where(y > 0, kidney, background)) + dice_loss([(background, 1 - y), (kidney, y)])

    assert_equals(AmbiguityAwareLoss(**NO_ENTROPY), by_hand, (logits, labels, table))


def test_absent_structure_that_was_annotated_is_a_false_positive() -> None:
    """The public code leaves it out of the Dice."""
    logits = torch.zeros(1, 3, 4, dtype=torch.float64)
    labels = torch.zeros(1, 1, 4, dtype=torch.int64)
    value, _ = loss_and_gradient(AmbiguityAwareLoss(**NO_ENTROPY), logits, labels, protocol(3, (0,), (1,), (2,)))
    background, absent = (2 * 4 / 3 + 1) / (4 / 3 + 4 + 1), 1 / (4 / 3 + 1)
    assert value == pytest.approx(4 / 9 * math.log(3) + 1 - (background + 2 * absent) / 3, abs=1e-12)


def test_nothing_annotated_leaves_three_times_the_entropy() -> None:
    logits, labels, possible = random_batch(2)
    value, gradient = loss_and_gradient(AmbiguityAwareLoss(), logits, torch.full_like(labels, -1), possible)
    entropy = torch.distributions.Categorical(logits=logits.movedim(1, -1)).entropy().mean().item()
    assert value == pytest.approx(3 * entropy, abs=1e-12)
    assert (gradient != 0).all()
    value, _ = loss_and_gradient(AmbiguityAwareLoss(slice_axis=1), logits, labels, torch.ones_like(possible))
    assert value == pytest.approx(3 * entropy, abs=1e-12)


def test_samples_without_annotation_are_weighted_one_by_one() -> None:
    logits, labels, possible = random_batch(2)
    labels[1] = -1
    whole, _ = loss_and_gradient(AmbiguityAwareLoss(), logits, labels, possible)
    with_labels, without = (
        loss_and_gradient(AmbiguityAwareLoss(), logits[case], labels[case], possible[case])[0] for case in ([0], [1])
    )
    assert whole == pytest.approx((with_labels + without) / 2, abs=1e-12)


def test_one_annotated_voxel_makes_a_sample_annotated() -> None:
    logits = torch.zeros(1, 4, 10, dtype=torch.float64)
    labels = torch.full((1, 1, 10), -1)
    labels[0, 0, 3] = 0
    value, _ = loss_and_gradient(AmbiguityAwareLoss(), logits, labels, protocol(4, (0, 1)))
    focal_term, dice = 0.25 * math.log(2) / 10, 1 - (2 * 0.5 + 1) / (0.5 + 1 + 1)
    assert value == pytest.approx(focal_term + dice + math.log(4), abs=1e-12)


def test_probability_moved_within_label_sets_changes_nothing_without_the_entropy() -> None:
    logits, labels, possible = random_batch(5)
    p = rolled_within_label_sets(probabilities(logits), labels, possible)
    for slice_axis in (None, 0):
        loss = AmbiguityAwareLoss(slice_axis=slice_axis, **NO_ENTROPY)
        before, _ = loss_and_gradient(loss, logits, labels, possible)
        after, _ = loss_and_gradient(loss, p.log(), labels, possible)
        assert after == pytest.approx(before, abs=1e-12)


def test_annotated_is_what_the_full_resolution_says() -> None:
    """Deep supervision loses a single annotated slice; the entropy of the sample must not count three times there."""
    torch.manual_seed(0)
    labels = torch.full((2, 1, 8, 8, 8), -1)
    labels[0, 0, 3] = 0
    labels[0, 0, 3, 2:5] = 1
    possible = torch.tensor([[[True, False], [False, True]]] * 2)
    outputs = [torch.randn(2, 2, n, n, n, dtype=torch.float64) for n in (8, 4)]
    targets = [labels, labels[:, :, ::2, ::2, ::2]]
    assert (targets[1] == -1).all()
    loss = AmbiguityAwareLoss(smoothing=1e-5)
    assert loss.annotated_samples(labels, possible).tolist() == [True, False]
    wrapped = TableLoss(loss, (0.75, 0.25))
    wrapped.table = possible
    log_p = outputs[1].log_softmax(1)
    entropy = -(log_p.exp() * log_p).sum(1).mean((1, 2, 3))
    low = (entropy[0] + 3 * entropy[1]) / 2
    expected = 0.75 * loss(outputs[0], labels, possible) + 0.25 * low
    assert wrapped(outputs, targets).item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("value", [-1, 2])
def test_samples_of_which_nothing_is_known(value: int) -> None:
    possible = torch.tensor([[[True, False], [False, True], [True, True]]])
    labels = torch.full((1, 1, 3, 3), value)
    assert AmbiguityAwareLoss().annotated_samples(labels, possible).tolist() == [False]
    labels[0, 0, 1, 1] = 0
    assert AmbiguityAwareLoss().annotated_samples(labels, possible).tolist() == [True]
