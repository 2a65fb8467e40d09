"""Marginalised Dice: Fidon et al., MICCAI 2021, doi:10.1007/978-3-030-87196-3_60."""

from functools import partial

from nnunet_partial.losses import LeafDiceLoss
from nnunet_partial.sampling import CaseSampling
from nnunet_partial.training import SOFTMAX, PartialTrainer, Recipe

__all__ = ["PartialLabelTrainerMarginalDice"]


class PartialLabelTrainerMarginalDice(PartialTrainer):
    """Softmax over atoms; Dice with the atoms of a label set taken for equally likely, and marginal cross-entropy.

    A baseline, with nnU-Net's sampling and schedule.
    """

    recipe = Recipe(loss=partial(LeafDiceLoss, kind="marginal"), heads=SOFTMAX, sampling=CaseSampling(power=0.0))
