"""Recipes: what distinguishes one trainer from another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from inspect import signature

from torch import nn

from nnunet_partial.errors import PartialError
from nnunet_partial.labels import PartialLabels, with_classes
from nnunet_partial.sampling import UNIFORM, CaseSampling, HierarchicalSampling, Sampling
from nnunet_partial.training.heads import SIGMOID, Heads
from nnunet_partial.training.schedule import Schedule
from nnunet_partial.training.settings import read_setting, read_weight, refuse_unknown_settings
from nnunet_partial.training.slice_axes import SLICES

__all__ = ["SAMPLINGS", "SETTINGS", "Recipe", "unchanged"]

SAMPLINGS: dict[str, Sampling] = {
    "multitalent": CaseSampling(power=0.5),
    "cases": CaseSampling(power=0.0),
    "uniform": UNIFORM,
    "cmd": HierarchicalSampling(levels=("class", "modality", "source")),
    "cmd_anywhere": HierarchicalSampling(levels=("class", "modality", "source"), anywhere_share=1 / 3),
    "mdc": HierarchicalSampling(levels=("modality", "source", "class")),
}
"""What `nnUNet_partial_sampling` can name."""

_LOSS_WEIGHTS = ("entropy_weight", "entropy_weight_unannotated", "smoothing")


def unchanged(labels: PartialLabels) -> PartialLabels:
    """The label space as the dataset declares it."""
    return labels


@dataclass(frozen=True)
class Recipe:
    """One training method.

    Attributes:
        loss: Makes the loss, called as `loss(logits, labels, table)`. Gets the keyword `positive_weights` where
            `positive_weights` is set, `slice_axis` where `slices` is, `optional` where `optional` is, and
            `loss_weights`.
        heads: What the channels mean: one sigmoid a class or one softmax over the atoms.
        label_space: Turns the declared label space into the one that is trained.
        sampling: How patches are drawn.
        implied_negatives: Whether a label of one class teaches the other classes of its axis that they are absent
            there; without, a class is trained only in cases that annotate it.
        positive_weights: The loss weighs positive voxels by the ratio of negative to positive voxels of the
            training cases.
        slices: 'axial', 'coronal' or 'sagittal' where the loss is computed slice by slice; '' for whole patches.
        optional: Comma-separated classes that only some cases annotate (S of Zhu et al. 2023, equation 2); all others
            count as annotated everywhere. '' for all.
        entropy_weight: Weight of the entropy of samples with annotated voxels; None for that of `loss`, here and in the
            two next.
        entropy_weight_unannotated: Weight of the entropy of samples without.
        smoothing: Of the Dice, above 0.
        head_prior: Probability that untrained sigmoid heads give every class, in (0, 1); None leaves the network's own
            initialisation, which gives about one half. Most classes fill far less than a hundredth of a patch, and
            a small prior spares the first iterations the collapse of all heads to zero (Lin et al., ICCV 2017,
            section 3.3).
        pretrained: Checkpoint whose weights the network starts from; heads are taken over by class; see
            `load_pretrained`.
        needs_pretrained: Training without `pretrained` makes no sense.
        classes: Comma-separated classes to train; '' for all.
        schedule: Length and pace.
    """

    loss: Callable[..., nn.Module]
    heads: Heads = SIGMOID
    label_space: Callable[[PartialLabels], PartialLabels] = unchanged
    sampling: Sampling = field(default_factory=CaseSampling)
    implied_negatives: bool = True
    positive_weights: bool = False
    slices: str = ""
    optional: str = ""
    entropy_weight: float | None = None
    entropy_weight_unannotated: float | None = None
    smoothing: float | None = None
    head_prior: float | None = None
    pretrained: str = ""
    needs_pretrained: bool = False
    classes: str = ""
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        if self.heads is not SIGMOID and (self.positive_weights or self.head_prior or not self.implied_negatives):
            raise PartialError(
                "positive_weights, head_prior and implied_negatives = 0 belong to sigmoid heads; this trainer has a "
                "softmax"
            )
        self._refuse_what_the_loss_does_not_take()

    def _refuse_what_the_loss_does_not_take(self) -> None:
        known = signature(self.loss).parameters
        reasons = {
            "slices": "sigmoid losses leave out slices that nobody annotated in any case; of the others, that of "
            "PartialLabelTrainerAmbiguity can be computed slice by slice",
            "optional": "only the loss of PartialLabelTrainerSelected takes classes for annotated everywhere",
            **dict.fromkeys(_LOSS_WEIGHTS, "only that of PartialLabelTrainerAmbiguity does"),
        }
        keywords = {"slices": "slice_axis"}
        for name, reason in reasons.items():
            if getattr(self, name) not in ("", None) and keywords.get(name, name) not in known:
                raise PartialError(f"{name}: the loss of this trainer knows nothing of it; {reason}")

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weights that replace those of `loss`, by keyword."""
        weights = {name: getattr(self, name) for name in _LOSS_WEIGHTS}
        return {name: weight for name, weight in weights.items() if weight is not None}

    def from_environment(self) -> Recipe:
        """This recipe with what environment variables `nnUNet_partial_NAME` set.

        Raises:
            PartialError: A variable does not exist, or holds something it cannot be.
        """
        refuse_unknown_settings(SETTINGS)
        sampling = self.sampling
        name = read_setting("sampling", "", choices=tuple(SAMPLINGS))
        if name:
            sampling = replace(SAMPLINGS[name], unlabelled_share=sampling.unlabelled_share)
        share = read_setting("unlabelled_share", sampling.unlabelled_share)
        if not share < 1:
            raise PartialError(f"nnUNet_partial_unlabelled_share: expected a share below 1, found {share}")
        return replace(
            self,
            sampling=replace(sampling, unlabelled_share=share),
            implied_negatives=read_setting("implied_negatives", self.implied_negatives),
            slices=read_setting("slices", self.slices, choices=tuple(SLICES)),
            optional=read_setting("optional", self.optional),
            entropy_weight=read_weight("entropy_weight", self.entropy_weight),
            entropy_weight_unannotated=read_weight("entropy_weight_unannotated", self.entropy_weight_unannotated),
            smoothing=read_weight("smoothing", self.smoothing, zero=False),
            pretrained=read_setting("pretrained", self.pretrained),
            classes=read_setting("classes", self.classes),
            schedule=self.schedule.from_environment(),
        )

    def train_labels(self, labels: PartialLabels) -> PartialLabels:
        """The label space that is trained on a dataset: transformed, then restricted to the chosen classes.

        Raises:
            LabelError: A chosen class does not exist.
        """
        labels = self.label_space(labels)
        if not self.classes:
            return labels
        return with_classes(labels, [name.strip() for name in self.classes.split(",")])


SETTINGS = (
    "sampling",
    "unlabelled_share",
    "implied_negatives",
    "slices",
    "optional",
    *_LOSS_WEIGHTS,
    "pretrained",
    "classes",
    *(entry.name for entry in fields(Schedule)),
)
"""Names of the environment variables, without `nnUNet_partial_`."""
