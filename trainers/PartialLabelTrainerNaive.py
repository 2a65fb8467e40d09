"""The mistake that partial losses mend: what nobody labelled is taken for background."""

from nnunet_partial.losses import NaiveLoss
from nnunet_partial.sampling import CaseSampling
from nnunet_partial.training import PartialTrainer, Recipe

__all__ = ["PartialLabelTrainerNaive"]


class PartialLabelTrainerNaive(PartialTrainer):
    """Sigmoid heads; every class that a case does not annotate counts as absent there.

    For comparison only: it shows what merging datasets without a label model does. Validation scores annotated
    classes, as for all trainers.
    """

    recipe = Recipe(loss=NaiveLoss, sampling=CaseSampling(power=0.0))
