"""Cost of the loss relative to nnU-Net's DC_and_BCE_loss on the same logits, forward and backward."""

from __future__ import annotations

import pytest
import torch

from tests.bench.loss_case import BATCH, PATCH, loss_case
from tests.bench.measure import paired_seconds, peak_megabytes

pytestmark = pytest.mark.bench


@pytest.mark.parametrize("classes", [14, 47])
def test_time(classes: int) -> None:
    torch.set_num_threads(1)
    ratios = []
    for annotated in (classes, classes // 2, classes // 4, 1):
        case = loss_case(classes, annotated)
        ours, stock, ratio = paired_seconds(case["ours"], case["stock"], runs=3)
        ratios.append(ratio)
        print(f"\nC={classes}, {annotated} annotated, {BATCH}x{PATCH}^3:", end=" ")
        print(f"ours {ours:.3f} s, nnU-Net {stock:.3f} s, {ratio:.2f}x")
    assert ratios[0] <= 1.0
    # the last steps are too cheap for their order to be told from noise
    assert ratios[0] > ratios[1] > ratios[-1]


@pytest.mark.parametrize("classes", [14, 47])
def test_memory(classes: int) -> None:
    stock = peak_megabytes("tests.bench.loss_memory", "stock", str(classes), str(classes))
    for annotated in (classes, classes // 4):
        ours = peak_megabytes("tests.bench.loss_memory", "ours", str(classes), str(annotated))
        print(f"\nC={classes} annotated={annotated}: ours {ours:.0f} MB, nnU-Net {stock:.0f} MB, {ours / stock:.2f}x")
        assert ours <= stock
