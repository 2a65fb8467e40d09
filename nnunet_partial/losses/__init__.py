"""Losses for partly labelled batches: each is called as `loss(logits, labels, table)`."""

from nnunet_partial.losses.multitalent import MultiTalentLoss

__all__ = ["MultiTalentLoss"]
