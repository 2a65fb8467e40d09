"""The MultiTalent loss against loops in float64 that share no code with it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_partial.losses.multitalent import MultiTalentLoss
from tests.unit import loss_tables
from tests.unit.loss_tables import full_table, random_batch


def by_loops(logits: torch.Tensor, labels: torch.Tensor, table: torch.Tensor) -> tuple[float, np.ndarray]:
    """Equation 2 voxel by voxel, and its gradient by hand."""
    z, y, t = logits.detach().numpy(), labels.numpy(), table.numpy()
    batch, classes = z.shape[:2]
    voxels = int(np.prod(z.shape[2:]))
    loss, gradient = 0.0, np.zeros(z.shape)
    for c in range(classes):
        known = []
        for b in range(batch):
            for index in np.ndindex(*z.shape[2:]):
                value = y[(b, 0, *index)]
                if value >= 0 and t[b, value, c] >= 0:
                    known.append(((b, c, *index), float(t[b, value, c])))
        overlap = denominator = 0.0
        for place, target in known:
            p = 1 / (1 + math.exp(-z[place]))
            loss += -(target * math.log(p) + (1 - target) * math.log(1 - p)) / voxels
            overlap += p * target
            denominator += p + target
        if known:
            loss -= 2 * overlap / max(denominator, 1e-7)
        for place, target in known:
            p = 1 / (1 + math.exp(-z[place]))
            by_probability = -2 * target / denominator + 2 * overlap / denominator**2
            gradient[place] = (p - target) / voxels + by_probability * p * (1 - p)
    return loss, gradient


def loss_and_gradient(logits: torch.Tensor, labels: torch.Tensor, table: torch.Tensor) -> tuple[float, np.ndarray]:
    return loss_tables.loss_and_gradient(MultiTalentLoss(), logits, labels, table)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", [(5, 4, 3), (6, 7), (1, 1, 1)])
def test_equals_loops_on_random_tables(seed: int, shape: tuple[int, ...]) -> None:
    batch = random_batch(seed, shape=shape)
    value, gradient = loss_and_gradient(*batch)
    expected_value, expected_gradient = by_loops(*batch)
    assert value == pytest.approx(expected_value, abs=1e-9)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-12, rtol=1e-9)


def test_more_voxels_than_a_block_holds() -> None:
    batch = random_batch(3, batch=1, classes=3, shape=(70, 66, 65))
    value, gradient = loss_and_gradient(*batch)
    logits, labels, table = batch
    p = torch.sigmoid(logits[0]).numpy()
    padded = np.concatenate([np.full((1, 3), -1), table[0].numpy()])
    states = padded[labels[0, 0].numpy() + 1].transpose(3, 0, 1, 2)
    known, target = states >= 0, states == 1
    cross_entropy = np.where(known, -np.where(target, np.log(p), np.log1p(-p)), 0).sum() / p[0].size
    overlap, denominator = (p * target).sum((1, 2, 3)), (p * known).sum((1, 2, 3)) + target.sum((1, 2, 3))
    assert value == pytest.approx(cross_entropy - (2 * overlap / denominator).sum(), abs=1e-9)
    assert np.isfinite(gradient).all()


def test_everything_annotated_equals_closed_form_bce_and_batch_dice() -> None:
    classes, shape = 3, (8, 8, 8)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, *shape, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, classes + 1, (2, 1, *shape), generator=generator)
    onehot = torch.stack([(labels[:, 0] == c + 1).double() for c in range(classes)], 1)
    p = torch.sigmoid(logits)
    bce = torch.nn.functional.binary_cross_entropy(p, onehot, reduction="none").mean((2, 3, 4)).sum()
    axes = (0, 2, 3, 4)
    dice = (2 * (p * onehot).sum(axes) / (p.sum(axes) + onehot.sum(axes))).sum()
    expected = bce - dice
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    value, gradient = loss_and_gradient(logits, labels, full_table(2, classes))
    assert value == pytest.approx(expected.item(), abs=1e-9)
    np.testing.assert_allclose(gradient, expected_gradient.numpy(), atol=1e-9, rtol=0)


def test_gradcheck() -> None:
    logits, labels, table = random_batch(11, shape=(3, 2, 2))
    assert torch.autograd.gradcheck(lambda x: MultiTalentLoss()(x, labels, table), (logits.requires_grad_(),))


def test_gradient_follows_the_factor_of_the_loss() -> None:
    logits, labels, table = random_batch(2)
    _, gradient = loss_and_gradient(logits, labels, table)
    leaf = logits.clone().requires_grad_()
    (0.25 * MultiTalentLoss()(leaf, labels, table)).backward()
    np.testing.assert_allclose(leaf.grad.numpy(), 0.25 * gradient, rtol=1e-12)


def test_unknown_channels_get_exactly_zero_gradient() -> None:
    logits, labels, table = random_batch(5)
    table[:, :, 1] = -1
    table[0, :, 2] = -1
    _, gradient = loss_and_gradient(logits, labels, table)
    assert (gradient[:, 1] == 0).all()
    assert (gradient[0, 2] == 0).all()
    assert (gradient[1, 2] != 0).any()


def test_nothing_known_gives_zero_and_zero_gradient() -> None:
    logits, labels, table = random_batch(6)
    value, gradient = loss_and_gradient(logits, labels, torch.full_like(table, -1))
    assert value == 0.0
    assert (gradient == 0).all()


def test_all_outside_the_image_gives_zero() -> None:
    logits, labels, table = random_batch(6, unknown=0.0)
    value, gradient = loss_and_gradient(logits, torch.full_like(labels, -1), table)
    assert value == 0.0
    assert (gradient == 0).all()


def test_class_annotated_but_absent_has_only_cross_entropy() -> None:
    logits = torch.full((1, 1, 4, 4), -1.0, dtype=torch.float64)
    labels = torch.zeros(1, 1, 4, 4, dtype=torch.int64)
    value, gradient = loss_and_gradient(logits, labels, full_table(1, 1))
    p = 1 / (1 + math.e)
    assert value == pytest.approx(-math.log(1 - p), abs=1e-12)
    np.testing.assert_allclose(gradient, p / 16, rtol=1e-12)


def test_permuting_labels_of_unannotated_structures_changes_nothing() -> None:
    """Values 3 and 4 mean the same to every class that is known; which of them a voxel has must not matter."""
    logits, labels, table = random_batch(9)
    table[:, 4] = table[:, 3]
    before = loss_and_gradient(logits, labels, table)
    swapped = torch.where(labels == 3, 4, torch.where(labels == 4, 3, labels))
    after = loss_and_gradient(logits, swapped, table)
    assert before[0] == after[0]
    assert (before[1] == after[1]).all()


def test_permuting_unknown_values_changes_nothing() -> None:
    logits, labels, table = random_batch(10)
    table[:, 2:4] = -1
    before = loss_and_gradient(logits, labels, table)
    after = loss_and_gradient(logits, torch.where(labels == 2, 3, torch.where(labels == 3, 2, labels)), table)
    assert before[0] == after[0]
    assert (before[1] == after[1]).all()


def test_batch_dice_pools_over_the_batch() -> None:
    """A class that is large in one image and tiny in the other counts by voxels, not by images."""
    logits = torch.zeros(2, 1, 10, dtype=torch.float64)
    labels = torch.zeros(2, 1, 10, dtype=torch.int64)
    labels[0, 0, :9] = 1
    labels[1, 0, :1] = 1
    value, _ = loss_and_gradient(logits, labels, full_table(2, 1))
    assert value == pytest.approx(2 * math.log(2) - 2 * 5 / (10 + 10), abs=1e-12)


def test_class_order_does_not_matter() -> None:
    logits, labels, table = random_batch(4)
    order = [2, 0, 3, 1]
    value, gradient = loss_and_gradient(logits, labels, table)
    permuted, permuted_gradient = loss_and_gradient(logits[:, order], labels, table[:, :, order])
    assert permuted == pytest.approx(value, abs=1e-12)
    np.testing.assert_allclose(permuted_gradient, gradient[:, order], rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 30.0, 90.0, 500.0])
def test_extreme_logits_stay_finite(scale: float) -> None:
    logits, labels, table = random_batch(7)
    for dtype in (torch.float32, torch.float64):
        value, gradient = loss_and_gradient((logits * scale).to(dtype), labels, table)
        assert math.isfinite(value)
        assert np.isfinite(gradient).all()
    saturated = torch.full((1, 1, 8), scale, dtype=torch.float64)
    value, _ = loss_and_gradient(saturated, torch.zeros(1, 1, 8, dtype=torch.int64), full_table(1, 1))
    assert value == pytest.approx(math.log1p(math.exp(-scale)) + scale, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_within_a_hundredth_of_float32(dtype: torch.dtype) -> None:
    logits, labels, table = random_batch(8, shape=(16, 16, 16))
    exact, exact_gradient = loss_and_gradient(logits.float(), labels, table)
    value, gradient = loss_and_gradient(logits.to(dtype), labels, table)
    assert value == pytest.approx(exact, rel=1e-2)
    assert np.abs(gradient.astype(np.float64) - exact_gradient).max() <= 1e-2 * np.abs(exact_gradient).max()


def test_autocast_is_within_a_hundredth_of_float32() -> None:
    logits, labels, table = random_batch(8, shape=(16, 16, 16))
    exact, _ = loss_and_gradient(logits.float(), labels, table)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = MultiTalentLoss()(logits.to(torch.bfloat16), labels, table)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact, rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.int8, torch.int64])
def test_label_types(dtype: torch.dtype) -> None:
    logits, labels, table = random_batch(1)
    labels = labels.clamp_min(0)
    assert loss_and_gradient(logits, labels.to(dtype), table)[0] == loss_and_gradient(logits, labels, table)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y, t: (x, y[:, 0], t), "labels: expected shape"),
        (lambda x, y, t: (x, y, t[:1]), "table: expected shape"),
        (lambda x, y, t: (x, y, t[:, :, :2]), "table: expected shape"),
        (lambda x, y, t: (x, y.float(), t), "labels: expected integers"),
    ],
)
def test_wrong_shapes_are_refused(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiTalentLoss()(*change(*random_batch(0)))


def test_two_ranks_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    loss_tables.assert_two_ranks_equal_one(MultiTalentLoss(), tmp_path, wrapped=True)
