"""What the windows of an image go through, whoever computes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Backend", "NumpyArrays", "Precision"]

Precision = Literal["fp32", "bf16", "fp16"]


class Backend(Protocol):
    """A network that is ready to run.

    A backend has arrays of its own, called `Any` below: NumPy arrays where it computes in memory of the host, PyTorch
    tensors on its device else. Both have `shape`, slicing, `sum`, `+=` and `*=` in common, which is what accumulating
    windows needs; the methods below are for the rest. All of them are float32.

    Attributes:
        outputs: Channels of the network's output.
        description: Who computes, where and how precisely, for people.
        adds_beside: Logits are better added up while the next windows are predicted: they lie in memory of the host,
            and predicting leaves processors idle here and there.
    """

    outputs: int
    description: str
    adds_beside: bool

    def predict(self, patches: Any) -> Any:
        """Logits of windows, averaged over folds.

        Args:
            patches: (B, C, *patch), of this backend. They are not changed.

        Returns:
            (B, outputs, *patch), of this backend, which the caller may change; valid until the next call
            but one.
        """

    def zeros(self, shape: Sequence[int]) -> Any:
        """An array of zeros."""

    def flip(self, array: Any, axes: Sequence[int]) -> Any:
        """The array mirrored along axes."""

    def to_backend(self, array: npt.NDArray[np.float32]) -> Any:
        """An array of the host as one of this backend; it may share the memory."""

    def to_numpy(self, array: Any) -> npt.NDArray[np.float32]:
        """An array of this backend as one of the host; it may share the memory."""


class NumpyArrays:
    """The arrays of backends that compute in memory of the host."""

    adds_beside = True

    def zeros(self, shape: Sequence[int]) -> npt.NDArray[np.float32]:
        """See `Backend`."""
        return np.zeros(shape, np.float32)

    def flip(self, array: npt.NDArray[np.float32], axes: Sequence[int]) -> npt.NDArray[np.float32]:
        """See `Backend`; a view."""
        return np.flip(array, tuple(axes))

    def to_backend(self, array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See `Backend`."""
        return np.asarray(array, np.float32)

    def to_numpy(self, array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See `Backend`."""
        return array
