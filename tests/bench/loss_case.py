"""The same logits for our loss and for nnU-Net's own region loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from nnunet_partial.losses import MultiTalentLoss

PATCH = 96
BATCH = 2


def loss_case(classes: int, annotated: int, patch: int = PATCH) -> dict[str, Callable[[], object]]:
    """Forward and backward of both losses.

    nnU-Net's is given the boolean one-hot targets that its loader makes; making them is not counted.

    Args:
        classes: Channels.
        annotated: Channels that the table knows; the others are unknown.
        patch: Edge length in voxels.

    Returns:
        'ours' and 'stock', each one forward and backward pass.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(BATCH, classes, patch, patch, patch, generator=generator, requires_grad=True)
    blocks = torch.randint(0, classes + 1, (BATCH, 1, *[patch // 8] * 3), generator=generator)
    labels = blocks
    for axis in (2, 3, 4):
        labels = labels.repeat_interleave(8, axis)
    labels = labels.to(torch.int16)
    table = torch.zeros(BATCH, classes + 1, classes, dtype=torch.int8)
    for c in range(classes):
        table[:, c + 1, c] = 1
    table[:, :, annotated:] = -1
    targets = torch.stack([labels[:, 0] == c + 1 for c in range(classes)], 1)
    ours = MultiTalentLoss()
    dice = {"batch_dice": True, "do_bg": True, "smooth": 1e-5, "ddp": False}
    stock = DC_and_BCE_loss({}, dice, dice_class=MemoryEfficientSoftDiceLoss)

    def run(compute: Callable[[], torch.Tensor]) -> None:
        logits.grad = None
        compute().backward()

    return {
        "ours": lambda: run(lambda: ours(logits, labels, table)),
        "stock": lambda: run(lambda: stock(logits, targets)),
    }
