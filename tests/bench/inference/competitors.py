"""Who predicts: nnU-Net, a pipeline as TotalSegmentator's, and this package in all modes and back ends."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_partial.inference.backends.open_backend import has_bf16
from tests.bench.inference.models import TRAINER, Model
from tests.bench.inference.plans import CONFIGURATION, PLANS, TORCH_PLANS

__all__ = [
    "MODES",
    "NNUNET",
    "NNUNET_TORCH",
    "TOTALSEGMENTATOR",
    "Competitor",
    "backends",
    "exported_formats",
    "fastest_backend",
    "on_cpu",
    "on_gpu",
    "ours",
]

NNUNET, NNUNET_TORCH, TOTALSEGMENTATOR = "nnunet", "nnunet_torchres", "totalsegmentator_like"
MODES = ("exact", "fast", "paper")

_PACKAGES = {"torch": "torch", "openvino": "openvino", "onnx": "onnxruntime"}
_FOLDER = "torch_folder"


@dataclass(frozen=True)
class Competitor:
    """Who predicts.

    Attributes:
        name: Short name, for files.
        title: For people.
        command: Given images, an output folder and a model, the command line.
    """

    name: str
    title: str
    command: Callable[[Path, Path, Model], Sequence[str]]


def _nnunet(plans: str, device: str) -> Callable[[Path, Path, Model], Sequence[str]]:
    def command(images: Path, output: Path, model: Model) -> Sequence[str]:
        return [
            *("nnUNetv2_predict", "-i", str(images), "-o", str(output), "-d", model.dataset, "-c", CONFIGURATION),
            *("-f", "0", "-tr", TRAINER, "-p", plans, "-device", device, "--disable_tta", "-npp", "1", "-nps", "1"),
        ]

    return command


def _totalsegmentator(device: str) -> Callable[[Path, Path, Model], Sequence[str]]:
    def command(images: Path, output: Path, model: Model) -> Sequence[str]:
        module = "tests.bench.inference.totalsegmentator_like"
        return [sys.executable, "-m", module, str(images), str(output), str(model.folder()), "--device", device]

    return command


def ours(
    mode: str, backend: str, precision: str | None, threads: int, device: str = "cpu", from_folder: bool = False
) -> Competitor:
    """This package's command, without mirroring.

    Args:
        mode: One of `MODES`.
        backend: 'torch', 'openvino' or 'onnx'.
        precision: 'fp32', ...; None leaves it to the mode and the device.
        threads: On the CPU.
        device: 'cpu' or 'cuda'.
        from_folder: Predict with nnU-Net's own folder instead of an exported one.
    """

    def command(images: Path, output: Path, model: Model) -> Sequence[str]:
        found = ["-m", str(model.exported), "--backend", backend]
        if from_folder:
            found = ["-d", model.dataset, "-c", CONFIGURATION, "-tr", TRAINER, "-p", PLANS, "-f", "0"]
        chosen = [] if precision is None else ["--precision", precision]
        return [
            *("nnUNetv2_partial_predict", "-i", str(images), "-o", str(output), *found, "--mode", mode),
            *("--disable_tta", "-device", device, "--threads", str(threads), *chosen),
        ]

    kind = _FOLDER if from_folder else backend
    name = ".".join(filter(None, (mode, kind, precision)))
    described = (
        "PyTorch from nnU-Net's folder"
        if from_folder
        else {"torch": "PyTorch", "openvino": "OpenVINO"}.get(backend, "ONNX Runtime")
    )
    return Competitor(name, f"{mode}, {described}{f', {precision}' if precision else ''}", command)


def backends() -> list[tuple[str, str]]:
    """Back ends and precisions that this machine has, for the CPU."""
    every = [("torch", "fp32"), ("torch", "bf16"), ("openvino", "fp32"), ("openvino", "bf16"), ("onnx", "fp32")]
    bf16 = has_bf16()
    return [
        (backend, precision)
        for backend, precision in every
        if importlib.util.find_spec(_PACKAGES[backend]) is not None and (bf16 or precision != "bf16")
    ]


def exported_formats() -> list[str]:
    """Formats to export models in: those of the back ends that are there."""
    return list(dict.fromkeys(backend for backend, _ in backends()))


def fastest_backend() -> str:
    """The fastest back end on this machine's CPU."""
    found = exported_formats()
    return next(backend for backend in ("openvino", "onnx", "torch") if backend in found)


def on_cpu(threads: int) -> list[Competitor]:
    """All competitors, nnU-Net first: the others are compared with its label map.

    Args:
        threads: Of ours.
    """
    own = [ours(mode, backend, precision, threads) for mode in MODES for backend, precision in backends()]
    from_folder = [ours(mode, "torch", "fp32", threads, from_folder=True) for mode in ("exact", "fast")]
    return [
        Competitor(NNUNET, "nnUNetv2_predict", _nnunet(PLANS, "cpu")),
        Competitor(NNUNET_TORCH, "nnUNetv2_predict, resampling by PyTorch", _nnunet(TORCH_PLANS, "cpu")),
        Competitor(TOTALSEGMENTATOR, "as TotalSegmentator", _totalsegmentator("cpu")),
        *own,
        *from_folder,
    ]


def on_gpu(threads: int) -> list[Competitor]:
    """Competitors on a GPU, nnU-Net first.

    Args:
        threads: Of ours, for what is done on the CPU.
    """
    return [
        Competitor(NNUNET, "nnUNetv2_predict", _nnunet(PLANS, "cuda")),
        Competitor(NNUNET_TORCH, "nnUNetv2_predict, resampling by PyTorch", _nnunet(TORCH_PLANS, "cuda")),
        Competitor(TOTALSEGMENTATOR, "as TotalSegmentator", _totalsegmentator("cuda")),
        *[ours(mode, "torch", precision, threads, "cuda") for mode in MODES for precision in ("fp16", "fp32")],
    ]
