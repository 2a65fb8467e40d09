"""Where the patches of a training come from: cases, voxel counts, probabilities, and a log of what was drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
from torch import distributed as dist

from nnunet_partial.errors import LabelError
from nnunet_partial.labels import UNKNOWN, PartialLabels
from nnunet_partial.losses import NaiveLoss
from nnunet_partial.sampling import (
    Draws,
    FrequencyLog,
    VoxelCounts,
    count_raw_voxels,
    count_voxels,
    describe_missing,
    describe_never_drawn,
    describe_unused,
    outside_values,
    vanished,
)

if TYPE_CHECKING:
    from nnunet_partial.training.partial_trainer import PartialTrainer
    from nnunet_partial.training.recipe import Recipe

__all__ = ["PatchSources", "drawable_cases"]

_LOG_FILE = "sampling.csv"

T = TypeVar("T")


def drawable_cases(cases: Sequence[str], labels: PartialLabels, recipe: Recipe) -> list[str]:
    """The cases, without those that are labelled in a way that a training does not use.

    Without implied negatives a case of merged kidneys teaches neither side, so its patches would be wasted. Cases of
    which nothing is known at all stay: how often they are drawn is the sampling's `unlabelled_share`.

    Args:
        cases: Cases of a fold.
        labels: The label space that is trained.
        recipe: The training.
    """
    if recipe.implied_negatives or _takes_unknown_for_absent(recipe, labels):
        return list(cases)
    used = (recipe.heads.table(labels, recipe.implied_negatives) != UNKNOWN).any((1, 2))
    return [case for case in cases if used[labels.row_of(case)] or not labels.is_informative(case)]


def _takes_unknown_for_absent(recipe: Recipe, labels: PartialLabels) -> bool:
    """Whether the loss learns of some class in every case, whatever is annotated there."""
    if recipe.loss is NaiveLoss:
        return True
    if recipe.optional:
        return not set(recipe.heads.channels(labels)) <= {name.strip() for name in recipe.optional.split(",")}
    # a loss may come with a choice of its own: channels, or None for all classes
    parameter = signature(recipe.loss).parameters.get("optional")
    if parameter is None or parameter.default is None:
        return False
    return not set(range(len(recipe.heads.channels(labels)))) <= set(parameter.default)


class PatchSources:
    """Training and validation cases of a fold, and the probabilities with which patches are drawn from them.

    Args:
        trainer: The trainer; only its plans, folders, fold and recipe are used, no network.
    """

    def __init__(self, trainer: PartialTrainer) -> None:
        self._trainer = trainer

    @cached_property
    def datasets(self) -> tuple[Any, Any]:
        """nnU-Net's preprocessed datasets of training and validation."""
        training, validation = self._trainer.get_tr_and_val_datasets()
        return training, validation

    @property
    def validation_cases(self) -> list[str]:
        """Cases of the validation set."""
        return list(self.datasets[1].identifiers)

    @cached_property
    def counts(self) -> VoxelCounts:
        """Voxels of every label value in every case of the fold; counted once, kept beside the preprocessed data."""
        labels = self._trainer.partial_labels
        values, of_set = labels.states.shape[1], outside_values(labels)
        own = []
        for dataset in self.datasets:
            cases = self._share_of_rank(list(dataset.identifiers))
            outside = {case: int(of_set[labels.row_of(case)]) for case in cases}
            own.append(count_voxels(dataset, cases, values, cache=self._cache, outside=outside).of)
        return VoxelCounts(
            values, {case: n for parts in self._of_all_ranks(own) for of in parts for case, n in of.items()}
        )

    def _share_of_rank(self, cases: list[str]) -> list[str]:
        """The cases that this rank reads: all wait for the slowest, and process groups do not wait for ever."""
        return cases[self._trainer.local_rank :: dist.get_world_size()] if self._trainer.is_ddp else cases

    def _of_all_ranks(self, own: T) -> list[T]:
        """What each rank has found."""
        if not self._trainer.is_ddp:
            return [own]
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, own)
        return everyone

    @property
    def _cache(self) -> Path:
        trainer = self._trainer
        folder = Path(trainer.preprocessed_dataset_folder_base)
        return folder / f"{trainer.configuration_manager.data_identifier}_voxel_counts.json"

    def training_counts(self) -> tuple[list[str], npt.NDArray[np.int64]]:
        """The training cases and the voxels of every label value in them, (N, V)."""
        cases = list(self.datasets[0].identifiers)
        return cases, self.counts.matrix(cases)

    @cached_property
    def draws(self) -> tuple[Draws, Draws]:
        """What training and validation draw patches from."""
        labels, method = self._trainer.partial_labels, self._trainer.method
        training, validation = (drawable_cases(list(d.identifiers), labels, method) for d in self.datasets)
        sampling = method.sampling
        places = self._trainer.configuration_manager.batch_size
        try:
            # training alone learns from unlabelled cases
            held_out = replace(sampling, unlabelled_share=0.0).draws(validation, labels, self.counts, places)
        except LabelError:  # nothing to score, but training needs no validation: any case will do
            held_out = Draws.anywhere(self.validation_cases, labels)
        drawn = sampling.draws(training, labels, self.counts, places)
        # the log shows them with probability 0
        return drawn.with_never_drawn(self._unused, labels), held_out

    @cached_property
    def _unused(self) -> list[str]:
        """Labelled training cases that teach nothing."""
        cases = list(self.datasets[0].identifiers)
        drawable = set(drawable_cases(cases, self._trainer.partial_labels, self._trainer.method))
        return [case for case in cases if case not in drawable]

    @cached_property
    def log(self) -> FrequencyLog:
        """What the training batches of this epoch were drawn from."""
        return FrequencyLog(self.draws[0])

    def report_missing(self) -> None:
        """Writes to the training log which classes vanish or have no voxel, and which cases are never drawn."""
        trainer = self._trainer
        labels, cases = trainer.partial_labels, list(self.datasets[0].identifiers)
        own = VoxelCounts(self.counts.values, {case: self.counts.of[case] for case in self._share_of_rank(cases)})
        raw = count_raw_voxels(
            labels,
            own,
            Path(trainer.preprocessed_dataset_folder_base) / "gt_segmentations",
            trainer.dataset_json["file_ending"],
            cache=self._cache,
        )
        gone = [pair for pairs in self._of_all_ranks(vanished(labels, self.counts, raw)) for pair in pairs]
        self._warn(describe_missing(labels, self.counts, cases, gone))
        self._warn(describe_unused(labels, cases, self._unused))  # before the draws, which fail where none is left
        self._warn(describe_never_drawn(labels, self.draws[0], self._unused))

    def _warn(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._trainer.print_to_log_file(f"Warning: {line}")

    def report_epoch(self) -> None:
        """Writes what was drawn in this epoch, on all ranks, to the training log and to sampling.csv."""
        trainer = self._trainer
        drawn = self._of_all_ranks(self.log.drawn)
        self.log.reset()
        for part in drawn:
            self.log.merge(part)
        if trainer.local_rank == 0:
            for line in self.log.lines():
                trainer.print_to_log_file(line, also_print_to_console=False)
            self.log.write_csv(Path(trainer.output_folder) / _LOG_FILE, trainer.current_epoch)
        self.log.reset()
