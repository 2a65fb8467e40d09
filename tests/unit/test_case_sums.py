"""The sums behind the sigmoid losses against loops in float64, and what holds for every loss made of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nnunet_partial.losses import states as states_module
from nnunet_partial.losses.case_sums import CaseSums, case_sums
from nnunet_partial.losses.implicit import ImplicitLabelLoss
from nnunet_partial.losses.multitalent import MultiTalentLoss
from nnunet_partial.losses.naive import NaiveLoss
from nnunet_partial.losses.ranks import pooled
from nnunet_partial.losses.selected import SelectedPartialLoss
from nnunet_partial.losses.states import KnownStates
from tests.unit.loss_tables import full_table, known_voxels, loss_and_gradient, random_batch

WEIGHTS = torch.tensor([0.25, 1.0, 7.5, 100.0], dtype=torch.float64)
PARTIAL = {
    "multitalent": MultiTalentLoss(),
    "selected": SelectedPartialLoss(),
    "implicit": ImplicitLabelLoss(),
    "implicit weighted": ImplicitLabelLoss(WEIGHTS),
    "implicit calibrated": ImplicitLabelLoss(WEIGHTS, calibrated=True),
}
CLOSED = {"naive": NaiveLoss(), "selected of two": SelectedPartialLoss(optional=(0, 2))}


def every(losses: dict[str, torch.nn.Module]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("loss", losses.values(), ids=losses.keys())


def sums_of(logits: torch.Tensor, labels: torch.Tensor, table: torch.Tensor, weights=None) -> CaseSums:
    return case_sums(logits, KnownStates(labels, table), weights)


def by_loops(logits: torch.Tensor, labels: torch.Tensor, table: torch.Tensor, weights=None) -> np.ndarray:
    """(5, B, C) in the order of CaseSums, voxel by voxel."""
    sums = np.zeros((5, *logits.shape[:2]))
    for case, c in np.ndindex(*logits.shape[:2]):
        for place, target in known_voxels(labels, table, case, c):
            p = 1 / (1 + math.exp(-logits[place].item()))
            weight = 1.0 if weights is None else weights[c].item()
            entropy = -weight * math.log(p) if target else -math.log1p(-p)
            sums[:, case, c] += [p * target, p, target, 1, entropy]
    return sums


def by_autograd(logits: torch.Tensor, labels: torch.Tensor, table: torch.Tensor, weights=None) -> torch.Tensor:
    """The same with dense tensors of float64, for autograd."""
    padded = torch.cat([torch.full_like(table[:, :1], -1), table], 1)
    states = torch.stack([padded[b][labels[b, 0] + 1].movedim(-1, 0) for b in range(len(table))])
    known, present = (states >= 0).double(), (states == 1).double()
    weights = torch.ones(logits.shape[1], dtype=torch.float64) if weights is None else weights
    shape = (1, -1) + (1,) * (logits.ndim - 2)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, present, reduction="none", pos_weight=weights.view(shape)[0]
    )
    p = torch.sigmoid(logits)
    return torch.stack([t.flatten(2).sum(2) for t in (p * present, p * known, present, known, entropy * known)])


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(5, 4, 3), (9, 8), (1, 1, 1)])
def test_sums_equal_loops(seed: int, shape: tuple[int, ...], weights: torch.Tensor | None) -> None:
    batch = random_batch(seed, shape=shape)
    found = torch.stack(sums_of(*batch, weights))
    np.testing.assert_allclose(found.numpy(), by_loops(*batch, weights), atol=1e-9, rtol=0)


@pytest.mark.parametrize("logit", [12.0, -12.0])
def test_cross_entropy_of_nearly_certain_voxels_is_no_difference_of_large_sums(logit: float) -> None:
    logits = torch.full((1, 1, 48, 48, 48), logit)
    found = sums_of(
        logits, torch.ones((1, 1, 48, 48, 48), dtype=torch.int16), torch.tensor([[[0], [1]]]).to(torch.int8)
    )
    mean = float(found.cross_entropy) / logits.numel()
    assert mean == pytest.approx(math.log1p(math.exp(-logit)), rel=0.02)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("block", [1, 1 << 23])
def test_gradient_equals_autograd(block: int, weights: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One channel at a time, as on a CPU, and many, as on a GPU."""
    monkeypatch.setitem(states_module._BLOCK_VOXELS, "cpu", block)
    logits, labels, table = random_batch(3, shape=(9, 8, 2))
    logits.requires_grad_()
    by_sums = torch.randn(5, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = torch.stack(sums_of(logits, labels, table, weights))
    expected = by_autograd(logits, labels, table, weights)
    np.testing.assert_allclose(found.detach().numpy(), expected.detach().numpy(), atol=1e-9, rtol=0)
    (gradient,) = torch.autograd.grad(found, logits, by_sums)
    (expected_gradient,) = torch.autograd.grad(expected, logits, by_sums)
    np.testing.assert_allclose(gradient.numpy(), expected_gradient.numpy(), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_gradcheck_of_the_sums(weights: torch.Tensor | None) -> None:
    logits, labels, table = random_batch(11, shape=(3, 2))
    assert torch.autograd.gradcheck(lambda x: tuple(sums_of(x, labels, table, weights)), (logits.requires_grad_(),))


def test_positive_weights_of_one_change_nothing() -> None:
    batch = random_batch(12)
    plain, weighted = sums_of(*batch), sums_of(*batch, torch.ones(4))
    for ours, theirs in zip(plain, weighted, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-12, rtol=0)


def test_channels_of_which_nothing_is_known_are_not_read() -> None:
    logits, labels, table = random_batch(5)
    table[1, :, 2] = -1
    logits[1, 2] = math.nan
    logits.requires_grad_()
    sums = sums_of(logits, labels, table)
    assert all(s.isfinite().all() and s[1, 2] == 0 for s in sums)
    torch.stack(sums).sum().backward()
    assert (logits.grad[1, 2] == 0).all()
    assert logits.grad.isfinite().all()


def test_nothing_is_kept_for_the_backward_pass_but_the_logits() -> None:
    logits, labels, table = random_batch(5, shape=(16, 16))
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        loss = SelectedPartialLoss()(logits.requires_grad_(), labels, table)
    large = [t for t in kept if t.numel() > 2 * 4 * 6]
    assert [t.data_ptr() for t in large] == [logits.data_ptr()]
    loss.backward()


@pytest.mark.parametrize("order", [(0, 1, 4, 3, 2), (0, 2, 3, 4, 1)], ids=["transposed", "channels last"])
def test_memory_layout_does_not_matter(order: tuple[int, ...]) -> None:
    logits, labels, table = random_batch(6)
    inverse = np.argsort(order).tolist()
    scattered = logits.permute(order).contiguous().permute(inverse)
    assert not scattered.is_contiguous()
    value, gradient = loss_and_gradient(MultiTalentLoss(), logits, labels, table)
    leaf = scattered.detach().requires_grad_()
    found = MultiTalentLoss()(leaf, labels, table)
    found.backward()
    assert found.item() == pytest.approx(value, abs=1e-12)
    np.testing.assert_allclose(leaf.grad.numpy(), gradient, atol=1e-15)


def test_second_derivatives_are_refused() -> None:
    logits, labels, table = random_batch(0)
    (gradient,) = torch.autograd.grad(
        MultiTalentLoss()(logits.requires_grad_(), labels, table), logits, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_dice_of_nothing_is_zero() -> None:
    zero = torch.zeros(2, 3, requires_grad=True)
    dice = CaseSums(zero, zero, zero, zero, zero).dice()
    dice.sum().backward()
    assert (dice == 0).all()
    assert zero.grad.isfinite().all()


def test_pooled_without_ranks_is_the_tensor() -> None:
    tensor = torch.ones(3)
    assert pooled(tensor) is tensor


def test_assumed_absent_fills_in_unknown_states_and_unknown_voxels_only() -> None:
    labels = torch.tensor([[[-1, 0, 1, 2]]])
    table = torch.tensor([[[0, -1], [1, -1], [-1, 1]]], dtype=torch.int8)
    states = KnownStates(labels, table, assumed_absent=[1])
    everything = slice(0, 2)
    assert states.present(0, everything, torch.float32).tolist() == [[0, 0, 1, 0], [0, 0, 0, 1]]
    known = states.known(0, everything, torch.float32)
    assert known is not None
    assert known.tolist() == [[0, 1, 1, 0], [1, 1, 1, 1]]
    assert states.known(0, slice(1, 2), torch.float32) is None
    assert table[0, 0, 1] == -1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every({**PARTIAL, **CLOSED})
def test_half_precision_is_within_a_hundredth_of_float32(loss: torch.nn.Module, dtype: torch.dtype) -> None:
    logits, labels, table = random_batch(8, shape=(16, 16, 16))
    exact, exact_gradient = loss_and_gradient(loss, logits.float(), labels, table)
    value, gradient = loss_and_gradient(loss, logits.to(dtype), labels, table)
    assert value == pytest.approx(exact, rel=1e-2)
    assert np.abs(gradient - exact_gradient).max() <= 1e-2 * np.abs(exact_gradient).max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every({**PARTIAL, **CLOSED})
def test_autocast_changes_nothing(loss: torch.nn.Module, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks as on a GPU, and with more known voxels than float16 can count."""
    monkeypatch.setitem(states_module._BLOCK_VOXELS, "cpu", 1 << 23)
    logits, labels, table = random_batch(8, shape=(70, 64, 64))
    logits = logits.to(dtype)
    exact, exact_gradient = loss_and_gradient(loss, logits, labels, table)
    with torch.autocast("cpu", dtype=dtype):
        value, gradient = loss_and_gradient(loss, logits, labels, table)
    assert value == pytest.approx(exact, rel=1e-5)
    np.testing.assert_allclose(gradient, exact_gradient, rtol=1e-2, atol=1e-2 * np.abs(exact_gradient).max())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@every({**PARTIAL, **CLOSED})
def test_extreme_logits_stay_finite(loss: torch.nn.Module, dtype: torch.dtype) -> None:
    logits, labels, table = random_batch(7)
    for extreme in (logits.sign() * 1e4, torch.full_like(logits, 1e4), torch.full_like(logits, -1e4)):
        value, gradient = loss_and_gradient(loss, extreme.to(dtype), labels, table)
        assert math.isfinite(value)
        assert np.isfinite(gradient).all()


@every({**PARTIAL, **CLOSED})
def test_gradcheck(loss: torch.nn.Module) -> None:
    logits, labels, table = random_batch(11, shape=(3, 2, 2))
    assert torch.autograd.gradcheck(lambda x: loss(x, labels, table), (logits.requires_grad_(),))


@every(PARTIAL)
def test_nothing_known_gives_zero_and_zero_gradient(loss: torch.nn.Module) -> None:
    logits, labels, table = random_batch(6, unknown=0.0)
    for nothing in ((labels, torch.full_like(table, -1)), (torch.full_like(labels, -1), table)):
        value, gradient = loss_and_gradient(loss, logits, *nothing)
        assert value == 0.0
        assert (gradient == 0).all()


@every(PARTIAL)
def test_unknown_channels_get_exactly_zero_gradient(loss: torch.nn.Module) -> None:
    logits, labels, table = random_batch(5)
    table[:, :, 1] = -1
    table[0, :, 2] = -1
    _, gradient = loss_and_gradient(loss, logits, labels, table)
    assert (gradient[:, 1] == 0).all()
    assert (gradient[0, 2] == 0).all()
    assert (gradient[1, 2] != 0).any()


@every(PARTIAL)
def test_relabelling_unknown_structures_changes_nothing(loss: torch.nn.Module) -> None:
    logits, labels, table = random_batch(10)
    table[:, 2:4] = -1
    before = loss_and_gradient(loss, logits, labels, table)
    after = loss_and_gradient(loss, logits, torch.where(labels == 2, 3, labels), table)
    assert before[0] == after[0]
    assert (before[1] == after[1]).all()


@pytest.mark.parametrize(
    "loss",
    [
        SelectedPartialLoss(),
        ImplicitLabelLoss(),
        ImplicitLabelLoss([3.0, 0.5] * 4),
        ImplicitLabelLoss([3.0, 0.5] * 4, calibrated=True),
    ],
)
def test_the_number_of_classes_does_not_change_the_scale(loss: torch.nn.Module) -> None:
    logits, labels, table = random_batch(13, classes=8)
    logits[:, 4:], table[:, :, 4:] = logits[:, :4], table[:, :, :4]
    value, gradient = loss_and_gradient(loss, logits, labels, table)
    once = loss
    if isinstance(loss, ImplicitLabelLoss) and loss.positive_weights is not None:
        once = ImplicitLabelLoss(loss.positive_weights[:4], calibrated=loss.calibrated)
    half, half_gradient = loss_and_gradient(once, logits[:, :4], labels, table[:, :, :4])
    assert value == pytest.approx(half, abs=1e-12)
    np.testing.assert_allclose(gradient[:, :4] + gradient[:, 4:], half_gradient, atol=1e-15, rtol=1e-9)


@every({**PARTIAL, **CLOSED})
def test_gradient_descends(loss: torch.nn.Module) -> None:
    """Ten steps towards complete labels: a wrong sign anywhere would show."""
    logits, labels, _ = random_batch(14)
    table = full_table(2, 4)
    start, _ = loss_and_gradient(loss, logits, labels, table)
    for _ in range(10):
        _, gradient = loss_and_gradient(loss, logits, labels, table)
        logits = logits - 0.5 * torch.from_numpy(gradient)
    assert loss_and_gradient(loss, logits, labels, table)[0] < start


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y, t: (x, y[:, 0], t), "labels: expected shape"),
        (lambda x, y, t: (x, y, t[:, :, :2]), "table: expected shape"),
        (lambda x, y, t: (x, y.float(), t), "labels: expected integers"),
    ],
)
@every({**PARTIAL, **CLOSED})
def test_wrong_shapes_are_refused(loss: torch.nn.Module, change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loss(*change(*random_batch(0)))
