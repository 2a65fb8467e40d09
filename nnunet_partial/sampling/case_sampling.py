"""Probabilities of drawing a case, from the sizes of the source datasets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnunet_partial.errors import LabelError
from nnunet_partial.labels import PartialLabels

__all__ = ["CaseSampling"]


@dataclass(frozen=True)
class CaseSampling:
    """Cases are drawn with replacement, p(case) ∝ n^(-power), n the cases of its source in this fold.

    With power 1/2 (Ulrich et al. 2023, section 2.2, "Multi-dataset Training Setup") a source of n cases is drawn
    in proportion to √n; with power 0 every case is equally likely, with power 1 every source.

    Attributes:
        power: In [0, 1].
        unlabelled_share: Probability of drawing a case of which nothing is known, in [0, 1). 0 for losses that
            learn nothing from such a case.
    """

    power: float = 0.5
    unlabelled_share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.power <= 1 or not 0 <= self.unlabelled_share < 1:
            raise ValueError(
                f"expected power in [0, 1] and unlabelled_share in [0, 1), got {self.power} and {self.unlabelled_share}"
            )

    def probabilities(self, cases: Sequence[str], labels: PartialLabels) -> npt.NDArray[np.float64]:
        """Probability of each case; they sum to 1.

        Args:
            cases: Identifiers, in the order of the result.
            labels: The label model.

        Raises:
            LabelError: In none of the cases anything is known.
        """
        informative = np.array([labels.is_informative(c) for c in cases], bool)
        if not informative.any():
            raise LabelError(
                f"nothing is annotated in any of the {len(cases)} cases of this fold; "
                "make other folds (splits_final.json) or train on all of them (fold 'all')"
            )
        sources = [(labels.source_of(c), bool(a)) for c, a in zip(cases, informative, strict=True)]
        counts = Counter(sources)
        weights = np.array([counts[s] ** -self.power for s in sources], np.float64)
        shares = {True: 1 - self.unlabelled_share if (~informative).any() else 1.0, False: self.unlabelled_share}
        for group, share in shares.items():
            chosen = informative == group
            if chosen.any():
                weights[chosen] *= share / weights[chosen].sum()
        return np.asarray(weights / weights.sum(), np.float64)
