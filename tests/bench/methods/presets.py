"""Sizes of a benchmark: 'cpu' for minutes of one core a training, 'gpu' for a network of nnU-Net's kind."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True)
class Preset:
    """Everything that is the same for all methods.

    Attributes:
        phantom_shape: Voxels of a phantom.
        phantom_mm: Their size.
        phantom_patch: Voxels of a training patch of phantoms.
        real_mm: Voxel size to which real volumes are resampled.
        real_patch: Voxels of a training patch of real volumes.
        features: Channels of the network, stage by stage.
        convolutions: Convolutions in a stage.
        batch_size: Patches in an iteration.
        iterations: Length of a training, of all its networks together.
        learning_rate: Of AdamW at the start; then polynomial decay with power 0.9, as nnU-Net's.
        weight_decay: Of AdamW.
    """

    phantom_shape: tuple[int, int, int]
    phantom_mm: float
    phantom_patch: tuple[int, int, int]
    real_mm: float
    real_patch: tuple[int, int, int]
    features: tuple[int, ...]
    convolutions: int
    batch_size: int
    iterations: int
    learning_rate: float
    weight_decay: float = 1e-4

    def settings(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


PRESETS: dict[str, Preset] = {
    "cpu": Preset(
        phantom_shape=(60, 44, 40),
        phantom_mm=5.0,
        phantom_patch=(24, 24, 24),
        real_mm=3.0,
        real_patch=(40, 40, 8),
        features=(8, 24, 48, 64),
        convolutions=1,
        batch_size=2,
        iterations=4000,
        learning_rate=7e-3,
    ),
    "gpu": Preset(
        phantom_shape=(128, 96, 80),
        phantom_mm=2.5,
        phantom_patch=(64, 64, 64),
        real_mm=3.0,
        real_patch=(96, 96, 8),
        features=(24, 48, 96, 192, 256),
        convolutions=2,
        batch_size=4,
        iterations=5000,
        learning_rate=1e-3,
    ),
}
