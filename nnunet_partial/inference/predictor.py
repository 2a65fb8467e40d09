"""A trained model, ready to predict images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.backends.backend import Backend, Precision
from nnunet_partial.inference.boundary_logits import BoundaryLogits
from nnunet_partial.inference.full_resolution import (
    interpolated_channels,
    labels_by_slabs,
    probabilities_of_channels,
)
from nnunet_partial.inference.label_export import Labels, export_labels
from nnunet_partial.inference.label_view import LabelView, view_of
from nnunet_partial.inference.model.declared_classes import declared_classes
from nnunet_partial.inference.model.open_model import ModelChoice, open_model
from nnunet_partial.inference.model.plan import Decoding, PredictionPlan
from nnunet_partial.inference.model.rivals import with_competition
from nnunet_partial.inference.preprocessing import Prepared, prepare
from nnunet_partial.inference.resampling import AxisMap
from nnunet_partial.inference.windows import sliding_logits, window_count
from nnunet_partial.process_limits import processors

if TYPE_CHECKING:
    from nnunet_partial.inference.label_values import LabelValues

__all__ = ["MODES", "Mode", "Prediction", "Predictor", "open_predictor", "plan_of"]

Mode = Literal["exact", "fast", "paper"]
MODES: tuple[Mode, ...] = ("exact", "fast", "paper")
"""'exact': nnU-Net's windows, mirroring and export. 'fast': fewer windows, no mirroring, less precision where the
processor has it. 'paper': as 'fast', and labels are decided before they are resampled (Zhu et al. 2023, Table 1),
which costs accuracy at boundaries."""

_STEP: dict[Mode, float] = {"exact": 0.5, "fast": 0.8, "paper": 0.8}

_PLANES_AT_ONCE = 8

FloatArray = NDArray[np.float32]
_Logits = FloatArray | Iterator[FloatArray]  # (C, Z, Y, X), or blocks of its planes
Masks = Iterator[tuple[str, NDArray[np.bool_]]]


@dataclass(frozen=True)
class Predictor:
    """Predicts images with one model. Arrays have the axes of nnU-Net's readers, (channel, z, y, x).

    Attributes:
        plan: What the model needs and gives.
        backend: Its network.
        mode: How faithful to nnU-Net.
        step: Distance of windows as a part of a window.
        mirroring: Whether windows are also predicted mirrored, along the axes that training mirrored: those that the
            checkpoint allows, as in nnU-Net. Names of classes do not matter.
        batch_size: Windows at once.
        threads: For the export of labels.
        view: Whose label values label maps have; None for the model's own. Masks and probabilities are those of the
            model's classes either way.
    """

    plan: PredictionPlan
    backend: Backend
    mode: Mode = "exact"
    step: float = 0.5
    mirroring: bool = True
    batch_size: int = 1
    threads: int = 1
    view: LabelView | None = None

    def __call__(self, image: FloatArray, spacing_mm: Sequence[float], modality: str | None = None) -> Labels:
        """The label map of an image.

        Args:
            image: (C, z, y, x).
            spacing_mm: Voxel size along z, y, x.
            modality: Of the image, as the merge file calls it, where the model normalises by modality; 'normalised'
                for an image of `nnUNetv2_partial_normalize`.

        Returns:
            (z, y, x), uint8, or uint16 for 255 labels and more.

        Raises:
            PartialError: The image does not fit the model.
        """
        prepared = prepare(image, spacing_mm, self.plan, modality)
        return self._label_map(prepared, self._logits(prepared))

    def predicted(self, image: FloatArray, spacing_mm: Sequence[float], modality: str | None = None) -> Prediction:
        """A prediction of which more than the label map is wanted; all of its logits are kept.

        Args:
            image: (C, z, y, x).
            spacing_mm: Voxel size along z, y, x.
            modality: As for a label map.

        Raises:
            PartialError: The image does not fit the model.
        """
        return self.of_prepared(prepare(image, spacing_mm, self.plan, modality))

    def of_prepared(self, prepared: Prepared) -> Prediction:
        """A prediction of an image that is preprocessed already.

        Args:
            prepared: By `prepare`, or by nnU-Net's preprocessor.
        """
        return Prediction(self, prepared, _stored(self._logits(prepared), prepared.data.shape[1]))

    def masks(self, image: FloatArray, spacing_mm: Sequence[float], modality: str | None = None) -> Masks:
        """The mask of one class after the other, with or without a protocol those that the model declares.

        Classes of region-based models may overlap, and so may those of a softmax over atoms: a voxel of the liver's
        tumour is one of the liver too. Logits are kept where they decide masks only.

        Args:
            image: (C, z, y, x).
            spacing_mm: Voxel size along z, y, x.
            modality: As for a label map.

        Yields:
            Class and mask (z, y, x); the background of models that have one is left out.

        Raises:
            PartialError: The image does not fit the model.
        """
        prepared = prepare(image, spacing_mm, self.plan, modality)
        return self._masks(prepared, self._logits(prepared))

    def windows(self, image: FloatArray, spacing_mm: Sequence[float], modality: str | None = None) -> int:
        """Number of windows that an image takes, mirrored ones not counted.

        Args:
            image: (C, z, y, x).
            spacing_mm: Voxel size along z, y, x.
            modality: As for a label map.
        """
        prepared = prepare(image, spacing_mm, self.plan, modality)
        return window_count(prepared.data.shape[1:], self.plan.patch_size, self.step)

    def _logits(self, prepared: Prepared) -> Iterator[FloatArray]:
        return sliding_logits(
            prepared.data,
            self.backend,
            self.plan.patch_size,
            step=self.step,
            mirror_axes=self.plan.mirror_axes if self.mirroring else (),
            batch_size=self.batch_size,
        )

    def _label_map(self, prepared: Prepared, logits: _Logits) -> Labels:
        """Labels of the whole image, with the values of the view."""
        if self.view is None:
            return prepared.restored(self._labels(prepared, logits, self.plan.decoding), self.plan)
        labels = self._labels(prepared, logits, self.view.decoding, self.view.channels)
        return prepared.restored(labels, self.plan)

    def _labels(
        self, prepared: Prepared, logits: _Logits, decoding: Decoding, channels: Sequence[int] | None = None
    ) -> Labels:
        """Labels of the cropped image, from some channels or all of them."""
        maps = self._maps(prepared)
        if maps is None:
            if isinstance(logits, np.ndarray):
                chosen = logits if channels is None else [logits[channel] for channel in channels]
            else:
                chosen = _stored(_of_channels(logits, channels), prepared.data.shape[1])
            return labels_by_slabs(list(chosen), prepared, self.plan, decoding)
        blocks = _in_blocks(logits) if isinstance(logits, np.ndarray) else logits
        return export_labels(_of_channels(blocks, channels), maps, decoding, self.threads)

    def _maps(self, prepared: Prepared) -> tuple[AxisMap, AxisMap, AxisMap] | None:
        """From the network's to the image's voxels; None where logits are resampled by splines."""
        if self.mode != "paper":
            return prepared.maps(self.plan)
        sizes = zip(prepared.data.shape[1:], prepared.cropped_shape, strict=True)
        planes, rows, columns = (AxisMap.nearest(size, new_size) for size, new_size in sizes)
        return planes, rows, columns

    def _masks(self, prepared: Prepared, logits: _Logits) -> Masks:
        plan, decoding = self.plan, self.plan.decoding
        declared = declared_classes(plan.dataset_json, decoding)
        if declared is not None:
            atoms = prepared.restored(self._labels(prepared, logits, decoding), plan)
            for name, channels in declared.items():
                yield name, np.isin(np.arange(len(decoding.values)), channels)[atoms]
            return
        if not decoding.regions:
            labels = prepared.restored(self._labels(prepared, logits, decoding), plan)
            for name, value in zip(decoding.names, decoding.values, strict=True):
                if value:
                    yield name, labels == value
            return
        channel_of = self._channels(prepared, logits)
        for channel, name in enumerate(decoding.names):
            alone = Decoding(True, (1,), (name,), 1)
            yield name, prepared.restored(self._labels(prepared, channel_of(channel), alone) > 0, plan)

    def _channels(self, prepared: Prepared, logits: _Logits) -> Callable[[int], FloatArray]:
        """Gives one channel of independent ones, (1, Z, Y, X), as far as its mask depends on it."""
        if isinstance(logits, np.ndarray):
            stored = logits
        elif self._maps(prepared) is not None:
            return BoundaryLogits(logits).channel
        else:
            stored = _stored(logits, prepared.data.shape[1])  # other kernels may change signs anywhere
        return lambda number: stored[number : number + 1]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of an image. Arrays have the axes of nnU-Net's readers.

    Attributes:
        predictor: What predicted it.
        prepared: The image as the network saw it.
        logits: (outputs, Z, Y, X) at the network's resolution; all outputs, with or without a protocol.
    """

    predictor: Predictor
    prepared: Prepared
    logits: FloatArray

    def labels(self) -> Labels:
        """The label map, (z, y, x): uint8, or uint16 for 255 labels and more."""
        return self.predictor._label_map(self.prepared, self.logits)

    def masks(self) -> Masks:
        """The mask of one class after the other, see `Predictor.masks`."""
        return self.predictor._masks(self.prepared, self.logits)

    def probabilities(self) -> Iterator[tuple[str, FloatArray]]:
        """The probability of one class after the other, from logits interpolated as for labels.

        With or without a protocol, classes are those of the model; that of atoms is the sum of theirs. One takes a few
        volumes of float32 at the image's resolution, beside the logits.

        Yields:
            Class and probabilities (z, y, x); outside of the cropped part 0, and 1 for a background class.
        """
        plan, decoding = self.predictor.plan, self.predictor.plan.decoding
        classes = declared_classes(plan.dataset_json, decoding)
        if classes is None:
            classes = {name: (channel,) for channel, name in enumerate(decoding.names)}
        found = probabilities_of_channels(
            lambda logits: interpolated_channels(logits, self.prepared, plan),
            self.logits,
            list(classes.values()),
            decoding.regions,
        )
        for (name, channels), probability in zip(classes.items(), found, strict=True):
            outside = 0.0 if decoding.regions or 0 not in channels else 1.0
            yield name, self.prepared.restored(probability, plan, outside)


def _of_channels(blocks: Iterator[FloatArray], channels: Sequence[int] | None) -> Iterator[FloatArray]:
    """Some channels of blocks, or all of them."""
    return blocks if channels is None else (block[list(channels)] for block in blocks)


def _in_blocks(logits: FloatArray) -> Iterator[FloatArray]:
    """Logits (C, Z, Y, X) as consecutive planes, so that what is derived from a plane need not be kept for all."""
    for start in range(0, logits.shape[1], _PLANES_AT_ONCE):
        yield logits[:, start : start + _PLANES_AT_ONCE]


def _stored(blocks: Iterator[FloatArray], planes: int) -> FloatArray:
    """All planes at once, (C, Z, Y, X)."""
    first = next(blocks)
    stored = np.empty((len(first), planes, *first.shape[2:]), np.float32)
    done = 0
    for block in itertools.chain([first], blocks):
        stored[:, done : done + block.shape[1]] = block
        done += block.shape[1]
    return stored


def open_predictor(
    model: Path,
    *,
    folds: Sequence[str | int] | None = None,
    checkpoint: str = "checkpoint_final.pth",
    mode: Mode = "exact",
    device: str = "auto",
    backend: str = "auto",
    precision: Precision | None = None,
    step: float | None = None,
    mirroring: bool | None = None,
    batch_size: int = 1,
    threads: int | None = None,
    compiled: bool = False,
    trust_checkpoint: bool = False,
    protocol: str | None = None,
    label_values: LabelValues | None = None,
    compete: bool | None = None,
) -> Predictor:
    """Loads a model folder of nnU-Net, or one that `nnUNetv2_partial_export` wrote.

    Args:
        model: The folder.
        folds: Folds to average; all numbered ones by default. An exported model has its own.
        checkpoint: File name of the checkpoints; of nnU-Net's folders only.
        mode: See `MODES`.
        device: 'cpu', 'cuda', 'cuda:N' or 'mps'; 'auto' is a GPU where PyTorch finds one and there are files for it.
        backend: 'torch', 'openvino' or 'onnx'; 'auto' is the fastest one on the device that the folder has files for.
        precision: 'fp32', 'bf16' or 'fp16'; by default fp32, on a GPU fp16 as nnU-Net, and in mode 'fast' bf16 on a
            CPU that has it.
        step: Distance of windows as a part of a window, above 0 and at most 1; by default the mode's.
        mirroring: Predict windows mirrored as well; by default in mode 'exact' only. The axes are those that the
            checkpoint allows, as in nnU-Net, also where classes of a stock model are called left and right.
        batch_size: Windows at once.
        threads: Threads on the CPU.
        compiled: Compile the network; PyTorch only.
        trust_checkpoint: Load checkpoints that hold more than weights and plain values.
        protocol: Annotation set or source whose label values are written, see `protocol_view`; None for the model's.
        label_values: What is written for each class instead; by default what an exported model was given, unless there
            is a protocol.
        compete: In label maps, of classes that exclude each other the most probable one is written instead of the last
            one, see `competing`; by default as an exported model was given, else not, as in nnU-Net.

    Raises:
        PartialError: The model cannot be loaded, or an argument is out of range.
    """
    if mode not in MODES:
        raise PartialError(f"mode: expected one of {', '.join(MODES)}, found {mode!r}")
    step = _STEP[mode] if step is None else step
    if not 0 < step <= 1:
        raise PartialError(f"step size: expected a number above 0 and at most 1, found {step}")
    if batch_size < 1 or (threads is not None and threads < 1):
        raise PartialError("batch size and threads: expected at least 1")
    exact = mode == "exact"
    chosen = ModelChoice(folds, checkpoint, device, backend, precision, exact, threads, compiled, trust_checkpoint)
    plan, opened = open_model(model, chosen)
    plan = with_competition(plan, compete)
    mirrored = exact if mirroring is None else mirroring
    view = view_of(plan, protocol, label_values)
    return Predictor(plan, opened, mode, step, mirrored, batch_size, threads or processors(), view)


def plan_of(
    model: Path,
    folds: Sequence[str | int] | None = None,
    checkpoint: str = "checkpoint_final.pth",
    trust_checkpoint: bool = False,
) -> PredictionPlan:
    """What a model needs and gives, without building its network.

    Args:
        model: As for `open_predictor`, and so are the other arguments.
        folds: Folds.
        checkpoint: File name of the checkpoints.
        trust_checkpoint: Load whatever the checkpoint asks for.

    Raises:
        PartialError: The model cannot be read.
    """
    from nnunet_partial.inference.model.exported_model import is_exported, load_exported
    from nnunet_partial.inference.model.model_folder import load_checkpoint, open_model_folder

    if is_exported(model):
        return load_exported(model).plan
    folder = open_model_folder(model, folds, checkpoint)
    return folder.plan(load_checkpoint(folder.checkpoints[0], trust_checkpoint))
