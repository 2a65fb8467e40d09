"""Training inside nnU-Net: one trainer class, configured by recipes."""

from nnunet_partial.training.heads import SIGMOID, SOFTMAX
from nnunet_partial.training.partial_trainer import PartialTrainer
from nnunet_partial.training.recipe import Recipe
from nnunet_partial.training.schedule import Schedule

__all__ = ["SIGMOID", "SOFTMAX", "PartialTrainer", "Recipe", "Schedule"]
