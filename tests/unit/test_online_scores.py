"""Pseudo-Dice counts against loops, and means that skip what was not annotated."""

from __future__ import annotations

import math

import numpy as np
import torch

from nnunet_partial.training.online_scores import annotated_counts, describe_dice, mean_of_defined, pseudo_dice


def test_counts_equal_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 4, generator=generator)
    labels = torch.randint(-1, 4, (2, 1, 5, 4), generator=generator)
    table = torch.randint(-1, 2, (2, 4, 3), generator=generator, dtype=torch.int8)
    expected = np.zeros((3, 3))
    for b in range(2):
        for c in range(3):
            for y, x in np.ndindex(5, 4):
                value = int(labels[b, 0, y, x])
                state = -1 if value < 0 else int(table[b, value, c])
                found = bool(logits[b, c, y, x] > 0)
                expected[0, c] += found and state == 1
                expected[1, c] += found and state == 0
                expected[2, c] += (not found) and state == 1
    np.testing.assert_array_equal(annotated_counts(logits > 0, labels, table), expected)


def test_a_class_nobody_annotates_has_no_dice() -> None:
    logits = torch.full((1, 2, 8), 5.0)
    table = torch.tensor([[[0, -1], [1, -1]]], dtype=torch.int8)
    labels = torch.tensor([[[0, 0, 0, 0, 1, 1, 1, 1]]])
    dice = pseudo_dice(annotated_counts(logits > 0, labels, table))
    assert dice[0] == 2 * 4 / (2 * 4 + 4)
    assert math.isnan(dice[1])
    assert mean_of_defined(dice, otherwise=0.0) == dice[0]
    assert describe_dice(["liver", "spleen"], dice, [True, False]) == "liver 0.6667, spleen not annotated"


def test_an_annotated_class_that_never_shows_up_is_not_seen() -> None:
    assert describe_dice(["liver"], [math.nan], [True]) == "liver not seen"


def test_mean_falls_back_where_no_class_has_a_dice() -> None:
    assert mean_of_defined([math.nan, math.nan], otherwise=0.37) == 0.37
