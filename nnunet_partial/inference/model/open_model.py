"""A model's plan and its network on a device, from a folder of nnU-Net or an exported one."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.backends.backend import Backend, Precision
from nnunet_partial.inference.backends.open_backend import has_bf16
from nnunet_partial.inference.model.plan import PredictionPlan

__all__ = ["ModelChoice", "open_model"]

_DEVICE_FILES = Path("/dev")
_OF_GPUS = ("nvidia[0-9]*", "kfd", "dxg")  # NVIDIA's driver, AMD's, and Windows' in a Linux of its own


@dataclass(frozen=True)
class ModelChoice:
    """Which network of a model runs where.

    Attributes:
        folds: Folds to average; all numbered ones by default. An exported model has its own.
        checkpoint: File name of the checkpoints; of nnU-Net's folders only.
        device: 'cpu', 'cuda', 'cuda:N', 'mps' or 'auto'.
        backend: 'torch', 'openvino', 'onnx' or 'auto'.
        precision: 'fp32', 'bf16' or 'fp16'; None for the fastest that is faithful enough.
        exact: Whether the precision that is chosen must be nnU-Net's.
        threads: Threads on the CPU; None for the back end's choice.
        compiled: Compile the network; PyTorch only.
        trust_checkpoint: Load checkpoints that hold more than weights and plain values.
    """

    folds: Sequence[str | int] | None
    checkpoint: str
    device: str
    backend: str
    precision: Precision | None
    exact: bool
    threads: int | None
    compiled: bool
    trust_checkpoint: bool

    def precision_on(self, device: str) -> Precision:
        """What to compute in."""
        if self.precision is not None:
            return self.precision
        if device.startswith("cuda"):
            return "fp16"
        return "bf16" if not self.exact and device == "cpu" and has_bf16() else "fp32"


def open_model(model: Path, choice: ModelChoice) -> tuple[PredictionPlan, Backend]:
    """Loads a model.

    Args:
        model: Model folder of nnU-Net, or one that `nnUNetv2_partial_export` wrote.
        choice: Which of its networks, and where.

    Returns:
        What it needs and gives, and its network.

    Raises:
        PartialError: It cannot be loaded.
    """
    from nnunet_partial.inference.model.exported_model import is_exported

    return _open_exported(model, choice) if is_exported(model) else _open_folder(model, choice)


def _open_folder(model: Path, choice: ModelChoice) -> tuple[PredictionPlan, Backend]:
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


def _open_exported(model: Path, choice: ModelChoice) -> tuple[PredictionPlan, Backend]:
    from nnunet_partial.inference.backends.open_backend import choose_backend, open_backend
    from nnunet_partial.inference.model.exported_model import load_exported

    if choice.folds is not None:
        raise PartialError(f"{model}: an exported model has its folds chosen already; leave out -f")
    exported = load_exported(model)
    formats = {kind for kind, files in exported.files.items() if files}
    device = _device(choice.device) if _asks_pytorch(choice, formats) else "cpu"
    kind = choose_backend(exported.files, device) if choice.backend == "auto" else choice.backend
    if kind not in formats:
        raise PartialError(f"back end '{kind}': {model} was exported for {', '.join(sorted(formats))} only")
    precision = choice.precision_on(device)
    if choice.precision is None and (kind == "onnx" or not exported.holds(kind, precision)):
        precision = "fp32"
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


def _asks_pytorch(choice: ModelChoice, formats: set[str]) -> bool:
    """Whether the device of an exported model is not simply the CPU: named, or a GPU that PyTorch may find."""
    if choice.device != "auto" or choice.backend == "torch" or formats == {"torch"}:
        return True
    return choice.backend == "auto" and "torch" in formats and _may_have_gpu()


def _may_have_gpu() -> bool:
    """Whether it is worth to import PyTorch, which takes seconds, only to ask it for a GPU."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return False
    if sys.platform == "win32":
        driver = ctypes.util.find_library("nvcuda") is not None
    else:
        driver = any(any(_DEVICE_FILES.glob(pattern)) for pattern in _OF_GPUS)
    return driver and importlib.util.find_spec("torch") is not None


def _device(name: str) -> str:
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
