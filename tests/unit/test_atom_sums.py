"""The sums over atoms against loops over voxels, and what all losses made of them share."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nnunet_partial.losses.ambiguity import AmbiguityAwareLoss
from nnunet_partial.losses.atom_sums import LabelSets, atom_sums
from nnunet_partial.losses.leaf_dice import LeafDiceLoss
from nnunet_partial.losses.marginal import MarginalExclusionLoss
from tests.unit.atom_tables import (
    SHAPES,
    Batch,
    label_set,
    loss_and_gradient,
    network_gradient,
    on_two_ranks,
    probabilities,
    protocol,
    random_batch,
    regions_of,
    twice,
)

NO_ENTROPY = {"entropy_weight": 0.0, "entropy_weight_unannotated": 0.0}
WITHOUT_ENTROPY = {
    "no_entropy": AmbiguityAwareLoss(**NO_ENTROPY),
    "marginal": MarginalExclusionLoss(),
    "leaf_dice": LeafDiceLoss(),
    "leaf_dice_alone": LeafDiceLoss(cross_entropy=False),
    "marginal_dice": LeafDiceLoss(kind="marginal"),
}
WITH_ENTROPY = {
    "ambiguity": AmbiguityAwareLoss(),
    "ambiguity_of_slices": AmbiguityAwareLoss(slice_axis=1),
    "ambiguity_without_focus": AmbiguityAwareLoss(gamma=0.0),
}
LOSSES = WITHOUT_ENTROPY | WITH_ENTROPY
every_loss = pytest.mark.parametrize("name", LOSSES)


def sums_by_loops(logits: torch.Tensor, labels: torch.Tensor, possible: torch.Tensor, gamma: float, axis: int | None):
    """The sums voxel by voxel, as dictionaries by case, region and label set."""
    p = probabilities(logits)
    counts, mass, log_mass, focal, entropy = ({} for _ in range(5))
    for case in range(len(logits)):
        for r, region in enumerate(regions_of(logits.shape[2:], axis)):
            for place in region:
                at, s = p[(case, slice(None), *place)], label_set(labels, possible, case, place)
                key = case, r, s
                counts[key] = counts.get(key, 0) + 1
                mass[key] = mass.get(key, 0) + at
                log_mass[key] = log_mass.get(key, 0) + (1 + at).log()
                entropy[case] = entropy.get(case, 0) - (at * at.log()).sum()
                if len(s) < possible.shape[2]:
                    q = at[sorted(s)].sum()
                    focal[case, r] = focal.get((case, r), 0) - (1 - q) ** gamma * q.log()
    return counts, mass, log_mass, focal, entropy


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_equals_loops(seed: int, shape: tuple[int, ...], axis: int | None) -> None:
    if axis is not None and axis >= len(shape):
        pytest.skip("no such axis")
    logits, labels, possible = random_batch(seed, shape=shape)
    found = atom_sums(logits, labels, possible, gamma=1.5, log_mass=True, slice_axis=axis)
    counts, mass, log_mass, focal, entropy = sums_by_loops(logits, labels, possible, 1.5, axis)
    assert found.counts.sum() == labels.numel()
    assert found.mass.sum().item() == pytest.approx(labels.numel(), abs=1e-9)
    for (case, r, s), number in counts.items():
        (k, *_) = [k for k, row in enumerate(found.sets[case]) if set(row.nonzero().flatten().tolist()) == s]
        assert found.counts[case, r, k] == number
        np.testing.assert_allclose(found.mass[case, r, k], mass[case, r, s], atol=1e-9)
        np.testing.assert_allclose(found.log_mass[case, r, k], log_mass[case, r, s], atol=1e-9)
    for case, r in np.ndindex(found.focal.shape):
        assert found.focal[case, r].item() == pytest.approx(float(focal.get((case, r), 0)), abs=1e-9)
    for case in range(2):
        assert found.entropy[case].item() == pytest.approx(entropy[case].item(), abs=1e-9)


def test_label_sets_are_found_once_with_everything_first() -> None:
    table = torch.cat([protocol(3, (0, 2), (1,), (0, 2), (0, 1, 2)), protocol(3, (0, 1, 2), (2,), (1,), (0,))])
    sets, of_label = LabelSets.from_table(table)
    everything, filled = [True] * 3, [True] * 3
    assert sets[0].tolist() == [everything, [True, False, True], [False, True, False], filled]
    assert of_label.tolist() == [[0, 1, 2, 1, 0], [0, 0, 1, 2, 3]]


@pytest.mark.parametrize("axis", [None, 0, 2])
def test_gradcheck_of_all_sums(axis: int | None) -> None:
    logits, labels, possible = random_batch(1, batch=1, shape=(3, 2, 2))

    def sums(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = atom_sums(x, labels, possible, gamma=2.0, log_mass=True, slice_axis=axis)
        return found.mass, found.log_mass, found.focal, found.entropy

    assert torch.autograd.gradcheck(sums, (logits.requires_grad_(),))


@every_loss
@pytest.mark.parametrize("seed", [1, 4])
def test_gradcheck_of_losses(name: str, seed: int) -> None:
    logits, labels, possible = random_batch(seed, atoms=4, shape=(3, 2, 2))
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, labels, possible), (logits.requires_grad_(),))


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_more_voxels_than_a_block_holds(axis: int | None) -> None:
    logits, labels, possible = random_batch(3, batch=1, shape=(70, 46, 45))
    found = atom_sums(logits.float(), labels, possible, gamma=2.0, log_mass=True, slice_axis=axis)
    p = np.exp(logits[0].numpy())
    p /= p.sum(0)
    table = np.concatenate([np.ones((1, 5), bool), possible[0].numpy()])[labels[0, 0].numpy() + 1].transpose(3, 0, 1, 2)
    q = (p * table).sum(0)
    over = tuple(a for a in (1, 2, 3) if axis is None or a != 1 + axis)
    focal = np.where(table.all(0), 0, -((1 - q) ** 2) * np.log(q))[None].sum(over)
    np.testing.assert_allclose(found.focal[0], focal.flatten(), rtol=1e-5)
    assert found.entropy[0].item() == pytest.approx(-(p * np.log(p)).sum(), rel=1e-5)
    for k, members in enumerate(found.sets[0].numpy()):
        chosen = (table == members[:, None, None, None]).all(0)
        # filled-up rows of 'everything' stay empty
        first = k == 0 or not members.all()
        expected = (p * chosen).sum(over).reshape(5, -1).T * first
        np.testing.assert_allclose(found.mass[0, :, k], expected, rtol=1e-5, atol=1e-4)


@every_loss
def test_layout_in_memory_does_not_matter(name: str) -> None:
    logits, labels, possible = random_batch(2)
    value, gradient = loss_and_gradient(LOSSES[name], logits, labels, possible)
    strided = logits.contiguous(memory_format=torch.channels_last_3d)
    found, found_gradient = loss_and_gradient(
        LOSSES[name], strided, labels.transpose(2, 4).contiguous().transpose(2, 4), possible
    )
    assert found == pytest.approx(value, abs=1e-12)
    np.testing.assert_allclose(found_gradient, gradient, atol=1e-14)


@every_loss
def test_gradient_follows_the_factor_of_the_loss(name: str) -> None:
    batch = random_batch(2)
    _, gradient = loss_and_gradient(LOSSES[name], *batch)
    _, quarter = loss_and_gradient(lambda *arguments: 0.25 * LOSSES[name](*arguments), *batch)
    np.testing.assert_allclose(quarter, 0.25 * gradient, rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("name", WITHOUT_ENTROPY)
@pytest.mark.parametrize("outside", [True, False])
def test_nothing_known_gives_zero_and_zero_gradient(name: str, outside: bool) -> None:
    logits, labels, possible = random_batch(2)
    if outside:
        labels = torch.full_like(labels, -1)
    else:
        possible = torch.ones_like(possible)
    value, gradient = loss_and_gradient(LOSSES[name], logits, labels, possible)
    assert value == 0
    assert (gradient == 0).all()


@every_loss
def test_relabelling_unknown_structures_changes_nothing(name: str) -> None:
    logits, labels, possible = random_batch(6)
    possible[:, 2:4] = possible[:, 1:2]
    labels = torch.where(labels > 3, labels - 4, labels)
    before = loss_and_gradient(LOSSES[name], logits, labels, possible)
    swapped = torch.where(labels == 2, 3, torch.where(labels == 3, 1, torch.where(labels == 1, 2, labels)))
    assert (swapped != labels).any()
    after = loss_and_gradient(LOSSES[name], logits, swapped, possible)
    assert before[0] == after[0]
    np.testing.assert_array_equal(before[1], after[1])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "loss",
    [
        AmbiguityAwareLoss(**NO_ENTROPY),
        AmbiguityAwareLoss(),
        AmbiguityAwareLoss(smoothing=1e-5, slice_axis=0),
        MarginalExclusionLoss(exclusion_weight=0.0),
        LeafDiceLoss(),
        LeafDiceLoss(cross_entropy=False),
        LeafDiceLoss(kind="marginal"),
    ],
)
def test_twice_the_classes_do_not_change_the_scale(loss: torch.nn.Module, seed: int) -> None:
    """Means over groups and atoms: of twice as many, each learned as well as before, the loss is the same."""
    logits, labels, possible = random_batch(seed, shape=(6, 5, 4))
    labels, possible = labels.clamp_min(0) % 3, protocol(5, (0, 2, 4), (1,), (3,)).repeat(2, 1, 1)
    value, gradient = loss_and_gradient(loss, logits, labels, possible)
    assert value > 0.1
    doubled, doubled_gradient = loss_and_gradient(loss, *twice(logits, labels, possible))
    assert doubled == pytest.approx(value, rel=0, abs=1e-9)
    np.testing.assert_allclose(
        doubled_gradient[:, :5, ..., :4] + doubled_gradient[:, 5:, ..., 4:], gradient, rtol=1e-9, atol=1e-12
    )


@every_loss
def test_interchangeable_atoms_get_equal_gradients(name: str) -> None:
    logits, labels, possible = random_batch(3)
    possible[..., 2:4] = possible[..., 2:4].any(-1, keepdim=True)
    logits[:, 3] = logits[:, 2]
    _, gradient = loss_and_gradient(LOSSES[name], logits, labels, possible)
    assert (gradient[:, 2] != 0).any()
    np.testing.assert_allclose(gradient[:, 3], gradient[:, 2], rtol=1e-12, atol=1e-15)


@every_loss
@pytest.mark.parametrize("seed", range(2))
def test_order_of_atoms_but_the_background_does_not_matter(name: str, seed: int) -> None:
    logits, labels, possible = random_batch(seed)
    order = [0, 3, 1, 4, 2]
    value, gradient = loss_and_gradient(LOSSES[name], logits, labels, possible)
    permuted, permuted_gradient = loss_and_gradient(LOSSES[name], logits[:, order], labels, possible[..., order])
    assert permuted == pytest.approx(value, abs=1e-12)
    np.testing.assert_allclose(permuted_gradient, gradient[:, order], rtol=1e-11, atol=1e-15)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_extreme_logits_give_finite_values_and_gradients(name: str, dtype: torch.dtype) -> None:
    """The possible atoms have probability e^-20000, which is 0 in every type."""
    logits = torch.full((1, 3, 4, 4), -1e4)
    logits[:, 1] = 1e4
    labels = torch.zeros(1, 1, 4, 4, dtype=torch.int64)
    labels[..., 2:] = 1
    loss = LOSSES[name]
    value, gradient = loss_and_gradient(loss, logits.to(dtype), labels, protocol(3, (0, 2), (1,)))
    assert math.isfinite(value)
    assert np.isfinite(gradient).all()
    if name != "leaf_dice_alone":  # a Dice alone is flat here
        assert value > 5000
        assert (gradient[0, :2, :, :2] != 0).all()
        # the possible atoms share what the impossible one loses
        np.testing.assert_allclose(gradient[0, 0, :, :2], -gradient[0, 1, :, :2] / 2, rtol=1e-3)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.5])
def test_saturated_right_answers_have_no_pole(gamma: float) -> None:
    logits = torch.tensor([[[60.0, 1e4, 17.0], [-60.0, -1e4, 0.0]]])
    value, gradient = loss_and_gradient(
        AmbiguityAwareLoss(gamma=gamma), logits, torch.zeros(1, 1, 3, dtype=torch.int8), protocol(2, (0,))
    )
    assert abs(value) < 1e-3
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() < 1e-3


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_within_a_hundredth_of_float32(name: str, dtype: torch.dtype) -> None:
    logits, labels, possible = random_batch(8, shape=(16, 16, 16))
    exact, _ = loss_and_gradient(LOSSES[name], logits.float(), labels, possible)
    value, gradient = loss_and_gradient(LOSSES[name], logits.to(dtype), labels, possible)
    _, exact_gradient = loss_and_gradient(LOSSES[name], logits.to(dtype).float(), labels, possible)
    assert value == pytest.approx(exact, rel=1e-2)
    assert np.abs(gradient - exact_gradient).max() <= 1e-2 * np.abs(exact_gradient).max()


@every_loss
def test_autocast_computes_in_float32(name: str) -> None:
    logits, labels, possible = random_batch(9, shape=(16, 16, 16))
    logits = logits.to(torch.bfloat16)
    exact, exact_gradient = loss_and_gradient(LOSSES[name], logits.float(), labels, possible)
    leaf = logits.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = LOSSES[name](leaf, labels, possible)
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == exact
    np.testing.assert_allclose(leaf.grad.float(), exact_gradient, rtol=2**-8)


def test_sums_under_autocast_are_those_without() -> None:
    logits, labels, possible = random_batch(9)
    exact = atom_sums(logits.float(), labels, possible, gamma=2.0, log_mass=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = atom_sums(logits.float(), labels, possible, gamma=2.0, log_mass=True)
    assert all(torch.equal(a, b) for a, b in zip(found, exact, strict=True))


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.int8])
def test_label_types(dtype: torch.dtype) -> None:
    logits, labels, possible = random_batch(1)
    labels = labels.clamp_min(0)
    for loss in LOSSES.values():
        assert loss(logits, labels.to(dtype), possible) == loss(logits, labels, possible)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y, t: (x, y[:, 0], t), "labels: expected shape"),
        (lambda x, y, t: (x, y.float(), t), "labels: expected integers"),
        (lambda x, y, t: (x, y, t[:1]), "possible: expected shape"),
        (lambda x, y, t: (x, y, t[..., :2]), "possible: expected shape"),
        (lambda x, y, t: (x, y, t.to(torch.int8)), "possible: expected booleans"),
        (lambda x, y, t: (x, y, torch.zeros_like(t)), "no possible atom"),
        (lambda x, y, t: (x[..., 0], y[..., 0], t), "slice_axis: expected 0 to 1"),
    ],
)
def test_wrong_arguments_are_refused(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AmbiguityAwareLoss(slice_axis=2)(*change(*random_batch(0)))


@pytest.mark.parametrize("cases", [4, 3])
def test_two_ranks_equal_one_with_the_whole_batch(cases: int, tmp_path) -> None:
    """Three cases are two on one rank and one on the other."""
    logits, labels, possible = random_batch(3, batch=cases, shape=(5, 4, 4))
    labels[1] = -1
    batch: Batch = (logits, labels, possible)
    ranks = on_two_ranks(list(LOSSES.values()), batch, tmp_path)
    for (value, *gradients), loss, other in zip(ranks[0], LOSSES.values(), ranks[1], strict=True):
        expected, *expected_gradients = network_gradient(loss, batch)
        assert value.item() == other[0].item() == pytest.approx(expected.item(), abs=1e-9)
        for found, wanted in zip(gradients, expected_gradients, strict=True):
            assert (wanted != 0).any()
            np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-9, atol=1e-12)
