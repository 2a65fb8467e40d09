"""nnU-Net's data loader, drawing by declared probabilities and reproducibly: batch k is the same whoever makes it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from nnunet_partial.errors import LabelError
from nnunet_partial.labels import PartialLabels
from nnunet_partial.sampling.class_values import class_values
from nnunet_partial.sampling.draws import NO_CLASS, Draws
from nnunet_partial.sampling.outside_values import outside_values
from nnunet_partial.sampling.voxel_counts import VoxelCounts

__all__ = ["PartialDataLoader", "make_reproducible"]

_ROUNDING = 1e-9
_OUTSIDE = -1


class PartialDataLoader(nnUNetDataLoader):  # type: ignore[misc]
    """nnU-Net's data loader with declared probabilities and seeded batches.

    Every patch has a case and a class out of `draws`. It is centred on a random voxel of that class, whatever the
    label value, or lies anywhere where it has none. As in nnU-Net the last places of a batch are those centred on a
    class: the share of centred patches is the same in every batch, but for one place that is sometimes one and
    sometimes the other where the share is not a whole number of places.

    Batch k of a run depends on (seed, stream, rank, k) only: not on the number of workers, and not on whether the
    run was interrupted. Worker i of n makes the batches first + i, first + i + n, ...; nnU-Net's
    MultiThreadedAugmenter puts them back in order.

    Targets hold no -1: case by case it becomes the value of `outside_values`. nnU-Net's transform that makes 0 of it is
    left out of `transforms`, and all others stay.

    Args:
        *args: As nnU-Net's data loader.
        draws: What is drawn.
        labels: The label model.
        counts: Voxels of every label value in the cases.
        seed: Seed of the run.
        stream: Distinguishes training from validation.
        rank: Rank of this process.
        first: Index of the first batch, epochs done times batches an epoch.
        workers: Number of workers that share the stream.
        first_place: Patches of the ranks before this one, where a batch is shared between ranks.
        places: Patches of a batch over all ranks; None for those of this loader.
        **kwargs: As nnU-Net's data loader.
    """

    transforms: Any

    def __init__(
        self,
        *args: Any,
        draws: Draws,
        labels: PartialLabels,
        counts: VoxelCounts,
        seed: int,
        stream: int,
        rank: int = 0,
        first: int = 0,
        workers: int = 1,
        first_place: int = 0,
        places: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.transforms = _keeping_outside(self.transforms)
        self.draws = draws
        self.key = (seed, stream, rank)
        self.next_batch = first
        self.workers = max(1, workers)
        self.first_place = first_place
        self.places = places or self.batch_size
        self.get_do_oversample = self._is_centred
        self._labels = labels
        self._counts = counts
        self._class_values = class_values(labels)
        self._outside_values = outside_values(labels)
        self._rng = np.random.default_rng()
        self._drawn: list[tuple[str, int]] = []
        self._place = 0

    def set_thread_id(self, thread_id: int) -> None:
        """Called once in each worker process with its number."""
        super().set_thread_id(thread_id)
        self.next_batch += thread_id

    def generate_train_batch(self) -> dict[str, Any]:
        """Draws the next batch of this worker: {'data', 'target', 'keys', 'classes'}; class -1 lies anywhere."""
        seeds = np.random.SeedSequence((*self.key, self.next_batch))
        self._rng = np.random.default_rng(seeds)
        state = seeds.generate_state(4)
        # nnU-Net's choice of a place and the transforms draw from all three generators
        np.random.seed(state)  # noqa: NPY002
        torch.manual_seed(int(state[0]))
        random.seed(int(state[1]))
        self.next_batch += self.workers
        batch: dict[str, Any] = super().generate_train_batch()
        batch["classes"] = np.array([class_ for _, class_ in self._drawn], np.int64)
        levels = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
        for place, (case, _) in enumerate(self._drawn):
            outside = int(self._outside_values[self._labels.row_of(case)])
            for level in levels:
                # by NumPy: this runs in forked workers, where PyTorch waits forever for threads that are not there
                values = level[place].numpy()
                values[values == _OUTSIDE] = outside
        return batch

    def get_indices(self) -> npt.NDArray[np.str_]:
        """The cases of the batch; nnU-Net calls this first."""
        anywhere = self.places * (1 - self.draws.centred_share)
        # a uniform number in each place: over all places the share of centred ones is met exactly
        positions = self.first_place + np.arange(self.batch_size) + self._rng.random(self.batch_size)
        self._drawn = [self.draws.draw(self._rng, bool(p >= anywhere - _ROUNDING)) for p in positions]
        return np.array([case for case, _ in self._drawn])

    def _is_centred(self, place: int) -> bool:
        """Whether the patch is centred on a class; nnU-Net calls this before it loads the case."""
        self._place = place
        return self._drawn[place][1] != NO_CLASS

    def get_bbox(
        self,
        data_shape: Sequence[int],
        force_fg: bool,
        class_locations: Mapping[Any, Any] | None,
        overwrite_class: Any = None,
        verbose: bool = False,
    ) -> tuple[list[int], list[int]]:
        """Where the patch lies; nnU-Net calls this for one case after the other."""
        if force_fg:
            overwrite_class, class_locations = self._voxels(class_locations or {})
        box: tuple[list[int], list[int]] = super().get_bbox(
            data_shape, force_fg, class_locations, overwrite_class, verbose
        )
        return box

    def _voxels(self, locations: Mapping[Any, Any]) -> tuple[int, Mapping[Any, Any]]:
        """A label value of the drawn class, drawn in proportion to its voxels, and the places that have it.

        nnU-Net kept places of foreground labels while preprocessing. A value without any is looked up in the label
        map only where no other value of the class has some.
        """
        case, class_ = self._drawn[self._place]
        voxels = self._counts.of[case] * self._class_values[self._labels.row_of(case), :, class_]
        values = [int(v) for v in np.flatnonzero(voxels)]
        listed = [v for v in values if len(locations.get(v, ())) > 0]
        if not listed:
            label_map = np.asarray(self._data.load_case(case)[1][:])
            locations = {v: np.argwhere(label_map == v) for v in values}
            listed = [v for v in values if len(locations[v]) > 0]
        if not listed:
            raise LabelError(
                f"case '{case}': no voxel of class '{self.draws.classes[class_]}' (label values {values}), though "
                "some were counted; the preprocessed data have changed, start the training again"
            )
        weights = voxels[listed] / voxels[listed].sum()
        return int(self._rng.choice(listed, p=weights)), locations


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


def _keeping_outside(transforms: Any) -> Any:
    """A pipeline of batchgeneratorsv2 without the transform that makes 0 of -1; None stays None."""
    if transforms is None:
        return None
    return ComposeTransforms(
        [t for t in transforms.transforms if not (isinstance(t, RemoveLabelTransform) and t.label_value == _OUTSIDE)]
    )
