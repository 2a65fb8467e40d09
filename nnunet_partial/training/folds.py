"""The folds of a training: those that exist, those of the raw dataset, or new ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from nnunet_partial.atomic import write_json
from nnunet_partial.errors import LabelError
from nnunet_partial.labels import PartialLabels, read_splits, stratified_splits
from nnunet_partial.labels.raw_dataset import environment_folder
from nnunet_partial.labels.splits import Split

__all__ = ["prepare_fold"]

_FOLD_SEED = 12345


def prepare_fold(
    folder: Path, fold: int, labels: PartialLabels, cases: Callable[[], Sequence[str]], log: Callable[[str], object]
) -> Split | None:
    """Sees to splits_final.json, and draws a fold that lies beyond it.

    A preprocessed dataset without folds gets those of its raw dataset, so that they outlive the preprocessed folder;
    where these are missing or of other cases, new ones are stratified by source and grouped by patient. As in
    nnU-Net, a fold beyond those of the file is a fifth of the cases, drawn for it; here by patient, too.

    Args:
        folder: The preprocessed dataset, called as the raw one in $nnUNet_raw.
        fold: Its number, 0 or more.
        labels: The label model.
        cases: Gives the cases that are preprocessed; asked only where folds are missing.
        log: Takes lines of the log.

    Returns:
        The drawn fold; None where splits_final.json has the fold.

    Raises:
        LabelError: A splits_final.json is damaged, or there are too few patients.
    """
    splits = read_splits(folder)
    if not splits:
        found = cases()
        splits = _splits_of_raw(folder.name, found, log) or stratified_splits(labels, found)
        write_json(folder / "splits_final.json", splits)
    if fold < len(splits):
        return None
    log(f"splits_final.json has {len(splits)} folds; fold {fold} is drawn, by patient")
    return stratified_splits(labels, cases(), seed=_FOLD_SEED + fold)[0]


def _splits_of_raw(name: str, cases: Sequence[str], log: Callable[[str], object]) -> list[Split]:
    """The folds of a raw dataset; none where it has none, or where they name cases that are not preprocessed."""
    try:
        raw = environment_folder("nnUNet_raw") / name
    except LabelError:
        return []
    splits = read_splits(raw)
    if not splits:
        return []
    strange = sorted({case for split in splits for part in split.values() for case in part} - set(cases))
    if strange:
        log(
            f"{raw / 'splits_final.json'} is of other cases, {strange[:5]} are not preprocessed; new folds are drawn "
            "(preprocess again to use those)"
        )
        return []
    log(f"Folds: copied from {raw / 'splits_final.json'}")
    return splits
