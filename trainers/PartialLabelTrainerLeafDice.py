"""Label-set losses: Fidon et al., MICCAI 2021, doi:10.1007/978-3-030-87196-3_60."""

from nnunet_partial.losses import LeafDiceLoss
from nnunet_partial.sampling import CaseSampling
from nnunet_partial.training import SOFTMAX, PartialTrainer, Recipe

__all__ = ["PartialLabelTrainerLeafDice"]


class PartialLabelTrainerLeafDice(PartialTrainer):
    """Softmax over atoms; Dice of the voxels whose label decides about an atom, and marginal cross-entropy.

    A baseline, with nnU-Net's sampling and schedule.
    """

    recipe = Recipe(loss=LeafDiceLoss, heads=SOFTMAX, sampling=CaseSampling(power=0.0))
