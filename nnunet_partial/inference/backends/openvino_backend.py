"""The network in OpenVINO, on the CPU, without PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.backends.backend import NumpyArrays, Precision
from nnunet_partial.inference.backends.openvino_statistics import sum_in_stages

__all__ = ["OpenVINOBackend"]

_HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVINOBackend(NumpyArrays):
    """Networks in OpenVINO's or ONNX's format that take one window at a time. Its arrays are NumPy arrays.

    Attributes:
        outputs: See `Backend`.
        description: See `Backend`.
        adds_beside: See `Backend`.

    Args:
        files: One a fold, .xml (with its .bin) or .onnx.
        precision: 'fp32', or 'bf16' on processors that compute in it.
        threads: Threads to use; OpenVINO chooses by default.

    Raises:
        PartialError: OpenVINO is not installed, the processor has no bf16, or a file cannot be loaded.
    """

    def __init__(self, files: Sequence[Path], *, precision: Precision = "fp32", threads: int | None = None) -> None:
        openvino = _import()
        if not files:
            raise PartialError("files: expected one network or more, found none")
        if precision not in _HINTS:
            raise PartialError(f"precision: expected one of {list(_HINTS)} in OpenVINO, found '{precision}'")
        core = openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            name = core.get_property("CPU", "FULL_DEVICE_NAME")
            raise PartialError(f"precision 'bf16': this processor ({name}) does not compute in it; choose fp32")
        # said for fp32 too: by default OpenVINO computes in bf16 wherever it can
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _HINTS[precision]}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        self._requests = [_compiled(core, path, options).create_infer_request() for path in files]
        shape = self._requests[0].get_output_tensor(0).shape
        self.outputs = int(shape[1])
        # two in turn, so that one can be read while the other is written; they are NumPy's, and outlive the tensors
        arrays = [np.empty(shape, np.float32) for _ in range(2)]
        self._results = itertools.cycle([(array, openvino.Tensor(array, shared_memory=True)) for array in arrays])
        version = openvino.__version__.partition("-")[0]
        self.description = f"OpenVINO {version}, CPU, {threads or 'all'} threads, {precision}"

    def predict(self, patches: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See `Backend`."""
        if len(patches) == 1 and len(self._requests) == 1:
            return self._logits(self._requests[0], patches)
        total = np.zeros((len(patches), self.outputs, *patches.shape[2:]), np.float32)
        for index in range(len(patches)):
            for request in self._requests:
                total[index] += self._logits(request, patches[index : index + 1])[0]
        if len(self._requests) > 1:
            total /= len(self._requests)
        return total

    def _logits(self, request: Any, patch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits of one window, in memory that the window after the next one overwrites."""
        array, tensor = next(self._results)
        request.set_output_tensor(0, tensor)
        request.infer([np.ascontiguousarray(patch)], share_inputs=True, share_outputs=True)
        return array


def _import() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise PartialError(f"OpenVINO cannot be imported ({error}); pip install 'nnunet-partial[openvino]'") from error
    return openvino


def _compiled(core: Any, path: Path, options: dict[str, Any]) -> Any:
    if not path.is_file():
        raise PartialError(f"{path}: no such file; expected a network of nnUNetv2_partial_export")
    try:
        network = core.read_model(str(path))
        if options["INFERENCE_PRECISION_HINT"] == "f32":
            sum_in_stages(network)
        return core.compile_model(network, "CPU", options)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise PartialError(f"{path}: OpenVINO cannot load it ({reason}); export the model again") from error
