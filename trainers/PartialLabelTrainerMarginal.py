"""Marginal and exclusion loss: Shi et al., Medical Image Analysis 2021, doi:10.1016/j.media.2021.101979."""

from nnunet_partial.losses import MarginalExclusionLoss
from nnunet_partial.sampling import CaseSampling
from nnunet_partial.training import SOFTMAX, PartialTrainer, Recipe

__all__ = ["PartialLabelTrainerMarginal"]


class PartialLabelTrainerMarginal(PartialTrainer):
    """Softmax over atoms; what a case does not annotate is merged with background; annotated voxels exclude the rest.

    A baseline, with nnU-Net's sampling and schedule.
    """

    recipe = Recipe(loss=MarginalExclusionLoss, heads=SOFTMAX, sampling=CaseSampling(power=0.0))
