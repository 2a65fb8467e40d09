"""Cross-validation folds of a partly labelled dataset: stratified by source, grouped by patient."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np

from nnunet_partial.errors import LabelError
from nnunet_partial.labels.partial_labels import PartialLabels

__all__ = ["stratified_splits"]

Split = dict[str, list[str]]


def stratified_splits(
    labels: PartialLabels, cases: Sequence[str] | None = None, *, folds: int = 5, seed: int = 12345
) -> list[Split]:
    """Folds in nnU-Net's form, in which every source is spread over the folds and no patient stands in two.

    Cases in which nothing is annotated cannot be scored: they are in the training part of every fold, unless
    their patient is being validated.

    Args:
        labels: The label model.
        cases: Cases to split; all by default.
        folds: Number of folds, 2 or more.
        seed: Of the shuffling; the same seed gives the same folds.

    Returns:
        One {"train": [...], "val": [...]} a fold, sorted.

    Raises:
        LabelError: There are fewer annotated patients than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    names = sorted(labels.cases if cases is None else cases)
    scored = [c for c in names if labels.is_annotated(c)]
    patients = [labels.patient_of(c) for c in scored]
    if len(set(patients)) < folds:
        raise LabelError(
            f"{folds} folds need at least {folds} annotated patients, found {len(set(patients))}; set 'folds' lower"
        )
    sources = [labels.source_of(c) for c in scored]
    if max(Counter(sources).values()) < folds:  # too few cases of each source to spread any over all folds
        sources = [""] * len(scored)
    # the splitter warns where a source has fewer cases than folds; such a source simply misses some folds
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    splits = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for _, validation in splitter.split(np.zeros(len(scored)), sources, patients):
            held_out = {patients[i] for i in validation}
            splits.append(
                {
                    "train": [c for c in names if labels.patient_of(c) not in held_out],
                    "val": sorted(scored[i] for i in validation),
                }
            )
    return splits
