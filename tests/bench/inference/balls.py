"""Logits of balls: known everywhere, smooth as those of a network, and made in blocks of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Balls"]

_RADII = (8 / 207, 45 / 207)  # of the shortest axis, for as many balls as below
_BALLS = 13  # whose volume all balls share where there are more
_BACKGROUND = 1.0


@dataclass(frozen=True)
class Balls:
    """Balls of all sizes, one a class; where there are more of them they are smaller, so that all fill as much space.

    Attributes:
        shape: Voxels, (z, y, x).
        centres: (n, 3) in voxels.
        radii: (n,) in voxels.
        background: Channel 0 is a background with a logit of 1.
    """

    shape: tuple[int, int, int]
    centres: NDArray[np.float64]
    radii: NDArray[np.float64]
    background: bool

    @classmethod
    def draw(cls, channels: int, shape: Sequence[int], background: bool) -> Balls:
        """Draws balls; the same arguments give the same ones.

        Args:
            channels: Channels of the logits, the background included.
            shape: Voxels, (z, y, x).
            background: Whether there is one.
        """
        rng = np.random.default_rng(0)
        count = channels - background
        drawn = np.array([[*rng.uniform(0.2, 0.8, 3), rng.uniform(*_RADII)] for _ in range(count)])
        cubes = drawn[:, 3] ** 3
        shrunk = float(np.cbrt(cubes[:_BALLS].sum() / cubes.sum()))
        z, y, x = shape
        return cls((z, y, x), drawn[:, :3] * shape, drawn[:, 3] * min(shape) * shrunk, background)

    @property
    def channels(self) -> int:
        """Channels of the logits."""
        return len(self.radii) + self.background

    def planes(self, first: int, stop: int, memory: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Logits of some planes, float32 (channels, planes, y, x): the distance from the surface, positive inside.

        Args:
            first: Number of the first plane.
            stop: Number after the last one.
            memory: Of at least as many planes, to write to; new memory by default.
        """
        stop = min(stop, self.shape[0])
        if memory is None:
            memory = np.empty((self.channels, stop - first, *self.shape[1:]), np.float32)
        logits = memory[:, : stop - first]
        if self.background:
            logits[0] = _BACKGROUND
        z, y, x = (np.arange(n, dtype=np.float32) for n in self.shape)
        for channel, (centre, radius) in enumerate(zip(self.centres, self.radii, strict=True), start=self.background):
            apart = [(axis - np.float32(c)) ** 2 for axis, c in zip((z[first:stop], y, x), centre, strict=True)]
            squared = apart[0][:, None, None] + apart[1][:, None] + apart[2]
            np.sqrt(squared, out=squared)
            np.subtract(np.float32(radius), squared, out=logits[channel])
        return logits
