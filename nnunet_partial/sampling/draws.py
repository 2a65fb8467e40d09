"""`Draws`: the probability of every case and class that the next training patch can come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from nnunet_partial.errors import LabelError
from nnunet_partial.labels import PartialLabels

__all__ = [
    "ANYWHERE",
    "NO_CLASS",
    "Draws",
    "Level",
    "describe_never_drawn",
    "describe_unused",
    "informative_cases",
]

ANYWHERE = "anywhere"
NO_CLASS = -1
_NAMED = 3

Level = Literal["class", "modality", "source", "case"]
_Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Draws:
    """The joint distribution of the next patch: a case, and a class on one of whose voxels it is centred, or none.

    Patches are drawn independently and with replacement.

    Attributes:
        cases: Case identifiers.
        classes: Class names.
        modalities: Modality of each case.
        sources: Source dataset of each case.
        case: (N,) index into `cases`.
        cls: (N,) index into `classes`; -1 for a patch anywhere in the volume.
        probability: (N,) above 0, sums to 1. What has no row is never drawn.
    """

    cases: tuple[str, ...]
    classes: tuple[str, ...]
    modalities: tuple[str, ...]
    sources: tuple[str, ...]
    case: _Integers
    cls: _Integers
    probability: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        total = float(self.probability.sum())
        if not np.isclose(total, 1, rtol=0, atol=1e-9) or not (self.probability > 0).all():
            raise ValueError(f"expected probabilities above 0 that sum to 1, got a sum of {total}")

    @classmethod
    def of(
        cls, cases: Sequence[str], labels: PartialLabels, case: _Integers, class_: _Integers, weight: npt.ArrayLike
    ) -> Draws:
        """Draws in proportion to weights; rows of weight 0 are left out.

        Args:
            cases: Case identifiers.
            labels: The label model.
            case: (N,) index into `cases`.
            class_: (N,) index of the class, -1 for none.
            weight: (N,) 0 or more.
        """
        weights = np.asarray(weight, np.float64)
        kept = weights > 0
        sets = [labels.set_of(c) for c in cases]
        return cls(
            tuple(cases),
            labels.class_names,
            tuple(s.modality for s in sets),
            tuple(s.source for s in sets),
            np.asarray(case, np.int64)[kept],
            np.asarray(class_, np.int64)[kept],
            weights[kept] / weights.sum(),
        )

    @classmethod
    def anywhere(cls, cases: Sequence[str], labels: PartialLabels) -> Draws:
        """Every case is equally likely, every place in it too: for cases of which nothing needs to be known."""
        everyone = np.arange(len(cases))
        return cls.of(cases, labels, everyone, np.full(len(cases), NO_CLASS), np.ones(len(cases)))

    def with_never_drawn(self, cases: Sequence[str], labels: PartialLabels) -> Draws:
        """The same distribution, in which further cases are listed that are never drawn; indices stay as they are.

        Args:
            cases: Case identifiers, none of which is listed yet.
            labels: The label model.
        """
        sets = [labels.set_of(c) for c in cases]
        return replace(
            self,
            cases=(*self.cases, *cases),
            modalities=(*self.modalities, *(s.modality for s in sets)),
            sources=(*self.sources, *(s.source for s in sets)),
        )

    @cached_property
    def centred_share(self) -> float:
        """Probability that a patch is centred on a voxel of a class."""
        return float(self.probability[self.cls != NO_CLASS].sum())

    def draw(self, rng: np.random.Generator, centred: bool | None = None) -> tuple[str, int]:
        """Draws a case and a class.

        Args:
            rng: Source of randomness; one number is taken.
            centred: True for a row with a class, False for one without; drawn from all rows where there is no such
                row. None draws from all rows.

        Returns:
            Case identifier and class index, -1 for a patch anywhere.
        """
        rows, cumulative = self._table[centred]
        found = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
        row = rows[min(found, len(rows) - 1)]
        return self.cases[self.case[row]], int(self.cls[row])

    def names(self, level: Level) -> tuple[str, ...]:
        """What can be drawn at a level; classes are followed by 'anywhere'."""
        if level == "class":
            return (*self.classes, ANYWHERE)
        if level == "case":
            return self.cases
        return tuple(dict.fromkeys(self.modalities if level == "modality" else self.sources))

    def indices(self, level: Level, case: _Integers, class_: _Integers) -> _Integers:
        """Index into `names(level)` of drawn cases and classes, given as indices."""
        if level == "class":
            return np.where(class_ == NO_CLASS, len(self.classes), class_)
        if level == "case":
            return case
        position = {name: index for index, name in enumerate(self.names(level))}
        of_case = [position[name] for name in (self.modalities if level == "modality" else self.sources)]
        return np.array(of_case, np.int64)[case]

    def marginal(self, level: Level) -> dict[str, float]:
        """Probability of every class (and of 'anywhere'), modality, source or case; 0 for what is never drawn."""
        names = self.names(level)
        indices = self.indices(level, self.case, self.cls)
        sums = np.bincount(indices, self.probability, minlength=len(names))
        return dict(zip(names, sums.tolist(), strict=True))

    @cached_property
    def _table(self) -> dict[bool | None, tuple[_Integers, npt.NDArray[np.float64]]]:
        """Rows to draw from, and their cumulative probabilities."""
        everything = np.ones(len(self.cls), bool)
        table = {}
        for centred, chosen in ((None, everything), (True, self.cls != NO_CLASS), (False, self.cls == NO_CLASS)):
            rows = np.flatnonzero(chosen if chosen.any() else everything)
            table[centred] = (rows, np.cumsum(self.probability[rows]))
        return table


def informative_cases(cases: Sequence[str], labels: PartialLabels) -> npt.NDArray[np.bool_]:
    """Whether anything is known in each case: (N,).

    Raises:
        LabelError: Nothing is known in any of them.
    """
    informative = np.array([labels.is_informative(c) for c in cases], bool)
    if not informative.any():
        raise LabelError(
            f"nothing is annotated in any of the {len(cases)} cases of this fold; "
            "make other folds (splits_final.json) or train on all of them (fold 'all')"
        )
    return informative


def describe_unused(labels: PartialLabels, cases: Sequence[str], unused: Collection[str]) -> list[str]:
    """A line for the log where labelled cases teach nothing without implied negatives; no line where there are none.

    Args:
        labels: The label model.
        cases: The training cases of the fold.
        unused: Those of them that are labelled, but annotate none of the trained classes.
    """
    if not unused:
        return []
    by_source = Counter(labels.source_of(case) for case in unused)
    labelled = Counter(labels.source_of(case) for case in cases if labels.is_informative(case))
    listed = ", ".join(f"{n} of {labelled[source]} of source '{source}'" for source, n in by_source.items())
    return [
        f"{len(unused)} of {labelled.total()} labelled training cases are not used, as they annotate none of the "
        f"trained classes and nothing else is learned without implied negatives: {listed}; "
        "nnUNet_partial_implied_negatives=1 or a trainer with a softmax (e.g. -tr PartialLabelTrainerMarginal) would "
        "use them"
    ]


def describe_never_drawn(labels: PartialLabels, draws: Draws, unused: Collection[str] = ()) -> list[str]:
    """A line for the log where cases of which something is known are never drawn; no line where there are none.

    Args:
        labels: The label model.
        draws: What training patches are drawn from.
        unused: Cases that are left out here, as `describe_unused` tells of them.
    """
    informative = [case for case in draws.cases if labels.is_informative(case)]
    probability = draws.marginal("case")
    never = [case for case in informative if not probability[case] and case not in unused]
    if not never:
        return []
    listed = ", ".join(never[:_NAMED]) + (", ..." if len(never) > _NAMED else "")
    return [
        f"{len(never)} of {len(informative)} labelled training cases are never drawn, as all patches are centred on a "
        f"class and these have no voxel of any: {listed}; nnUNet_partial_sampling=cmd_anywhere would draw them"
    ]
