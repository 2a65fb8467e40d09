"""Drawing cases by the sizes of their source datasets, as MultiTalent does, or all alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnunet_partial.labels import PartialLabels
from nnunet_partial.sampling.draws import NO_CLASS, Draws, informative_cases
from nnunet_partial.sampling.voxel_counts import VoxelCounts, class_voxels

__all__ = ["UNIFORM", "CaseSampling"]


@dataclass(frozen=True)
class CaseSampling:
    """Cases are drawn by p(case) ∝ n^(-power), n the cases of its source in this fold.

    With power 1/2 (Ulrich et al. 2023, section 2.2, "Multi-dataset Training Setup") a source of n cases is drawn
    in proportion to √n; with power 0 every case is equally likely, with power 1 every source.

    A share of the patches is centred on a voxel of a class, drawn uniformly among the classes that the case has
    voxels of; the others lie anywhere. As in nnU-Net the share is rounded to whole places of a batch. It is made up
    of the cases that have such voxels, in proportion to their probability. nnU-Net's forced places whose case has no
    structure fall back to anywhere; here such cases are drawn less in the forced places and more in the others, so
    that p(case) stays as it is and the share is met exactly. Where such cases are so rare that p(case) does not
    allow for it, the share is smaller.

    Attributes:
        power: In [0, 1].
        unlabelled_share: Probability of drawing a case of which nothing is known, in [0, 1). 0 for losses that
            learn nothing from such a case; without effect where there is no such case.
        foreground_share: Share of patches centred on a class (nnU-Net's oversampling), in [0, 1].
    """

    power: float = 0.5
    unlabelled_share: float = 0.0
    foreground_share: float = 0.33

    def __post_init__(self) -> None:
        if not 0 <= self.power <= 1 or not 0 <= self.unlabelled_share < 1 or not 0 <= self.foreground_share <= 1:
            raise ValueError(
                "expected power and foreground_share in [0, 1] and unlabelled_share in [0, 1), got "
                f"{self.power}, {self.foreground_share} and {self.unlabelled_share}"
            )

    def draws(
        self, cases: Sequence[str], labels: PartialLabels, counts: VoxelCounts, batch_size: int | None = None
    ) -> Draws:
        """The distribution of the next patch.

        Args:
            cases: The cases of the fold.
            labels: The label model.
            counts: Voxels of every label value in these cases.
            batch_size: Patches a batch, over all ranks, by which `foreground_share` is rounded; None leaves it.

        Raises:
            LabelError: In none of the cases anything is known.
        """
        informative = informative_cases(cases, labels)
        probability = self._case_probabilities(cases, labels, informative)
        held = (class_voxels(labels, counts, cases) > 0) & informative[:, None]
        centred = probability * held.any(1)
        if centred.any():
            centred *= min(1.0, self._rounded_share(batch_size) / centred.sum())
        case, class_ = np.nonzero(held)
        return Draws.of(
            cases,
            labels,
            np.concatenate([case, np.arange(len(cases))]),
            np.concatenate([class_, np.full(len(cases), NO_CLASS)]),
            np.concatenate([(centred / np.maximum(held.sum(1), 1))[case], probability - centred]),
        )

    def _case_probabilities(
        self, cases: Sequence[str], labels: PartialLabels, informative: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float64]:
        sources = [(labels.source_of(c), bool(a)) for c, a in zip(cases, informative, strict=True)]
        sizes = Counter(sources)
        weights = np.array([sizes[s] ** -self.power for s in sources], np.float64)
        share = 0.0 if informative.all() else self.unlabelled_share
        weights[informative] *= (1 - share) / weights[informative].sum()
        weights[~informative] *= share / max(weights[~informative].sum(), 1e-300)
        return weights

    def _rounded_share(self, batch_size: int | None) -> float:
        """The share of a batch's places that nnU-Net centres: those from round(batch_size * (1 - share)) on."""
        if batch_size is None:
            return self.foreground_share
        return 1 - round(batch_size * (1 - self.foreground_share)) / batch_size


UNIFORM = CaseSampling(power=0.0, foreground_share=0.0)
"""Every annotated case is equally likely, every place in it too."""
