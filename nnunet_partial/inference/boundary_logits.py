"""Logits of independent channels in little memory: what is not next to a change of sign is kept as its sign alone.

The mask of a channel is where its interpolated logit is above 0. Interpolation weights of linear and nearest kernels
are not negative and add up to one, so where all neighbours of a voxel have the same sign, their sizes do not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["BoundaryLogits"]

FloatArray = NDArray[np.float32]
Bits = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class _Plane(NamedTuple):
    """What is kept of a plane.

    Attributes:
        positive: Whether logits are above 0, one bit a voxel, (C, bytes).
        decisive: Whether their values are kept, likewise.
        values: Those that are, of one channel after the other.
        starts: Where each channel's begin, (C + 1,).
    """

    positive: Bits
    decisive: Bits
    values: FloatArray
    starts: NDArray[np.intp]


class BoundaryLogits:
    """Logits of all channels of an image, as far as they decide the channels' masks.

    Args:
        blocks: Logits (C, k, Y, X) of consecutive planes; any k. A block is not used any more once the next one is
            asked for.
    """

    def __init__(self, blocks: Iterable[FloatArray]) -> None:
        self._shape: tuple[int, int] = (0, 0)
        self._planes: list[_Plane] = []
        below: Mask | None = None  # cells between the last plane but one and the last one that are undecided
        last: FloatArray | None = None
        for plane in _planes(blocks):
            self._shape = (plane.shape[1], plane.shape[2])
            if last is not None:
                above = _undecided(last > 0, plane > 0)
                self._planes.append(_kept(last, above if below is None else above | below))
                below = above
            last = plane.copy()
        if last is not None:
            self._planes.append(_kept(last, _undecided(last > 0, last > 0) if below is None else below))

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return sum(array.nbytes for plane in self._planes for array in plane)

    def channel(self, number: int) -> FloatArray:
        """A channel, (1, Z, Y, X), whose mask is that of its logits; values that do not matter are 1 and -1.

        Args:
            number: Of the channel, counted from 0.
        """
        found = np.empty((1, len(self._planes), *self._shape), np.float32)
        for target, plane in zip(found[0], self._planes, strict=True):
            positive, decisive = (
                np.unpackbits(bits[number], count=target.size).view(np.bool_).reshape(target.shape)
                for bits in (plane.positive, plane.decisive)
            )
            target[:] = np.where(positive, np.float32(1), np.float32(-1))
            target[decisive] = plane.values[plane.starts[number] : plane.starts[number + 1]]
        return found


def _planes(blocks: Iterable[FloatArray]) -> Iterator[FloatArray]:
    for block in blocks:
        yield from np.moveaxis(block, 1, 0)


def _undecided(lower: Mask, upper: Mask) -> Mask:
    """Cells between two planes whose corners differ, (C, Y, X); at the far rims a cell has fewer corners."""
    every, some = lower & upper, lower | upper
    for axis in (1, 2):
        every, some = every & _next(every, axis), some | _next(some, axis)
    return some & ~every


def _next(values: Mask, axis: int) -> Mask:
    """Of each voxel the next one along an axis; of the last one itself."""
    last = values.shape[axis] - 1
    found: Mask = np.take(values, np.minimum(np.arange(last + 1) + 1, last), axis)
    return found


def _kept(logits: FloatArray, cells: Mask) -> _Plane:
    """A plane (C, Y, X), with the values at the corners of some cells."""
    decisive = cells.copy()
    decisive[:, 1:] |= cells[:, :-1]
    decisive[:, :, 1:] |= decisive[:, :, :-1].copy()
    channels = len(logits)
    starts = np.concatenate([[0], np.cumsum(decisive.reshape(channels, -1).sum(1))])
    bits = [np.packbits(mask.reshape(channels, -1), axis=1) for mask in (logits > 0, decisive)]
    return _Plane(bits[0], bits[1], logits[decisive].astype(np.float32, copy=False), starts)
