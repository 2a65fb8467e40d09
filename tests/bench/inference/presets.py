"""Sizes of the benchmark: 'full' as reported, 'tiny' to see in minutes whether it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nnunet_partial.inference.resampling import resampled_shape

__all__ = ["PRESETS", "Accuracy", "Grid", "Network", "Phase", "Preset", "Training"]

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Grid:
    """Voxels of a volume; axes are (z, y, x) here and in all of the benchmark.

    Attributes:
        shape: Their number.
        spacing_mm: Their size.
    """

    shape: Triple
    spacing_mm: tuple[float, float, float]

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    def at(self, spacing_mm: tuple[float, float, float]) -> Grid:
        """The grid that nnU-Net resamples this one to."""
        planes, rows, columns = resampled_shape(self.shape, self.spacing_mm, spacing_mm)
        return Grid((planes, rows, columns), spacing_mm)

    def __str__(self) -> str:
        planes, rows, columns = self.shape
        mm = "×".join(f"{number:g}" for number in reversed(self.spacing_mm))
        return f"{columns}×{rows}×{planes} voxels of {mm} mm"


@dataclass(frozen=True)
class Network:
    """The network whose predictions are measured, a variant of the plans 'flare-small'.

    Attributes:
        spacing_mm: Of what it sees.
        patch: Voxels of a window.
        features: Channels of each stage.
    """

    spacing_mm: tuple[float, float, float]
    patch: Triple
    features: tuple[int, ...]


@dataclass(frozen=True)
class Phase:
    """A part of the training.

    Attributes:
        patch: Voxels of a patch.
        batch_size: Patches an iteration.
        iterations: Iterations.
        learning_rate: Of AdamW at the start; polynomial decay.
    """

    patch: Triple
    batch_size: int
    iterations: int
    learning_rate: float


@dataclass(frozen=True)
class Training:
    """How it is trained: long enough for smooth label maps.

    Attributes:
        phantoms: Number of phantoms.
        shape: Voxels of a phantom at the network's spacing.
        phases: One after the other. Most is learned from small patches, which cost little; the last ones are as large
            as the network's windows, as its instance normalisation sees other statistics in small ones.
    """

    phantoms: int
    shape: Triple
    phases: tuple[Phase, ...]


@dataclass(frozen=True)
class Accuracy:
    """Network and training of the part `accuracy`.

    Attributes:
        network: Its windows cover as much of the patient's scan as `Preset.network`'s do of a scan of 200 slices, so
            that modes differ in as many windows.
        phases: One after the other, the last ones of patches as large as the windows.
    """

    network: Network
    phases: tuple[Phase, ...]


@dataclass(frozen=True)
class Preset:
    """Everything that is the same for all competitors.

    Attributes:
        name: Of the preset.
        volumes: Volumes by their number of slices.
        main: The volume on which all competitors are compared.
        network: The network.
        training: Its training.
        accuracy: Of the part `accuracy`, which has its own network.
    """

    name: str
    volumes: Mapping[str, Grid]
    main: str
    network: Network
    training: Training
    accuracy: Accuracy

    @property
    def largest(self) -> str:
        """The volume with the most voxels."""
        return max(self.volumes, key=lambda size: self.volumes[size].voxels)

    def settings(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple | list) else value


PRESETS: dict[str, Preset] = {
    "full": Preset(
        name="full",
        volumes={
            "55": Grid((55, 512, 512), (2.5, 0.8, 0.8)),
            "200": Grid((200, 512, 512), (2.5, 0.8, 0.8)),
            "554": Grid((554, 512, 512), (1.0, 0.8, 0.8)),
        },
        main="200",
        network=Network((2.42, 1.95, 1.95), (128, 128, 128), (16, 32, 64, 128, 256)),
        training=Training(
            phantoms=4,
            shape=(208, 208, 208),
            phases=(Phase((48, 48, 48), 2, 1500, 3e-3), Phase((128, 128, 128), 1, 200, 1e-3)),
        ),
        accuracy=Accuracy(
            Network((3.0, 3.0, 3.0), (64, 64, 80), (16, 32, 64, 128, 256)),
            (
                Phase((48, 48, 48), 2, 1500, 3e-3),
                Phase((64, 64, 80), 1, 500, 1e-3),
                # again from a large step: the difference of modes shrinks as long as the network learns
                Phase((64, 64, 80), 1, 600, 1e-3),
                Phase((64, 64, 80), 1, 600, 1e-3),
            ),
        ),
    ),
    "tiny": Preset(
        name="tiny",
        volumes={
            "16": Grid((16, 96, 96), (14.0, 4.2, 4.2)),
            "24": Grid((24, 96, 96), (14.0, 4.2, 4.2)),
            "48": Grid((48, 96, 96), (7.0, 4.2, 4.2)),
        },
        main="24",
        network=Network((9.68, 7.8, 7.8), (16, 32, 32), (8, 16, 32)),
        training=Training(phantoms=3, shape=(48, 52, 52), phases=(Phase((16, 32, 32), 2, 300, 1e-2),)),
        accuracy=Accuracy(Network((3.0, 3.0, 3.0), (32, 32, 32), (8, 16, 32)), (Phase((32, 32, 32), 2, 20, 1e-2),)),
    ),
}
