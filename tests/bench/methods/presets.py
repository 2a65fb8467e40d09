"""Sizes of a benchmark: 'cpu' for minutes of one core a training, 'gpu' for a network of nnU-Net's kind."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from tests.bench.methods.mixes import MIXES

__all__ = ["COLLECTIONS", "PRESETS", "Preset"]


@dataclass(frozen=True)
class Preset:
    """Everything that is the same for all methods on one collection.

    Attributes:
        shape: Voxels of an image; (0, 0, 0) where files say it. A frame is one slice, (1, H, W).
        voxel_mm: Edge of a voxel, to which files are resampled; of no meaning for frames.
        patch: Voxels of a training patch.
        features: Channels of the network, stage by stage.
        convolutions: Convolutions in a stage.
        batch_size: Patches in an iteration.
        iterations: Length of a training, of all its networks together.
        learning_rate: Of AdamW at the start; then polynomial decay with power 0.9, as nnU-Net's.
        weight_decay: Of AdamW.
    """

    shape: tuple[int, int, int]
    voxel_mm: float
    patch: tuple[int, int, int]
    features: tuple[int, ...]
    convolutions: int
    batch_size: int
    iterations: int
    learning_rate: float
    weight_decay: float = 1e-4

    def settings(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


_KINDS = tuple(name for name in MIXES if name != "phantoms")
_CPU = Preset(
    shape=(60, 44, 40),
    voxel_mm=5.0,
    patch=(24, 24, 24),
    features=(8, 24, 48, 64),
    convolutions=1,
    batch_size=2,
    iterations=4000,
    learning_rate=7e-3,
)
_GPU = Preset(
    shape=(128, 96, 80),
    voxel_mm=2.5,
    patch=(64, 64, 64),
    features=(24, 48, 96, 192, 256),
    convolutions=2,
    batch_size=4,
    iterations=5000,
    learning_rate=1e-3,
)

PRESETS: dict[str, dict[str, Preset]] = {
    "cpu": {
        "phantoms": _CPU,
        **dict.fromkeys(_KINDS, replace(_CPU, iterations=1500)),
        "real": replace(_CPU, shape=(0, 0, 0), voxel_mm=3.0, patch=(40, 40, 8)),
        # whole frames, as Jenke et al. trained: an eighth of their 512 x 640 pixels
        "frames": replace(
            _CPU,
            shape=(1, 64, 80),
            voxel_mm=1.0,
            patch=(1, 64, 80),
            features=(8, 16, 32, 64, 64),
            batch_size=6,
            iterations=2000,
        ),
    },
    "gpu": {
        **dict.fromkeys(("phantoms", *_KINDS), _GPU),
        "real": replace(_GPU, shape=(0, 0, 0), voxel_mm=3.0, patch=(96, 96, 8)),
        "frames": replace(_GPU, shape=(1, 128, 160), voxel_mm=1.0, patch=(1, 128, 160), batch_size=12),
    },
}
"""Preset to collection to sizes."""

COLLECTIONS = tuple(PRESETS["cpu"])
