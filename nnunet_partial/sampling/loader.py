"""nnU-Net's data loader, drawing by probability and reproducibly: batch k is the same whoever makes it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from nnunet_partial.labels import PartialLabels

__all__ = ["AnnotatedDataset", "PartialDataLoader", "make_reproducible"]


class AnnotatedDataset:
    """A preprocessed dataset in whose cases only structures count as foreground.

    Foreground oversampling picks among the values that preprocessing found in a case. Values that mark no structure
    ("none of ...", unknown) are taken out, so that oversampling never centres a patch on them.

    Args:
        dataset: nnU-Net's preprocessed dataset.
        labels: The label model.
    """

    def __init__(self, dataset: nnUNetBaseDataset, labels: PartialLabels) -> None:
        self._dataset = dataset
        self._foreground = {
            case: {int(v) for v in np.flatnonzero(labels.foreground[labels.row_of(case)])}
            for case in dataset.identifiers
        }
        self.identifiers = dataset.identifiers

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Loads data, labels, the previous stage's labels (None) and properties, as nnU-Net's dataset does."""
        data, labels, previous, properties = self._dataset.load_case(identifier)
        structures = self._foreground[identifier]
        locations = {v: places for v, places in properties["class_locations"].items() if v in structures}
        return data, labels, previous, {**properties, "class_locations": locations}


class PartialDataLoader(nnUNetDataLoader):  # type: ignore[misc]
    """nnU-Net's data loader with seeded batches.

    Batch k of a run depends on (seed, stream, rank, k) only: not on the number of workers, and not on whether the
    run was interrupted. Worker i of n makes the batches first + i, first + i + n, ...; nnU-Net's
    MultiThreadedAugmenter puts them back in order.

    Args:
        *args: As nnU-Net's data loader.
        seed: Seed of the run.
        stream: Distinguishes training from validation.
        rank: Rank of this process.
        first: Index of the first batch, epochs done times batches an epoch.
        workers: Number of workers that share the stream.
        **kwargs: As nnU-Net's data loader.
    """

    def __init__(
        self,
        *args: Any,
        seed: int,
        stream: int,
        rank: int = 0,
        first: int = 0,
        workers: int = 1,
        sampling_probabilities: npt.NDArray[np.float64] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, sampling_probabilities=sampling_probabilities, **kwargs)
        self.key = (seed, stream, rank)
        self.next_batch = first
        self.workers = max(1, workers)

    def set_thread_id(self, thread_id: int) -> None:
        """Called once in each worker process with its number."""
        super().set_thread_id(thread_id)
        self.next_batch += thread_id

    def generate_train_batch(self) -> dict[str, Any]:
        """Draws the next batch of this worker: {'data', 'target', 'keys'}."""
        state = np.random.SeedSequence((*self.key, self.next_batch)).generate_state(4)
        # transforms draw from all three generators
        np.random.seed(state)  # noqa: NPY002
        torch.manual_seed(int(state[0]))
        random.seed(int(state[1]))
        self.next_batch += self.workers
        batch: dict[str, Any] = super().generate_train_batch()
        return batch


def make_reproducible(transforms: Any) -> Any:
    """Switches off, in place, the one transform that times itself to choose between two algorithms.

    The two blurs differ in the last bits, so that with the timing two runs of the same seed would drift apart.

    Args:
        transforms: A pipeline of batchgeneratorsv2.

    Returns:
        The same pipeline.
    """
    for transform in transforms.transforms:
        inner = getattr(transform, "transform", transform)
        if isinstance(inner, GaussianBlurTransform):
            inner.benchmark = False
    return transforms
