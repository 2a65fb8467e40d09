"""MultiTalent: Ulrich et al., MICCAI 2023, doi:10.1007/978-3-031-43898-1_62."""

from nnunet_partial.labels import one_axis_per_source
from nnunet_partial.losses import MultiTalentLoss
from nnunet_partial.sampling import CaseSampling
from nnunet_partial.training import PartialTrainer, Recipe, Schedule

__all__ = ["PartialLabelTrainerMultiTalent"]


class PartialLabelTrainerMultiTalent(PartialTrainer):
    """MultiTalent as published: every source keeps its own classes, one sigmoid head each.

    The class `liver` of sources `lits` and `btcv` becomes the heads `lits.liver` and `btcv.liver`; a case teaches
    only the heads of its own source (section 2.1). Loss of equation 2, p(case) ∝ 1/√n, 2000 epochs. Patch, spacing
    and batch size come from the plans; the paper used 96x192x192 voxels of 1.5x1x1 mm and batch size 4.
    """

    recipe = Recipe(
        loss=MultiTalentLoss,
        label_space=one_axis_per_source,
        sampling=CaseSampling(power=0.5),
        schedule=Schedule(epochs=2000),
    )
