"""The network in ONNX Runtime, without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.backends.backend import NumpyArrays

__all__ = ["ONNXBackend"]

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class ONNXBackend(NumpyArrays):
    """Networks in ONNX's format that take one window at a time, in fp32. Its arrays are NumPy arrays.

    Attributes:
        outputs: See `Backend`.
        description: See `Backend`.

    Args:
        files: One a fold, .onnx.
        device: 'cpu' or 'cuda'.
        threads: Threads to use on the CPU; ONNX Runtime chooses by default.

    Raises:
        PartialError: ONNX Runtime is not installed or not for that device, or a file cannot be loaded.
    """

    def __init__(self, files: Sequence[Path], *, device: str = "cpu", threads: int | None = None) -> None:
        runtime = _import()
        if not files:
            raise PartialError("files: expected one network or more, found none")
        if device not in _PROVIDERS:
            raise PartialError(f"device: expected one of {list(_PROVIDERS)} in ONNX Runtime, found '{device}'")
        if _PROVIDERS[device] not in runtime.get_available_providers():
            raise PartialError(
                f"device '{device}': this ONNX Runtime has only {runtime.get_available_providers()}; install "
                "onnxruntime-gpu, or use -device cpu"
            )
        options = runtime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        self._sessions = [_session(runtime, path, options, _PROVIDERS[device]) for path in files]
        self._input = self._sessions[0].get_inputs()[0].name
        self.outputs = int(self._sessions[0].get_outputs()[0].shape[1])
        self.description = f"ONNX Runtime {runtime.__version__}, {device}, fp32"

    def predict(self, patches: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See `Backend`."""
        total = np.zeros((len(patches), self.outputs, *patches.shape[2:]), np.float32)
        for index in range(len(patches)):
            patch = np.ascontiguousarray(patches[index : index + 1])
            for session in self._sessions:
                total[index] += session.run(None, {self._input: patch})[0][0]
        if len(self._sessions) > 1:
            total /= len(self._sessions)
        return total


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise PartialError(f"ONNX Runtime cannot be imported ({error}); pip install 'nnunet-partial[onnx]'") from error
    return onnxruntime


def _session(runtime: Any, path: Path, options: Any, provider: str) -> Any:
    if not path.is_file():
        raise PartialError(f"{path}: no such file; expected a network of nnUNetv2_partial_export")
    try:
        return runtime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # its exceptions share no base class but this one
        reason = " ".join(str(error).split())
        raise PartialError(f"{path}: ONNX Runtime cannot load it ({reason}); export the model again") from error
