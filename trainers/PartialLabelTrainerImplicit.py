"""Implicit labels: Jenke et al., IJCARS 2024."""

from nnunet_partial.losses import ImplicitLabelLoss
from nnunet_partial.sampling import CaseSampling
from nnunet_partial.training import PartialTrainer, Recipe, Schedule

__all__ = ["PartialLabelTrainerImplicit"]


class PartialLabelTrainerImplicit(PartialTrainer):
    """Weighted binary cross-entropy; a positive label of one class is a negative of every other class of its axis.

    Equations 1 and 2 with positive weights = negatives : positives, implied negatives counted, over the training
    cases of the fold. AdamW, 3e-4, a tenth less every 10 epochs, weight decay 0.1 (section 3.2). The ablation
    'masking only' is `nnUNet_partial_implied_negatives=0`; `nnUNetv2_partial_ensemble` trains one model a class.

    Label maps are nnU-Net's: of the classes above one half the last one is painted. The paper takes the most probable
    one (section 2.2), which stock nnUNetv2_predict cannot do for sigmoid heads.
    """

    recipe = Recipe(
        loss=ImplicitLabelLoss,
        positive_weights=True,
        sampling=CaseSampling(power=0.0),
        schedule=Schedule(epochs=100, optimizer="adamw", learning_rate=3e-4, decay="step", weight_decay=0.1),
    )
