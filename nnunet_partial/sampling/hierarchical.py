"""Drawing level by level: classes, modalities and sources all alike (Chen et al., section 3.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from nnunet_partial.errors import LabelError
from nnunet_partial.labels import PartialLabels
from nnunet_partial.sampling.draws import NO_CLASS, Draws, informative_cases
from nnunet_partial.sampling.voxel_counts import VoxelCounts, class_voxels

__all__ = ["HierarchicalSampling", "level_by_level"]

_Level = Literal["class", "modality", "source"]
_LEVELS: tuple[_Level, ...] = ("class", "modality", "source")
_Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HierarchicalSampling:
    """Draws uniformly at every level, among what exists given the levels before, then a case among those left.

    The default is CMD of Chen et al. 2024, section 3.5: class, modality, dataset. Their MDC is
    `('modality', 'source', 'class')`. Patches are centred on a voxel of the drawn class. Where 'class' is no
    level, the class is drawn last, uniformly among those that the case has voxels of.

    The public code of the paper counts the background as a class, and takes any value present, background
    included, where a class has vanished by resampling. Here only classes are drawn, and only in cases that have
    voxels of them. What lies far from all classes is shown by `anywhere_share`.

    Attributes:
        levels: 'class', 'modality' and 'source' in any order, or some of them.
        unlabelled_share: Probability of drawing a case of which nothing is known, in [0, 1), by the same levels but
            the class, and anywhere in the volume; without effect where there is no such case.
        anywhere_share: Share of the patches of labelled cases that lie anywhere in the volume, in [0, 1); drawn by
            the same levels but the class. Without it a case that has no voxel of any class is never drawn.
    """

    levels: tuple[_Level, ...] = _LEVELS
    unlabelled_share: float = 0.0
    anywhere_share: float = 0.0

    def __post_init__(self) -> None:
        if len(set(self.levels)) != len(self.levels) or not set(self.levels) <= set(_LEVELS):
            raise ValueError(f"expected levels out of {_LEVELS}, each at most once, got {self.levels}")
        for name in ("unlabelled_share", "anywhere_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"expected {name} in [0, 1), got {getattr(self, name)}")

    def draws(
        self, cases: Sequence[str], labels: PartialLabels, counts: VoxelCounts, batch_size: int | None = None
    ) -> Draws:
        """The distribution of the next patch.

        Args:
            cases: The cases of the fold.
            labels: The label model.
            counts: Voxels of every label value in these cases.
            batch_size: Not needed: no share is rounded to places of a batch.

        Raises:
            LabelError: Nothing is annotated in any of the cases, or no class has a voxel in them.
        """
        informative = informative_cases(cases, labels)
        case, class_ = np.nonzero((class_voxels(labels, counts, cases) > 0) & informative[:, None])
        if not len(case):
            raise LabelError(
                f"no class has a voxel in any of the {len(cases)} cases of this fold, so no patch can be centred on "
                "one; make other folds (splits_final.json) or train on all of them (fold 'all')"
            )
        share = 0.0 if informative.all() else self.unlabelled_share
        anywhere = (1 - share) * self.anywhere_share
        parts = [(case, class_, 1 - share - anywhere)]
        for chosen, part_share in ((informative, anywhere), (~informative, share)):
            free = np.flatnonzero(chosen)
            parts.append((free, np.full(len(free), NO_CLASS), part_share))
        return Draws.of(
            cases,
            labels,
            np.concatenate([rows for rows, _, _ in parts]),
            np.concatenate([classes for _, classes, _ in parts]),
            np.concatenate([s * level_by_level(self._columns(cases, labels, r, c)) for r, c, s in parts]),
        )

    def _columns(
        self, cases: Sequence[str], labels: PartialLabels, case: _Integers, class_: _Integers
    ) -> list[npt.NDArray[np.int64] | npt.NDArray[np.str_]]:
        """What every row is at each level; case and class come last, where they are no level before."""
        sets = [labels.set_of(c) for c in cases]
        columns = {
            "class": class_,
            "modality": np.array([s.modality for s in sets])[case],
            "source": np.array([s.source for s in sets])[case],
        }
        return [*(columns[level] for level in self.levels), case, class_]


def level_by_level(
    columns: Sequence[npt.NDArray[np.int64] | npt.NDArray[np.str_]],
) -> npt.NDArray[np.float64]:
    """Probability of every row, drawn column by column, uniformly among the entries left by the columns before.

    Args:
        columns: One array (N,) a level. No two rows are the same in all of them.

    Returns:
        (N,) the product over levels of 1 / (number of different entries among the rows that agree in the columns
        before); sums to 1.
    """
    probability = np.ones(len(columns[0]))
    group = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        _, entry = np.unique(column, return_inverse=True)
        _, first, child = np.unique(group * (len(column) + 1) + entry, return_index=True, return_inverse=True)
        probability /= np.bincount(group[first], minlength=1)[group]
        group = child
    return probability
