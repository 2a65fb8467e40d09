"""How well the back ends of an exported model agree with PyTorch in single precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.backends.backend import Backend, Precision
from nnunet_partial.inference.backends.open_backend import has_bf16, open_backend
from nnunet_partial.inference.model.plan import PredictionPlan

if TYPE_CHECKING:
    from nnunet_partial.inference.model.model_folder import LoadedModel

__all__ = ["TOLERANCE", "TOLERANCE_BF16", "Agreement", "agreements", "comparison_windows", "entry"]

TOLERANCE = 5e-4
"""Of single precision. Back ends give 1e-6 to 1e-4; those that sum whole channels of air in one number of 32 bits gave
6e-4 and more with windows of 96×96×96 voxels."""

TOLERANCE_BF16 = 0.1
"""Of bfloat16, whose numbers have three digits: rounding grows with the number of layers. PyTorch and OpenVINO gave
0.01 to 0.02 with random networks of up to 6 stages in 3D, and 0.06 with one of 7 stages in 2D; trained ones gave 0.004
to 0.009."""

_IN_BF16 = ("torch", "openvino")
_EACH = 2  # windows of noise, and as many like CT
_BLOCK = 4  # voxels a tissue extends in the latter
_AIR = (0.5, 0.95)  # shares of a window
_TISSUES_HU = (-1000, -800, -100, 40, 60, 120, 700)


@dataclass(frozen=True)
class Agreement:
    """How far the logits of a back end, loaded from its files, are from those of PyTorch in fp32.

    Attributes:
        windows: Windows compared.
        maximum: Largest difference.
        relative: The same, divided by the largest magnitude of PyTorch's logits.
        tolerance: What `relative` may be.
    """

    windows: int
    maximum: float
    relative: float
    tolerance: float = 1e-3  # of models exported before it was written beside each

    @property
    def holds(self) -> bool:
        """Whether the back end may stand for PyTorch."""
        return self.relative <= self.tolerance  # NaN is refused too


def entry(kind: str, precision: Precision) -> str:
    """The name of an agreement: 'openvino', or 'openvino, bf16'.

    Args:
        kind: Of the back end.
        precision: It computes in.
    """
    return kind if precision == "fp32" else f"{kind}, {precision}"


def agreements(
    model: LoadedModel,
    files: Mapping[str, Sequence[Path]],
    tolerance: float = TOLERANCE,
    tolerance_bf16: float = TOLERANCE_BF16,
) -> dict[str, Agreement]:
    """Loads what was written for each back end and compares it with the model in PyTorch.

    In bf16, too, where the back end and this processor compute in it; a disagreement is only recorded there, as the
    same files serve in fp32.

    Args:
        model: What was exported.
        files: One a fold, for each kind of back end.
        tolerance: Largest relative difference in fp32.
        tolerance_bf16: Largest relative difference in bf16.

    Returns:
        By `entry`.

    Raises:
        PartialError: A back end predicts something else in fp32.
    """
    from nnunet_partial.inference.backends.torch_backend import TorchBackend

    windows = comparison_windows(model.plan)
    sources = [str(path) for path in model.folder.checkpoints]
    expected = _predicted(TorchBackend.load(model.plan, model.weights, sources=sources), windows)
    found: dict[str, Agreement] = {}
    for kind, paths in files.items():
        exact = _agreement(open_backend(kind, model.plan, paths), windows, expected, tolerance)
        if not exact.holds:
            raise PartialError(
                f"format '{kind}': its logits differ from PyTorch's by up to {exact.maximum:.3g}, {exact.relative:.2g} "
                f"of the largest one, where {tolerance:g} is allowed; nothing was written; choose other --formats"
            )
        found[entry(kind, "fp32")] = exact
        if kind in _IN_BF16 and has_bf16():
            backend = open_backend(kind, model.plan, paths, precision="bf16")
            found[entry(kind, "bf16")] = _agreement(backend, windows, expected, tolerance_bf16)
    return found


def _agreement(
    backend: Backend, windows: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], tolerance: float
) -> Agreement:
    maximum = float(np.abs(_predicted(backend, windows) - expected).max())
    return Agreement(len(windows), maximum, maximum / (float(np.abs(expected).max()) or 1.0), tolerance)


def _predicted(backend: Backend, windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    one_by_one = (backend.to_numpy(backend.predict(backend.to_backend(window[None]))).copy() for window in windows)
    return np.concatenate(list(one_by_one))


def comparison_windows(plan: PredictionPlan) -> npt.NDArray[np.float32]:
    """Windows to compare on: noise, blocks of tissue as in a normalised CT, and tissue beside air.

    Air is a plateau of the lowest intensity. It is what tells how a back end sums up a channel: many equal numbers are
    rounded to the same side.

    Args:
        plan: Of the model.

    Returns:
        (6, C, *patch): two of each; of the last two the first half of a window is air, and nearly all of it.
    """
    rng = np.random.default_rng(0)
    shape = (_EACH, len(plan.channel_names), *plan.patch_size)
    noise = rng.standard_normal(shape, np.float32)
    tissues = rng.choice(np.array(_TISSUES_HU, np.float32), (*shape[:2], *(-(-size // _BLOCK) for size in shape[2:])))
    for axis, size in enumerate(shape[2:], start=2):
        tissues = np.repeat(tissues, _BLOCK, axis).take(range(size), axis)
    hounsfield = tissues + 15 * rng.standard_normal(shape, np.float32)
    for channel, normalization in enumerate(plan.normalizations):
        given = normalization.statistics
        image = hounsfield[:, channel]
        image = np.clip(image, given.get("percentile_00_5", -1000), given.get("percentile_99_5", 1000))
        spread = max(given.get("std", float(image.std())), 1e-8)
        hounsfield[:, channel] = (image - given.get("mean", float(image.mean()))) / spread
    beside_air = np.concatenate([hounsfield[:1]] * len(_AIR))
    lowest = beside_air.min(axis=tuple(range(2, beside_air.ndim)))
    for window, level, share in zip(beside_air, lowest, _AIR, strict=True):
        air = slice(0, int(share * window.shape[-1]))
        window[..., air] = level.reshape(-1, *[1] * (window.ndim - 1))
    return np.concatenate([noise, hounsfield, beside_air]).astype(np.float32)
