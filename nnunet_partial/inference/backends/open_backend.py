"""The back end of an exported model."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.backends.backend import Backend, Precision
from nnunet_partial.inference.model.plan import PredictionPlan

__all__ = ["KINDS", "choose_backend", "has_bf16", "open_backend"]

KINDS = ("torch", "openvino", "onnx")
_PACKAGES = {"openvino": "openvino", "onnx": "onnxruntime", "torch": "torch"}


def choose_backend(files: Mapping[str, Sequence[Path]], device: str) -> str:
    """The fastest back end that an exported model has files for and whose package is installed.

    Args:
        files: Of the exported model, by kind.
        device: 'cpu', 'cuda', ...

    Raises:
        PartialError: There is none for the device.
    """
    order = ("openvino", "onnx", "torch") if device == "cpu" else ("torch",)
    wanted = [kind for kind in order if files.get(kind)]
    for kind in wanted:
        if importlib.util.find_spec(_PACKAGES[kind]) is not None:
            return kind
    missing = [_PACKAGES[kind] for kind in wanted]
    raise PartialError(
        f"device '{device}': the model was exported for {sorted(files)}, "
        + (f"but none of {missing} is installed" if missing else f"and needs one of {list(order)} there")
    )


def open_backend(
    kind: str,
    plan: PredictionPlan,
    files: Sequence[Path],
    *,
    device: str = "cpu",
    precision: Precision = "fp32",
    threads: int | None = None,
    compiled: bool = False,
) -> Backend:
    """Loads the network of an exported model.

    Args:
        kind: One of `KINDS`.
        plan: Of the model.
        files: Of that kind, one a fold.
        device: 'cpu' for all kinds; see `TorchBackend` and `ONNXBackend` for others.
        precision: 'fp32', or less where the back end knows it.
        threads: Threads on the CPU; chosen by the back end by default.
        compiled: Compile the network; PyTorch only.

    Raises:
        PartialError: A package is missing, the files are damaged, or the back end cannot do what is asked.
    """
    if kind == "torch":
        from nnunet_partial.inference.backends.torch_backend import TorchBackend
        from nnunet_partial.inference.model.weights_file import read_weights

        return TorchBackend.load(
            plan,
            [read_weights(path) for path in files],
            device=device,
            precision=precision,
            threads=threads,
            compiled=compiled,
            sources=[str(path) for path in files],
        )
    if compiled:
        raise PartialError(f"back end '{kind}': its networks are compiled always; PyTorch's can be left uncompiled")
    if kind == "openvino":
        from nnunet_partial.inference.backends.openvino_backend import OpenVINOBackend

        if device != "cpu":
            raise PartialError(f"device '{device}': OpenVINO is used on the CPU only; use -device cpu or PyTorch")
        return OpenVINOBackend(files, precision=precision, threads=threads)
    if kind == "onnx":
        from nnunet_partial.inference.backends.onnx_backend import ONNXBackend

        if precision != "fp32":
            raise PartialError(f"precision '{precision}': ONNX Runtime computes in fp32 only; use another back end")
        return ONNXBackend(files, device=device, threads=threads)
    raise PartialError(f"back end: expected one of {list(KINDS)}, found '{kind}'")


def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
