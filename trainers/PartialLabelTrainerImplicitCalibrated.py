"""Implicit labels for volumes: the weights of Jenke et al. without their shift of the threshold."""

from dataclasses import replace
from functools import partial

from nnunet_partial.losses import ImplicitLabelLoss
from nnunet_partial.trainers.PartialLabelTrainerImplicit import PartialLabelTrainerImplicit
from nnunet_partial.training import PartialTrainer

__all__ = ["PartialLabelTrainerImplicitCalibrated"]


class PartialLabelTrainerImplicitCalibrated(PartialTrainer):
    """`PartialLabelTrainerImplicit`, but a predicted probability means what it says; see `ImplicitLabelLoss`.

    For 3D, where positive weights are in the hundreds and the published method finds organs in far too many places.
    """

    recipe = replace(PartialLabelTrainerImplicit.recipe, loss=partial(ImplicitLabelLoss, calibrated=True))
