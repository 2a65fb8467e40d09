"""Selected partial loss: Zhu et al., FLARE 2023 challenge."""

from nnunet_partial.losses import SelectedPartialLoss
from nnunet_partial.sampling import CaseSampling
from nnunet_partial.training import PartialTrainer, Recipe

__all__ = ["PartialLabelTrainerSelected"]


class PartialLabelTrainerSelected(PartialTrainer):
    """Binary cross-entropy and Dice, averaged over the (case, class) pairs that were annotated (equation 2).

    Sigmoid heads, nnU-Net's sampling and schedule. A class is trained only in cases that annotate it. All classes
    are optional (S in equation 2); the paper had one, the tumour, since pseudo-labels covered the organs.
    """

    recipe = Recipe(loss=SelectedPartialLoss, implied_negatives=False, sampling=CaseSampling(power=0.0))
