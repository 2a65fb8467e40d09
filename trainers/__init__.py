"""One trainer recipe a file; the file is named like the class."""

from nnunet_partial.trainers.PartialLabelTrainer import PartialLabelTrainer
from nnunet_partial.trainers.PartialLabelTrainerAmbiguity import PartialLabelTrainerAmbiguity
from nnunet_partial.trainers.PartialLabelTrainerFineTune import PartialLabelTrainerFineTune
from nnunet_partial.trainers.PartialLabelTrainerImplicit import PartialLabelTrainerImplicit
from nnunet_partial.trainers.PartialLabelTrainerImplicitCalibrated import PartialLabelTrainerImplicitCalibrated
from nnunet_partial.trainers.PartialLabelTrainerLeafDice import PartialLabelTrainerLeafDice
from nnunet_partial.trainers.PartialLabelTrainerMarginal import PartialLabelTrainerMarginal
from nnunet_partial.trainers.PartialLabelTrainerMarginalDice import PartialLabelTrainerMarginalDice
from nnunet_partial.trainers.PartialLabelTrainerMultiTalent import PartialLabelTrainerMultiTalent
from nnunet_partial.trainers.PartialLabelTrainerNaive import PartialLabelTrainerNaive
from nnunet_partial.trainers.PartialLabelTrainerSelected import PartialLabelTrainerSelected

__all__ = [
    "PartialLabelTrainer",
    "PartialLabelTrainerAmbiguity",
    "PartialLabelTrainerFineTune",
    "PartialLabelTrainerImplicit",
    "PartialLabelTrainerImplicitCalibrated",
    "PartialLabelTrainerLeafDice",
    "PartialLabelTrainerMarginal",
    "PartialLabelTrainerMarginalDice",
    "PartialLabelTrainerMultiTalent",
    "PartialLabelTrainerNaive",
    "PartialLabelTrainerSelected",
]
