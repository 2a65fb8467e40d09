"""A trained model, ready to predict images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.backends.backend import Backend, Precision
from nnunet_partial.inference.full_resolution import (
    interpolated_channels,
    labels_of_channels,
    probabilities_of_channels,
)
from nnunet_partial.inference.label_export import Labels, export_labels
from nnunet_partial.inference.model.plan import Decoding, PredictionPlan
from nnunet_partial.inference.preprocessing import Prepared, prepare
from nnunet_partial.inference.resampling import AxisMap
from nnunet_partial.inference.windows import sliding_logits, window_count

if TYPE_CHECKING:
    from nnunet_partial.inference.protocol_view import ProtocolView

__all__ = ["MODES", "Mode", "Prediction", "Predictor", "open_predictor", "plan_of"]

Mode = Literal["exact", "fast", "paper"]
MODES: tuple[Mode, ...] = ("exact", "fast", "paper")
"""'exact': nnU-Net's windows, mirroring and export. 'fast': fewer windows, no mirroring, less precision where the
processor has it. 'paper': as 'fast', and labels are decided before they are resampled (Zhu et al. 2023, Table 1),
which costs accuracy at boundaries."""

_STEP: dict[Mode, float] = {"exact": 0.5, "fast": 0.8, "paper": 0.8}

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Predictor:
    """Predicts images with one model. Arrays have the axes of nnU-Net's readers, (channel, z, y, x).

    Attributes:
        plan: What the model needs and gives.
        backend: Its network.
        mode: How faithful to nnU-Net.
        step: Distance of windows as a part of a window.
        mirroring: Whether windows are also predicted mirrored, along the axes that training mirrored.
        batch_size: Windows at once.
        threads: For the export of labels.
        view: Whose label values are written; None for the model's own.
    """

    plan: PredictionPlan
    backend: Backend
    mode: Mode = "exact"
    step: float = 0.5
    mirroring: bool = True
    batch_size: int = 1
    threads: int = 1
    view: ProtocolView | None = None

    @property
    def decoding(self) -> Decoding:
        """What the logits that are exported mean."""
        return self.plan.decoding if self.view is None else self.view.decoding

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
        return prepared.restored(self._labels(prepared, self._logits(prepared), self.decoding), self.plan)

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
        return Prediction(self, prepared, _stored(self._logits(prepared)))

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
        blocks = sliding_logits(
            prepared.data,
            self.backend,
            self.plan.patch_size,
            step=self.step,
            mirror_axes=self.plan.mirror_axes if self.mirroring else (),
            batch_size=self.batch_size,
        )
        if self.view is None:
            return blocks
        channels = list(self.view.channels)
        return (block[channels] for block in blocks)

    def _labels(self, prepared: Prepared, logits: Iterator[FloatArray], decoding: Decoding) -> Labels:
        """Labels of the cropped image."""
        if self.mode == "paper":
            sizes = zip(prepared.data.shape[1:], prepared.cropped_shape, strict=True)
            planes, rows, columns = (AxisMap.nearest(size, new_size) for size, new_size in sizes)
            return export_labels(logits, (planes, rows, columns), decoding, self.threads)
        maps = prepared.maps(self.plan)
        if maps is None:
            return labels_of_channels(interpolated_channels(_stored(logits), prepared, self.plan), decoding)
        return export_labels(logits, maps, decoding, self.threads)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of an image. Arrays have the axes of nnU-Net's readers.

    Attributes:
        predictor: What predicted it.
        prepared: The image as the network saw it.
        logits: (outputs, Z, Y, X) at the network's resolution.
    """

    predictor: Predictor
    prepared: Prepared
    logits: FloatArray

    def labels(self) -> Labels:
        """The label map, (z, y, x): uint8, or uint16 for 255 labels and more."""
        plan = self.predictor.plan
        found = self.predictor._labels(self.prepared, iter([self.logits]), self.predictor.decoding)
        return self.prepared.restored(found, plan)

    def masks(self) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """The mask of one class after the other; classes of region-based models may overlap.

        Yields:
            Class and mask (z, y, x); the background of models that have one is left out.
        """
        plan, decoding = self.predictor.plan, self.predictor.decoding
        if not decoding.regions:
            labels = self.labels()
            for name, value in zip(decoding.names, decoding.values, strict=True):
                if value:
                    yield name, labels == value
            return
        for channel, name in enumerate(decoding.names):
            alone = Decoding(True, (1,), (name,), 1)
            found = self.predictor._labels(self.prepared, iter([self.logits[channel : channel + 1]]), alone)
            yield name, self.prepared.restored(found > 0, plan)

    def probabilities(self) -> Iterator[tuple[str, FloatArray]]:
        """The probability of one class after the other, from logits interpolated as for labels.

        Yields:
            Class and probabilities (z, y, x); outside of the cropped part 0, and 1 for a background class.
        """
        plan, decoding = self.predictor.plan, self.predictor.decoding
        found = probabilities_of_channels(
            lambda: interpolated_channels(self.logits, self.prepared, plan), len(decoding.values), decoding.regions
        )
        for name, value, probability in zip(decoding.names, decoding.values, found, strict=True):
            outside = 1.0 if value == 0 and not decoding.regions else 0.0
            yield name, self.prepared.restored(probability, plan, outside)


def _stored(blocks: Iterator[FloatArray]) -> FloatArray:
    """All planes at once, (C, Z, Y, X)."""
    return np.concatenate([block.copy() for block in blocks], axis=1)


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
) -> Predictor:
    """Loads a model folder of nnU-Net, or one that `nnUNetv2_partial_export` wrote.

    Args:
        model: The folder.
        folds: Folds to average; all numbered ones by default. An exported model has its own.
        checkpoint: File name of the checkpoints; of nnU-Net's folders only.
        mode: See `MODES`.
        device: 'cpu', 'cuda', 'cuda:N' or 'mps'; 'auto' is a GPU where PyTorch finds one.
        backend: 'torch', 'openvino' or 'onnx'; 'auto' is the fastest one that the folder has files for.
        precision: 'fp32', 'bf16' or 'fp16'; by default fp32, on a GPU fp16 as nnU-Net, and in mode 'fast' bf16 on a
            CPU that has it.
        step: Distance of windows as a part of a window, above 0 and at most 1; by default the mode's.
        mirroring: Predict windows mirrored as well; by default in mode 'exact' only.
        batch_size: Windows at once.
        threads: Threads on the CPU.
        compiled: Compile the network; PyTorch only.
        trust_checkpoint: Load checkpoints that hold more than weights and plain values.
        protocol: Annotation set or source whose label values are written, see `protocol_view`; None for the model's.

    Raises:
        PartialError: The model cannot be loaded, or an argument is out of range.
    """
    from nnunet_partial.inference.model.exported_model import is_exported

    if mode not in MODES:
        raise PartialError(f"mode: expected one of {', '.join(MODES)}, found {mode!r}")
    step = _STEP[mode] if step is None else step
    if not 0 < step <= 1:
        raise PartialError(f"step size: expected a number above 0 and at most 1, found {step}")
    if batch_size < 1 or (threads is not None and threads < 1):
        raise PartialError("batch size and threads: expected at least 1")
    open_any = _open_exported if is_exported(model) else _open_folder
    chosen = _Choice(folds, checkpoint, mode, device, backend, precision, threads, compiled, trust_checkpoint)
    plan, opened = open_any(model, chosen)
    mirrored = mode == "exact" if mirroring is None else mirroring
    view = None
    if protocol is not None:
        from nnunet_partial.inference.protocol_view import protocol_view

        view = protocol_view(plan.dataset_json, plan.decoding, protocol)
    return Predictor(plan, opened, mode, step, mirrored, batch_size, threads or _processors(), view)


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


@dataclass(frozen=True)
class _Choice:
    """Arguments of `open_predictor` that decide on the back end."""

    folds: Sequence[str | int] | None
    checkpoint: str
    mode: Mode
    device: str
    backend: str
    precision: Precision | None
    threads: int | None
    compiled: bool
    trust_checkpoint: bool

    def precision_on(self, device: str) -> Precision:
        """What to compute in."""
        if self.precision is not None:
            return self.precision
        if device.startswith("cuda"):
            return "fp16"
        return "bf16" if self.mode != "exact" and device == "cpu" and _has_bf16() else "fp32"


def _open_folder(model: Path, choice: _Choice) -> tuple[PredictionPlan, Backend]:
    from nnunet_partial.inference.model.model_folder import load_model

    if choice.backend not in ("auto", "torch"):
        raise PartialError(
            f"back end '{choice.backend}': {model} is a folder of nnU-Net, which PyTorch runs; export it first with "
            f"nnUNetv2_partial_export -m {model} -o FOLDER --formats {choice.backend}"
        )
    loaded = load_model(model, choice.folds, choice.checkpoint, trust_checkpoint=choice.trust_checkpoint)
    from nnunet_partial.inference.backends.torch_backend import TorchBackend

    device = _device(choice.device)
    backend = TorchBackend.load(
        loaded.plan,
        loaded.weights,
        device=device,
        precision=choice.precision_on(device),
        threads=choice.threads,
        compiled=choice.compiled,
        sources=[str(path) for path in loaded.folder.checkpoints],
    )
    return loaded.plan, backend


def _open_exported(model: Path, choice: _Choice) -> tuple[PredictionPlan, Backend]:
    from nnunet_partial.inference.backends.open_backend import choose_backend, open_backend
    from nnunet_partial.inference.model.exported_model import load_exported

    if choice.folds is not None:
        raise PartialError(f"{model}: an exported model has its folds chosen already; leave out -f")
    exported = load_exported(model)
    only_torch = choice.backend == "torch" or set(exported.files) == {"torch"}
    device = _device(choice.device) if only_torch or choice.device != "auto" else "cpu"
    kind = choose_backend(exported.files, device) if choice.backend == "auto" else choice.backend
    if not exported.files.get(kind):
        raise PartialError(f"back end '{kind}': {model} was exported for {', '.join(sorted(exported.files))} only")
    precision = "fp32" if kind == "onnx" and choice.precision is None else choice.precision_on(device)
    backend = open_backend(
        kind,
        exported.plan,
        exported.files[kind],
        device=device,
        precision=precision,
        threads=choice.threads,
        compiled=choice.compiled,
    )
    return exported.plan, backend


def _device(name: str) -> str:
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _has_bf16() -> bool:
    """Whether the processor multiplies bfloat16."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _processors() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
