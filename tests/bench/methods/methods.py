"""The methods that are compared: the recipes of the trainers, and variations that a publication or a baseline needs.

Of a recipe the benchmark takes loss, heads, label space, slices, optional classes, positive weights and implied
negatives. Sampling, initial weights and schedule are the benchmark's, the same for all, so that they explain no
difference. Sigmoid heads start at the default trainer's probability, whatever the recipe says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from nnunet_partial.losses import SelectedPartialLoss
from nnunet_partial.sampling import Sampling
from nnunet_partial.trainers import (
    PartialLabelTrainer,
    PartialLabelTrainerAmbiguity,
    PartialLabelTrainerImplicit,
    PartialLabelTrainerImplicitCalibrated,
    PartialLabelTrainerLeafDice,
    PartialLabelTrainerMarginal,
    PartialLabelTrainerMarginalDice,
    PartialLabelTrainerMultiTalent,
    PartialLabelTrainerNaive,
    PartialLabelTrainerSelected,
)
from nnunet_partial.training import SIGMOID, Recipe
from nnunet_partial.training.recipe import SAMPLINGS

__all__ = ["METHODS", "SAMPLING_TITLES", "Method"]

SAMPLING_TITLES = {
    "multitalent": "1/√n",
    "uniform": "uniform",
    "mdc": "modality→source→class",
    "cmd": "class→modality→source",
    "cmd_anywhere": "class→modality→source, a third anywhere",
    "cases": "cases",
}
"""Sampling to what tables call it, in their order."""


@dataclass(frozen=True)
class Method:
    """One way to train.

    Attributes:
        title: What tables call it.
        recipe: What is trained.
        networks: One network for all, one a 'class' (of the cases that annotate it), or one a 'source'. Several
            networks share the iterations: what is compared costs the same.
        fully_labelled: Trained with the labels that the others do not see: an upper bound.
    """

    title: str
    recipe: Recipe
    networks: Literal["one", "class", "source"] = "one"
    fully_labelled: bool = False

    def recipe_with(self, sampling: str) -> Recipe:
        """The recipe under the benchmark's conditions.

        Args:
            sampling: One of SAMPLINGS; the share of unlabelled cases stays the recipe's.
        """
        drawn: Sampling = replace(SAMPLINGS[sampling], unlabelled_share=self.recipe.sampling.unlabelled_share)
        prior = PartialLabelTrainer.recipe.head_prior if self.recipe.heads is SIGMOID else None
        return replace(self.recipe, sampling=drawn, head_prior=prior)


_DEFAULT = PartialLabelTrainer.recipe
_IMPLICIT = PartialLabelTrainerImplicit.recipe
_CALIBRATED = PartialLabelTrainerImplicitCalibrated.recipe
_SELECTED = PartialLabelTrainerSelected.recipe
_AMBIGUITY = PartialLabelTrainerAmbiguity.recipe
# without entropy nothing is learned from an unlabelled case, so none is drawn
_WITHOUT_ENTROPY = replace(
    _AMBIGUITY,
    loss=partial(_AMBIGUITY.loss, entropy_weight=0.0, entropy_weight_unannotated=0.0),
    sampling=replace(_AMBIGUITY.sampling, unlabelled_share=0.0),
)

_BY_SLICES = replace(_WITHOUT_ENTROPY, slices="axial")
_PAPERS_SMOOTHING = replace(_AMBIGUITY, loss=partial(_AMBIGUITY.loss, smoothing=1.0))

METHODS: dict[str, Method] = {
    "naive": Method("naive (unlabelled is background)", PartialLabelTrainerNaive.recipe),
    "masked": Method("masking only", replace(_DEFAULT, implied_negatives=False)),
    "multitalent": Method("MultiTalent (one axis a source)", PartialLabelTrainerMultiTalent.recipe),
    "per_source": Method("one model a source", replace(_DEFAULT, implied_negatives=False), networks="source"),
    "shared": Method("shared heads (default trainer)", _DEFAULT),
    "selected": Method("selected partial loss", _SELECTED),
    "selected_normal": Method(
        "selected's normal loss (nothing selected)", replace(_SELECTED, loss=partial(SelectedPartialLoss, optional=()))
    ),
    "implicit": Method("implicit labels", _IMPLICIT),
    "implicit_masked": Method("implicit labels, masking only", replace(_IMPLICIT, implied_negatives=False)),
    "implicit_calibrated": Method("implicit labels, calibrated", _CALIBRATED),
    "per_class": Method("one model a class", replace(_IMPLICIT, implied_negatives=False), networks="class"),
    "per_class_calibrated": Method(
        "one model a class, calibrated", replace(_CALIBRATED, implied_negatives=False), networks="class"
    ),
    "marginal": Method("marginal and exclusion loss", PartialLabelTrainerMarginal.recipe),
    "leaf_dice": Method("leaf-Dice", PartialLabelTrainerLeafDice.recipe),
    "marginal_dice": Method("marginalised Dice", PartialLabelTrainerMarginalDice.recipe),
    "ambiguity": Method("ambiguity-aware losses", _AMBIGUITY),
    "ambiguity_no_entropy": Method("ambiguity-aware losses, no entropy", _WITHOUT_ENTROPY),
    "ambiguity_slices": Method("ambiguity-aware losses, no entropy, slice by slice", _BY_SLICES),
    "ambiguity_smoothing": Method("ambiguity-aware losses, Dice smoothing 1", _PAPERS_SMOOTHING),
    "full_sigmoid": Method("fully labelled, sigmoid", _DEFAULT, fully_labelled=True),
    "full_softmax": Method("fully labelled, softmax", _AMBIGUITY, fully_labelled=True),
    "full_marginal": Method(
        "fully labelled, softmax, no entropy", PartialLabelTrainerMarginal.recipe, fully_labelled=True
    ),
}
