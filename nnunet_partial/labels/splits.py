"""Folds of a partly labelled dataset: stratified by source and grouped by patient, or those of its sources."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nnunet_partial.atomic import write_json
from nnunet_partial.errors import LabelError, PartialError
from nnunet_partial.labels.partial_labels import PartialLabels
from nnunet_partial.labels.raw_dataset import environment_folder

__all__ = ["Split", "read_splits", "splits_of_sources", "stratified_splits", "write_preprocessed_splits"]

Split = dict[str, list[str]]
"""One fold: cases by 'train' and 'val'."""


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


def splits_of_sources(labels: PartialLabels, folders: Mapping[str, Path]) -> list[Split]:
    """The folds that the merged datasets have themselves: fold 0 consists of the folds 0 of all of them.

    Args:
        labels: The label model of the merged dataset, whose cases are called SOURCE_CASE.
        folders: Source to its raw dataset.

    Returns:
        One {"train": [...], "val": [...]} a fold, sorted; cases that are not merged are left out.

    Raises:
        LabelError: A dataset has no folds, or not for all of its cases; numbers of folds differ; or a patient would be
            trained on and validated on.
    """
    of_source = {source: read_splits(folder) for source, folder in folders.items()}
    counts = {source: len(splits) for source, splits in of_source.items()}
    if 0 in counts.values() or len(set(counts.values())) != 1:
        raise LabelError(
            "'folds: dataset' takes the folds of splits_final.json in the datasets, which must be as many in all of "
            f"them, found {counts}; give a number of folds instead"
        )
    merged = []
    for fold in range(next(iter(counts.values()))):
        split: Split = {}
        for part in ("train", "val"):
            listed = {f"{source}_{case}" for source, splits in of_source.items() for case in splits[fold][part]}
            split[part] = sorted(listed & labels.cases.keys())
        missing = sorted(labels.cases.keys() - set(split["train"] + split["val"]))
        if missing:
            raise LabelError(f"fold {fold} of the datasets neither trains on nor validates on {missing[:5]}")
        both = {labels.patient_of(c) for c in split["train"]} & {labels.patient_of(c) for c in split["val"]}
        if both:
            raise LabelError(
                f"fold {fold} of the datasets trains on and validates on the patients {sorted(both)[:5]}; give a "
                "number of folds instead of 'folds: dataset'"
            )
        merged.append(split)
    return merged


def read_splits(folder: Path) -> list[Split]:
    """The folds of a dataset, from its splits_final.json; none where there is no such file.

    Raises:
        LabelError: It is not a list of folds.
    """
    file = folder / "splits_final.json"
    try:
        return [{part: list(fold[part]) for part in ("train", "val")} for fold in json.loads(file.read_text("utf-8"))]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:  # ValueError: neither JSON nor text
        raise LabelError(
            f"{file}: not nnU-Net's list of folds with 'train' and 'val' ({error!r}); mend it, or remove it and make "
            "it again"
        ) from error


def write_preprocessed_splits(name: str, splits: Sequence[Mapping[str, Sequence[str]]], overwrite: bool) -> Path | None:
    """Puts the folds of a raw dataset where nnU-Net looks for them, if it is set up.

    Args:
        name: Folder name of the dataset.
        splits: Its folds.
        overwrite: Replace a different file of the user's.

    Returns:
        The user's file, where it differs and was kept.

    Raises:
        LabelError: The file that is there is damaged.
    """
    try:
        target = environment_folder("nnUNet_preprocessed") / name / "splits_final.json"
    except PartialError:
        return None
    if target.exists() and not overwrite and read_splits(target.parent) != splits:
        return target
    write_json(target, splits)
    return None
