"""The default trainer for partly labelled datasets."""

from nnunet_partial.losses import MultiTalentLoss
from nnunet_partial.training import PartialTrainer, Recipe

__all__ = ["PartialLabelTrainer"]


class PartialLabelTrainer(PartialTrainer):
    """Sigmoid heads on the declared label space, MultiTalent's loss over known voxels, sources drawn by 1/√n.

    Classes that several sources annotate share a head; a positive label of one class teaches the others of its
    axis that they are absent there (implicit labels, Jenke et al.). Heads start at a probability of 0.01.
    """

    recipe = Recipe(loss=MultiTalentLoss, head_prior=0.01)
