"""Phases, learning rates and optimizers against numbers worked out by hand, and settings from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunet_partial.errors import PartialError
from nnunet_partial.networks import segmentation_heads
from nnunet_partial.training.schedule import EpochLearningRate, Schedule, keep_running_statistics

FINE_TUNING = Schedule(head_epochs=10, warmup_epochs=50, epochs=1000)


def test_poly_decay_is_that_of_nnunet() -> None:
    schedule = Schedule(epochs=20, learning_rate=0.01)
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.01)
    stock = PolyLRScheduler(optimizer, 0.01, 20)
    for epoch in range(20):
        stock.step(epoch)
        assert schedule.learning_rate_at(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-15)


def test_step_decay_takes_a_tenth_every_ten_epochs() -> None:
    schedule = Schedule(epochs=100, learning_rate=3e-4, decay="step")
    assert schedule.learning_rate_at(9) == 3e-4
    assert schedule.learning_rate_at(10) == pytest.approx(2.7e-4)
    assert schedule.learning_rate_at(99) == pytest.approx(3e-4 * 0.9**9)


def test_constant_learning_rate() -> None:
    schedule = Schedule(epochs=5, learning_rate=0.2, decay="constant")
    assert {schedule.learning_rate_at(epoch) for epoch in range(5)} == {0.2}


def test_phases_of_fine_tuning() -> None:
    assert FINE_TUNING.total_epochs == 1060
    phases = [FINE_TUNING.phase(epoch) for epoch in range(1060)]
    assert (phases.count("heads"), phases.count("warm-up"), phases.count("main")) == (10, 50, 1000)
    assert phases == sorted(phases, key=["heads", "warm-up", "main"].index)


def test_learning_rates_of_fine_tuning() -> None:
    rate = FINE_TUNING.learning_rate_at
    assert rate(0) == pytest.approx(5e-5)
    assert rate(9) == pytest.approx(5e-4)
    assert rate(10) == pytest.approx(0.01 / 50)
    assert rate(59) == pytest.approx(0.01)
    assert rate(60) == pytest.approx(0.01)
    assert rate(560) == pytest.approx(0.01 * 0.5**0.9)


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_the_optimizer_of_the_main_phase_holds_everything(name: str, kind: type) -> None:
    network = nn.Linear(2, 2)
    optimizer = Schedule(optimizer=name, weight_decay=0.5).make_optimizer("main", network, [])
    assert isinstance(optimizer, kind)
    assert optimizer.param_groups[0]["weight_decay"] == 0.5
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in network.parameters()]


def test_sgd_has_the_momentum_of_nnunet() -> None:
    group = Schedule().make_optimizer("main", nn.Linear(1, 1), []).param_groups[0]
    assert (group["momentum"], group["nesterov"]) == (0.99, True)


def test_the_learning_rate_reaches_the_optimizer() -> None:
    optimizer = FINE_TUNING.make_optimizer("main", nn.Linear(1, 1), [])
    EpochLearningRate(optimizer, FINE_TUNING).step(10)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(2e-4)


def test_another_length_is_one_of_the_main_phase() -> None:
    changed = FINE_TUNING.changed(70, 0.5, 0.25)
    assert (changed.total_epochs, changed.epochs, changed.learning_rate, changed.weight_decay) == (70, 10, 0.5, 0.25)
    assert changed.learning_rate_at(65) == pytest.approx(0.5 * 0.5**0.9)
    assert FINE_TUNING.changed(5, 0.01, 3e-5).epochs == 1
    assert FINE_TUNING.changed(1060, 0.01, 3e-5) == FINE_TUNING


def test_environment_variables_set_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"epochs": "7", "decay": "step", "learning_rate": "0.5", "head_epochs": "0"}.items():
        monkeypatch.setenv(f"nnUNet_partial_{name}", text)
    changed = FINE_TUNING.from_environment()
    assert (changed.epochs, changed.decay, changed.learning_rate, changed.head_epochs) == (7, "step", 0.5, 0)
    assert changed.warmup_epochs == 50


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("epochs", "ten", "expected a whole number, found 'ten'"),
        ("epochs", "0", "expected a number of at least 1"),
        ("epochs", "1.5", "expected a whole number"),
        ("head_epochs", "-1", "expected a number of at least 0"),
        ("weight_decay", "-1", "expected a number of at least 0"),
        ("learning_rate", "nan", "expected a number of at least 0"),
        ("optimizer", "lion", "expected one of sgd, adamw"),
        ("decay", "cosine", "expected one of poly, step, constant"),
    ],
)
def test_bad_values_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, text: str, message: str) -> None:
    monkeypatch.setenv(f"nnUNet_partial_{name}", text)
    with pytest.raises(PartialError, match=message):
        Schedule().from_environment()


def unet() -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = PlainConvUNet(
        1,
        n_stages=3,
        features_per_stage=[2, 3, 4],
        conv_op=nn.Conv2d,
        kernel_sizes=3,
        strides=[1, 2, 2],
        n_conv_per_stage=1,
        num_classes=2,
        n_conv_per_stage_decoder=1,
        conv_bias=True,
        norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU,
        deep_supervision=True,
    )
    return network


def batch(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {"data": torch.randn(2, 1, 8, 8, generator=generator), "target": torch.rand(1, generator=generator)}


class HeadPhase:
    """A network in the phase 'heads', trained by nnU-Net's own training step.

    The loss is `size` times the squared distance of all outputs from a number, added up over the resolutions.
    """

    def __init__(self, network: nn.Module, size: float = 1e-2, scaled: bool = True) -> None:
        self.network = network
        self.heads = segmentation_heads(network)
        head_ids = {id(p) for head in self.heads for p in head.parameters()}
        self.head_parameters = [p for p in network.parameters() if id(p) in head_ids]
        self.body = [p for p in network.parameters() if id(p) not in head_ids]
        self.optimizer = Schedule(weight_decay=0.1).make_optimizer("heads", network, self.heads)
        self.grad_scaler = torch.amp.GradScaler("cpu") if scaled else None
        self.size = size
        self.device = torch.device("cpu")

    def loss(self, outputs: list[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        return self.size * sum((output - target).square().mean() for output in outputs)

    def step(self, index: int) -> None:
        nnUNetTrainer.train_step(self, batch(index))

    def gradients(self, index: int) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Those of the heads in this step, unscaled and unclipped, and the norm of those of the whole network."""
        content = batch(index)
        everything = [*self.head_parameters, *self.body]
        loss = self.loss(self.network(content["data"]), content["target"])
        found = torch.autograd.grad(loss, everything, allow_unused=True, materialize_grads=True)
        return list(found[: len(self.head_parameters)]), torch.cat([g.flatten() for g in found]).norm()


def copies(parameters: list[nn.Parameter]) -> list[torch.Tensor]:
    return [p.detach().clone() for p in parameters]


def same(parameters: list[nn.Parameter], before: list[torch.Tensor]) -> bool:
    return all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))


@pytest.fixture
def norms(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The gradient norms that nnU-Net found as it clipped."""
    found: list[float] = []
    clip = nn.utils.clip_grad_norm_

    def watched(*arguments: Any, **options: Any) -> torch.Tensor:
        norm = clip(*arguments, **options)
        found.append(norm.item())
        return norm

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", watched)
    return found


@pytest.mark.parametrize("scaled", [True, False])
def test_the_head_phase_changes_the_heads_alone(scaled: bool) -> None:
    phase = HeadPhase(unet(), scaled=scaled)
    body, heads = copies(phase.body), copies(phase.head_parameters)
    for index in range(4):
        phase.step(index)
        assert all(p.grad is None for p in phase.body)
    assert same(phase.body, body)
    assert not any(torch.equal(p, b) for p, b in zip(phase.head_parameters, heads, strict=True))
    assert all(p.requires_grad for p in phase.network.parameters())


def test_the_head_phase_in_parallel(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        parallel, alone = HeadPhase(nn.parallel.DistributedDataParallel(unet())), HeadPhase(unet())
        body = copies(parallel.body)
        for index in range(3):
            parallel.step(index)
            alone.step(index)
        assert same(parallel.body, body)
        assert same(parallel.head_parameters, copies(alone.head_parameters))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("size", [1e-2, 1e3])
def test_the_head_phase_clips_by_the_norm_of_all_gradients(size: float, norms: list[float]) -> None:
    phase = HeadPhase(unet(), size)
    for index in range(4):
        gradients, norm = phase.gradients(index)
        phase.step(index)
        assert norms[-1] == pytest.approx(norm.item(), rel=1e-4)
        assert (norms[-1] > 12) == (size > 1)
        factor = min(1.0, 12 / norm.item())
        for parameter, gradient in zip(phase.head_parameters, gradients, strict=True):
            torch.testing.assert_close(parameter.grad, gradient * factor, rtol=1e-3, atol=1e-6)


def test_the_head_phase_is_adamw_with_amsgrad_where_nothing_is_clipped(norms: list[float]) -> None:
    phase, reference = HeadPhase(unet()), HeadPhase(unet())
    plain = torch.optim.AdamW(reference.head_parameters, 5e-4, weight_decay=0.1, amsgrad=True)
    for index in range(5):
        phase.step(index)
        for parameter, gradient in zip(reference.head_parameters, reference.gradients(index)[0], strict=True):
            parameter.grad = gradient
        plain.step()
    assert max(norms) < 12
    for parameter, expected in zip(phase.head_parameters, reference.head_parameters, strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_an_overflow_in_the_body_skips_a_step_of_the_head_phase(bad: float) -> None:
    phase = HeadPhase(unet())
    phase.step(0)
    body, heads = copies(phase.body), copies(phase.head_parameters)
    scale = phase.grad_scaler.get_scale()
    overflow = phase.body[0].register_hook(lambda gradient: torch.full_like(gradient, bad))
    phase.step(1)
    assert same(phase.head_parameters, heads)
    assert phase.grad_scaler.get_scale() == scale / 2
    overflow.remove()
    phase.step(2)
    assert not same(phase.head_parameters, heads)
    assert all(p.isfinite().all() for p in phase.head_parameters)
    assert same(phase.body, body)


def test_the_head_phase_can_be_resumed(tmp_path: Path) -> None:
    first = HeadPhase(unet())
    for index in range(3):
        first.step(index)
    state = first.optimizer.state_dict()
    assert len(state["state"]) == len(first.head_parameters)
    torch.save({"network": first.network.state_dict(), "optimizer": state}, tmp_path / "checkpoint.pth")
    saved = torch.load(tmp_path / "checkpoint.pth", weights_only=False)
    second = HeadPhase(unet())
    second.network.load_state_dict(saved["network"])
    second.optimizer.load_state_dict(saved["optimizer"])
    body = copies(second.body)
    for index in range(3, 6):
        first.step(index)
        second.step(index)
    assert same(first.head_parameters, copies(second.head_parameters))
    assert same(second.body, body)


def test_the_learning_rate_of_every_epoch_leaves_the_body_of_the_head_phase_alone() -> None:
    phase = HeadPhase(unet())
    body = copies(phase.body)
    EpochLearningRate(phase.optimizer, FINE_TUNING).step(0)
    assert phase.optimizer.param_groups[0]["lr"] == pytest.approx(5e-5)
    phase.step(0)
    assert same(phase.body, body)


@pytest.mark.parametrize("wrapper", [lambda network: network, torch.compile], ids=["bare", "compiled"])
def test_running_statistics_are_used_and_kept(wrapper: Any) -> None:
    """Layers without such statistics, and dropout, stay in training mode."""
    layers = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.InstanceNorm2d(2, track_running_stats=True)]
    network = nn.Sequential(*layers, nn.InstanceNorm2d(2), nn.Dropout(), nn.SyncBatchNorm(2))
    parallel = wrapper(network)
    parallel.train()
    keep_running_statistics(parallel)
    assert [layer.training for layer in network] == [True, False, False, True, True, False]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network[:5](torch.randn(3, 1, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    parallel.train()
    assert all(layer.training for layer in network)
    network[:5](torch.randn(3, 1, 8, 8))
    assert not torch.equal(network.state_dict()["1.running_mean"], before["1.running_mean"])
