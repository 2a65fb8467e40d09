"""One trainer recipe a file; the file is named like the class."""

from nnunet_partial.trainers.PartialLabelTrainer import PartialLabelTrainer
from nnunet_partial.trainers.PartialLabelTrainerMultiTalent import PartialLabelTrainerMultiTalent

__all__ = ["PartialLabelTrainer", "PartialLabelTrainerMultiTalent"]
