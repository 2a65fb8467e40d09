"""Phases, learning rates and optimizers against numbers worked out by hand, and settings from the environment."""

from __future__ import annotations

import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import nn

from nnunet_partial.errors import PartialError
from nnunet_partial.training.schedule import EpochLearningRate, Schedule

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


def test_the_optimizer_of_the_head_phase_leaves_the_body_alone() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    before = network[0].weight.detach().clone(), network[1].weight.detach().clone()
    optimizer = FINE_TUNING.make_optimizer("heads", network, [network[1]])
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert torch.equal(network[0].weight, before[0])
    assert not torch.equal(network[1].weight, before[1])


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
