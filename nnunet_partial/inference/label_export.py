"""From logits at the network's resolution to labels at the image's: exact, and at the cost of the boundary.

Interpolation weights of linear and nearest kernels are not negative and add up to one. Where all low-resolution
neighbours of a voxel have the same label, interpolating their logits cannot give another one:

* argmax: if one channel is highest at all neighbours, it is highest in any average of them;
* regions (of the channels above 0 the last one wins): if it is channel c at all neighbours, c is above 0 and all later
  channels are not, at all of them and so in any average.

So labels are copied there, and only what is left, a percent or two of the volume, is interpolated; of it only the
channels that can win between these neighbours. Where a plane is left in large part, as with noise, the whole plane is
interpolated, channel by channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnunet_partial.inference.model.plan import Decoding
from nnunet_partial.inference.resampling import AxisMap
from nnunet_partial.inference.winners import Logits, Winners, rule_of

__all__ = ["export_labels"]

_DENSE_SHARE = 0.25  # undecided cells of a layer, above which interpolating everything is faster
_POINTS_AT_ONCE = 1 << 15
_FEW_CANDIDATES = 4
_NEVER = np.float32(-1e30)  # a logit that never wins; infinity times a weight of 0 would be no number

Labels = NDArray[np.unsignedinteger[Any]]
Maps = tuple[AxisMap, AxisMap, AxisMap]


class _Layer(NamedTuple):
    """The output planes between two low-resolution planes that follow each other.

    Attributes:
        lower: Number of the lower low-resolution plane.
        upper: Number of the upper one; `lower` where only that one counts.
        first: Number of the first output plane.
        weights: Weight of the upper plane in each output plane.
    """

    lower: int
    upper: int
    first: int
    weights: NDArray[np.float64]


def _layers(axis_map: AxisMap) -> list[_Layer]:
    starts = np.flatnonzero(np.diff(axis_map.lower, prepend=-1))
    stops = [*starts[1:], len(axis_map.lower)]
    return [
        _Layer(
            int(axis_map.lower[start]), int(axis_map.upper[start:stop].max()), int(start), axis_map.weight[start:stop]
        )
        for start, stop in zip(starts, stops, strict=True)
    ]


class _Points(NamedTuple):
    """Undecided voxels of the output planes of a layer.

    Attributes:
        place: Index into a flattened output plane, (n,).
        cell: Index into the undecided cells, (n,).
        corners: Weight of the four corners of the cell, (4, n).
    """

    place: NDArray[np.intp]
    cell: NDArray[np.intp]
    corners: NDArray[np.float32]


class _Exporter:
    """Writes output planes.

    Args:
        maps: Of the three axes.
        decoding: What the channels mean.
        result: Output volume, (Z', Y', X').
    """

    def __init__(self, maps: Maps, decoding: Decoding, result: Labels) -> None:
        _, self._rows, self._columns = maps
        self._rule = rule_of(decoding)
        channels = len(decoding.values)
        self._dtype: type[np.unsignedinteger[Any]] = np.uint8 if channels < 255 else np.uint16
        self._undecided = int(np.iinfo(self._dtype).max)
        self._value_of = np.zeros(self._undecided + 1, result.dtype)
        self._value_of[1 : channels + 1] = decoding.values
        self._result = result

    def winners(self, plane: Logits) -> Winners:
        """Winners of a low-resolution plane (C, Y, X)."""
        return self._rule.winners(plane, self._dtype)

    def write(self, layer: _Layer, logits: Logits, lower: Winners, upper: Winners) -> None:
        """Writes the output planes of a layer.

        Args:
            layer: The layer.
            logits: Of its one or two low-resolution planes, (C, 1 or 2, Y, X).
            lower: Winners of the first of them, (Y, X).
            upper: Winners of the last of them.
        """
        cells = self._cells(lower, upper)
        undecided = np.flatnonzero(cells.ravel() == self._undecided)
        if undecided.size > _DENSE_SHARE * cells.size:
            self._write_all(layer, logits)
            return
        labels = np.take(np.take(cells, self._rows.lower, 0), self._columns.lower, 1)
        for plane in range(len(layer.weights)):
            np.take(self._value_of, labels, out=self._result[layer.first + plane])
        if undecided.size:
            points = self._points(labels, undecided, cells.shape)
            self._settle(layer, self._corner_logits(logits, undecided), points)

    def _cells(self, lower: Winners, upper: Winners) -> Winners:
        """For each low-resolution cell the winner at all of its corners, or `undecided`; (Y, X)."""
        cells = lower if lower is upper else self._agreed(lower, upper)
        if not self._rows.copies:
            cells = self._agreed(cells, np.vstack([cells[1:], cells[-1:]]))
        if not self._columns.copies:
            cells = self._agreed(cells, np.hstack([cells[:, 1:], cells[:, -1:]]))
        return cells

    def _agreed(self, one: Winners, other: Winners) -> Winners:
        return np.where(one == other, one, self._dtype(self._undecided))

    def _points(self, labels: Winners, undecided: NDArray[np.intp], shape: tuple[int, ...]) -> _Points:
        place = np.flatnonzero(labels.ravel() == self._undecided)
        row, column = np.divmod(place, labels.shape[1])
        number_of = np.zeros(shape[0] * shape[1], np.intp)
        number_of[undecided] = np.arange(undecided.size)
        cell = number_of[self._rows.lower[row] * shape[1] + self._columns.lower[column]]
        y, x = self._rows.weight[row], self._columns.weight[column]
        corners = np.stack([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x])
        return _Points(place, cell, corners.astype(np.float32))

    def _corner_logits(self, logits: Logits, undecided: NDArray[np.intp]) -> Logits:
        """Logits at the corners of the undecided cells, (C, 1 or 2, 4, m)."""
        channels, depth, height, width = logits.shape
        y, x = np.divmod(undecided, width)
        below, right = np.minimum(y + 1, height - 1), np.minimum(x + 1, width - 1)
        corners = np.stack([y * width + x, y * width + right, below * width + x, below * width + right])
        return np.take(logits.reshape(channels, depth, -1), corners, axis=2)

    def _settle(self, layer: _Layer, corner_logits: Logits, points: _Points) -> None:
        """Decides the undecided voxels of a layer, those of cells with few candidates first."""
        neighbours = corner_logits.reshape(len(corner_logits), -1, corner_logits.shape[-1])
        candidates = self._rule.candidates(neighbours.min(1), neighbours.max(1))
        several = candidates.sum(0)
        few = several <= _FEW_CANDIDATES
        for chosen, most in ((few, _FEW_CANDIDATES), (~few, len(candidates))):
            if chosen.any():
                here = np.flatnonzero(chosen[points.cell])
                self._settle_points(layer, corner_logits, _Candidates.of(candidates, chosen, most), points, here)

    def _settle_points(
        self, layer: _Layer, corner_logits: Logits, candidates: _Candidates, points: _Points, here: NDArray[np.intp]
    ) -> None:
        logits = candidates.of_channels(corner_logits)
        planes = self._result.reshape(len(self._result), -1)
        for start in range(0, here.size, _POINTS_AT_ONCE):
            part = here[start : start + _POINTS_AT_ONCE]
            slot = candidates.slot[points.cell[part]]
            in_plane = sum(
                np.take(logits[:, :, corner], slot, axis=2) * points.corners[corner, part] for corner in range(4)
            )
            numbers = np.take(candidates.numbers, slot, axis=1)
            for plane, weight in enumerate(layer.weights):
                values = in_plane[:, 0]
                if weight:
                    values = values + np.float32(weight) * (in_plane[:, -1] - values)
                winner = self._rule.winners(values, np.uint16).astype(np.intp)
                number = np.take_along_axis(numbers, np.maximum(winner - 1, 0)[None], 0)[0] * (winner > 0)
                planes[layer.first + plane, points.place[part]] = self._value_of[number]

    def _write_all(self, layer: _Layer, logits: Logits) -> None:
        """Interpolates every channel of the output planes of a layer."""
        for plane, weight in enumerate(layer.weights):
            low = logits[:, 0].astype(np.float32)
            if weight:
                low += np.float32(weight) * (logits[:, -1] - low)
            winner = self._rule.winners(self._columns.along(self._rows.along(low, 1), 2), self._dtype)
            np.take(self._value_of, winner, out=self._result[layer.first + plane])


class _Candidates(NamedTuple):
    """Channels that can win in some cells.

    Attributes:
        cells: Numbers of these cells, (m,).
        slot: Cell to its place among them; 0 for others.
        numbers: Candidates of each cell counted from 1, rising, 0 where there are fewer; (k, m).
    """

    cells: NDArray[np.intp]
    slot: NDArray[np.intp]
    numbers: NDArray[np.intp]

    @classmethod
    def of(cls, candidates: NDArray[np.bool_], chosen: NDArray[np.bool_], most: int) -> _Candidates:
        """The candidates of chosen cells.

        Args:
            candidates: (C, cells).
            chosen: (cells,).
            most: Number of candidates that a cell has at most.
        """
        cells = np.flatnonzero(chosen)
        slot = np.zeros(chosen.size, np.intp)
        slot[cells] = np.arange(cells.size)
        cell, channel = np.nonzero(candidates[:, cells].T)
        starts = np.searchsorted(cell, np.arange(cells.size))
        numbers = np.zeros((min(most, len(candidates)), cells.size), np.intp)
        numbers[np.arange(cell.size) - starts[cell], cell] = channel + 1
        return cls(cells, slot, numbers)

    def of_channels(self, logits: Logits) -> NDArray[np.float32]:
        """Logits (C, d, 4, cells) of the candidates, (k, d, 4, m); `_NEVER` where there are fewer."""
        channel = np.maximum(self.numbers - 1, 0)
        values = logits[
            channel[:, None, None], np.arange(logits.shape[1])[:, None, None], np.arange(4)[:, None], self.cells
        ]
        return np.where(self.numbers[:, None, None] > 0, values, _NEVER).astype(np.float32)


def _arrived(blocks: Iterable[Logits], layers: list[_Layer]) -> Iterator[tuple[list[_Layer], Logits, int]]:
    """Layers whose low-resolution planes have all come, with these and the number of the first of them."""
    kept: Logits | None = None
    first = done = 0
    for block in blocks:
        kept = block if kept is None or kept.shape[1] == 0 else np.concatenate([kept, block], axis=1)
        ready = done
        while ready < len(layers) and layers[ready].upper < first + kept.shape[1]:
            ready += 1
        if ready > done:
            yield layers[done:ready], kept, first
            done = ready
        needed = layers[done].lower if done < len(layers) else first + kept.shape[1]
        dropped = min(needed - first, kept.shape[1])
        kept, first = kept[:, dropped:].copy(), first + dropped
    if done < len(layers):
        found = first + (0 if kept is None else kept.shape[1])
        raise ValueError(f"logits: expected at least {layers[-1].upper + 1} planes, got {found}")


def export_labels(blocks: Iterable[Logits], maps: Maps, decoding: Decoding, threads: int = 1) -> Labels:
    """Labels at the resolution of the image.

    As nnU-Net's export: interpolate all logits, then decode. nnU-Net interpolates in float64 and rounds to the type of
    the logits; here it is float32, so that channels that are equal to a rounding may be decided otherwise.

    Args:
        blocks: Logits (C, k, Y, X) of consecutive planes, together all planes of the first axis; any k.
        maps: From the network's to the image's voxels, of the three axes.
        decoding: What the channels mean.
        threads: Planes that are worked on at once.

    Returns:
        Values of `decoding`, (Z', Y', X'), uint8, or uint16 for 255 labels and more.

    Raises:
        ValueError: There are fewer planes than the maps need.
    """
    written = np.uint8 if decoding.foreground_labels < 255 else np.uint16
    result: Labels = np.empty([len(axis_map.lower) for axis_map in maps], written)
    exporter = _Exporter(maps, decoding, result)
    with ThreadPoolExecutor(threads) as pool:
        for ready, logits, first in _arrived(blocks, _layers(maps[0])):
            winners = list(pool.map(lambda z, low=logits: exporter.winners(low[:, z]), range(logits.shape[1])))

            def write(layer: _Layer, low: Logits = logits, found: list[Winners] = winners, start: int = first) -> None:
                lower, upper = layer.lower - start, layer.upper - start
                exporter.write(layer, low[:, lower : upper + 1], found[lower], found[upper])

            list(pool.map(write, ready))
    return result
