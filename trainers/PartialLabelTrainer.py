"""The default trainer for partly labelled datasets."""

from nnunet_partial.losses import MultiTalentLoss
from nnunet_partial.sampling import HierarchicalSampling
from nnunet_partial.training import PartialTrainer, Recipe

__all__ = ["PartialLabelTrainer"]


class PartialLabelTrainer(PartialTrainer):
    """Sigmoid heads on the declared label space, MultiTalent's loss over known voxels, patches drawn level by level.

    Classes that several sources annotate share a head; a positive label of one class teaches the others of its
    axis that they are absent there (implicit labels, Jenke et al.). Patches are drawn class → modality → source →
    case (Chen et al., section 3.5); a third of them lie anywhere, so that the network also sees what is far from all
    classes. Heads start at a probability of 0.01. docs/benchmarks.md shows how it compares, and why it is the default.
    """

    recipe = Recipe(loss=MultiTalentLoss, sampling=HierarchicalSampling(anywhere_share=1 / 3), head_prior=0.01)
