"""Training inside nnU-Net: one trainer class, configured by recipes."""

from nnunet_partial.training.partial_trainer import PartialTrainer
from nnunet_partial.training.recipe import Recipe, Schedule

__all__ = ["PartialTrainer", "Recipe", "Schedule"]
