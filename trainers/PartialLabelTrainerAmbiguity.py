"""Self-disambiguation: Chen et al., CVPR 2024."""

from functools import partial

from nnunet_partial.losses import AmbiguityAwareLoss
from nnunet_partial.sampling import HierarchicalSampling
from nnunet_partial.training import SOFTMAX, PartialTrainer, Recipe, Schedule

__all__ = ["PartialLabelTrainerAmbiguity"]


class PartialLabelTrainerAmbiguity(PartialTrainer):
    """Softmax over atoms; focal cross-entropy and Dice of the atoms that a label allows; entropy minimisation.

    Patches are drawn class → modality → source → case (section 3.5), a tenth of them from unlabelled cases where
    there are any. AdamW, 1e-3, 200 epochs of 1000 iterations, polynomial decay by epoch (section 4.1; the weight
    decay is that of the public code). The smoothing of the Dice is nnU-Net's: with the paper's 1, small structures were
    not learned at all, see docs/benchmarks.md. `nnUNet_partial_slices=axial` computes the losses slice by slice.
    """

    recipe = Recipe(
        loss=partial(AmbiguityAwareLoss, smoothing=1e-5),
        heads=SOFTMAX,
        sampling=HierarchicalSampling(unlabelled_share=0.1),
        schedule=Schedule(epochs=200, iterations=1000, optimizer="adamw", learning_rate=1e-3, weight_decay=1e-5),
    )
