"""Losses for partly labelled batches: each is called as `loss(logits, labels, table)`."""

from nnunet_partial.losses.ambiguity import AmbiguityAwareLoss
from nnunet_partial.losses.implicit import ImplicitLabelLoss, positive_weights_of
from nnunet_partial.losses.leaf_dice import LeafDiceLoss
from nnunet_partial.losses.marginal import MarginalExclusionLoss
from nnunet_partial.losses.multitalent import MultiTalentLoss
from nnunet_partial.losses.naive import NaiveLoss
from nnunet_partial.losses.selected import SelectedPartialLoss

__all__ = [
    "AmbiguityAwareLoss",
    "ImplicitLabelLoss",
    "LeafDiceLoss",
    "MarginalExclusionLoss",
    "MultiTalentLoss",
    "NaiveLoss",
    "SelectedPartialLoss",
    "positive_weights_of",
]
