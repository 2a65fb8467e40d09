"""Realised next to declared frequencies, over ranks and restarts."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nnunet_partial.sampling import Draws, FrequencyLog


@pytest.fixture
def log() -> FrequencyLog:
    case, cls, p = np.array([0, 0, 1]), np.array([0, -1, -1]), np.array([0.5, 0.2, 0.3])
    return FrequencyLog(Draws(("a", "b"), ("liver, whole", "spleen"), ("CT", "MR"), ("s", "t"), case, cls, p))


def table(log: FrequencyLog) -> dict[tuple[str, str], tuple[float, float, int]]:
    return {(row.level, row.name): (row.declared, row.realised, row.draws) for row in log.rows(0)}


def test_realised_next_to_declared(log: FrequencyLog) -> None:
    log.add(np.array(["a", "a"]), np.array([0, -1]))
    log.add(["b", "a"], [-1, 0])
    assert table(log) == {
        ("class", "liver, whole"): (0.5, 0.5, 2),
        ("class", "spleen"): (0.0, 0.0, 0),
        ("class", "anywhere"): (0.5, 0.5, 2),
        ("modality", "CT"): (pytest.approx(0.7), 0.75, 3),
        ("modality", "MR"): (0.3, 0.25, 1),
        ("source", "s"): (pytest.approx(0.7), 0.75, 3),
        ("source", "t"): (0.3, 0.25, 1),
    }


def test_lines(log: FrequencyLog) -> None:
    log.add(["a", "b"], [0, -1])
    lines = log.lines()
    assert "2 patches" in lines[0]
    assert lines[1] == "  class: liver, whole 0.5000 (0.5000), spleen 0.0000 (0.0000), anywhere 0.5000 (0.5000)"
    assert lines[3] == "  source: s 0.5000 (0.7000), t 0.5000 (0.3000)"


def test_ranks_are_added(log: FrequencyLog) -> None:
    log.add(["a"], [0])
    received = pickle.loads(pickle.dumps(log.drawn))
    log.reset()
    log.add(["b", "b"], [-1, -1])
    log.merge(received)
    assert table(log)["modality", "MR"] == (0.3, pytest.approx(2 / 3), 2)
    assert table(log)["class", "liver, whole"][2] == 1


def test_reset_starts_anew(log: FrequencyLog) -> None:
    log.add(["a"], [0])
    log.reset()
    assert log.drawn.shape == (0, 2)
    assert all(row.draws == 0 and math.isnan(row.realised) for row in log.rows(3))


def test_csv_replaces_an_epoch_and_keeps_the_others(log: FrequencyLog, tmp_path: Path) -> None:
    path = tmp_path / "sampling.csv"
    for epoch in (0, 1, 10, 11):
        log.reset()
        log.add(["a"] * (epoch + 1), [0] * (epoch + 1))
        log.write_csv(path, epoch)
    log.reset()
    log.add(["b"] * 5, [-1] * 5)
    log.write_csv(path, 1)
    found = pd.read_csv(path)
    assert list(found.columns) == ["epoch", "level", "name", "declared", "realised", "draws"]
    assert found.groupby("epoch").size().to_dict() == {0: 7, 1: 7, 10: 7, 11: 7}
    liver = found[found.name == "liver, whole"].set_index("epoch")
    assert liver.draws.to_dict() == {0: 1, 1: 0, 10: 11, 11: 12}
    assert liver.declared.tolist() == [0.5] * 4
    mr = found[(found.name == "MR") & (found.epoch == 1)]
    assert mr.realised.item() == 1
