"""From logits at the network's resolution to labels at the image's: exact, and at the cost of the boundary.

Interpolation weights of linear and nearest kernels are not negative and add up to one. Where all low-resolution
neighbours of a voxel have the same label, interpolating their logits cannot give another one:

* argmax: if one channel is highest at all neighbours, it is highest in any average of them;
* regions (of the channels above 0 the last one wins): if it is channel c at all neighbours, c is above 0 and all later
  channels are not, at all of them and so in any average;
* competing regions: likewise, see `StrongestRegion.settled`.

So labels are copied there, and only what is left, a percent or two of the volume, is interpolated; of it only the
channels that can win between these neighbours. Where a plane is left in large part, as with noise, the whole plane is
interpolated, a few channels at a time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
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
_INTERPOLATED_AT_ONCE = 1 << 18  # voxels of all channels together, of a dense layer, in each thread
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


class _Plane(NamedTuple):
    """A low-resolution plane.

    Attributes:
        logits: (C, Y, X).
        winners: (Y, X), or `_Exporter`'s number for undecided voxels; see `Rule.settled`.
        highest: (C,), highest logit of each channel.
    """

    logits: Logits
    winners: Winners
    highest: Logits

    def copy(self) -> _Plane:
        """The plane in memory of its own."""
        return self._replace(logits=self.logits.copy())


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

    def plane(self, logits: Logits) -> _Plane:
        """A low-resolution plane of logits (C, Y, X), with its winners."""
        highest = logits.max(-1)
        winners = self._rule.settled(logits, highest, self._dtype, self._undecided)
        return _Plane(logits, winners, highest.max(-1))

    def write(self, low: Mapping[int, _Plane], layer: _Layer) -> None:
        """Writes the output planes of a layer.

        Args:
            low: Number to low-resolution plane, at least those of the layer.
            layer: The layer.
        """
        planes = [low[number] for number in sorted({layer.lower, layer.upper})]
        cells = self._cells(planes[0].winners, planes[-1].winners)
        undecided = np.flatnonzero(cells.ravel() == self._undecided)
        if undecided.size > _DENSE_SHARE * cells.size:
            self._write_all(layer, planes)
            return
        labels = np.take(np.take(cells, self._rows.lower, 0), self._columns.lower, 1)
        for plane in range(len(layer.weights)):
            np.take(self._value_of, labels, out=self._result[layer.first + plane])
        if undecided.size:
            points = self._points(labels, undecided, cells.shape)
            self._settle(layer, self._boundary(planes, undecided), points)

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

    def _boundary(self, planes: list[_Plane], undecided: NDArray[np.intp]) -> _Boundary:
        """The undecided cells between planes, with the channels that may win there."""
        height, width = planes[0].winners.shape
        y, x = np.divmod(undecided, width)
        below, right = np.minimum(y + 1, height - 1), np.minimum(x + 1, width - 1)
        corners = np.stack([y * width + x, y * width + right, below * width + x, below * width + right])
        # those that win a voxel are certainly needed, and tell which of the others are
        counts = sum(np.bincount(plane.winners.ravel(), minlength=len(self._value_of)) for plane in planes)
        winning = np.flatnonzero(np.asarray(counts)[1 : len(planes[0].logits) + 1])
        logits = _gathered(planes, winning, corners)
        lows = logits.reshape(len(winning), 4 * len(planes), undecided.size).min(1)
        highest = np.max([plane.highest for plane in planes], axis=0)
        contending = self._rule.contenders(highest, lows)
        contending[winning] = False
        others = np.flatnonzero(contending)
        channels = np.concatenate([winning, others])
        order = np.argsort(channels)
        if others.size:
            logits = np.concatenate([logits, _gathered(planes, others, corners)])[order]
        return _Boundary(channels[order], logits)

    def _settle(self, layer: _Layer, boundary: _Boundary, points: _Points) -> None:
        """Decides the undecided voxels of a layer, those of cells with few candidates first."""
        logits = boundary.logits
        neighbours = logits.reshape(len(logits), -1, logits.shape[-1])
        candidates = self._rule.candidates(neighbours.min(1), neighbours.max(1))
        several = candidates.sum(0)
        few = several <= _FEW_CANDIDATES
        for chosen, most in ((few, _FEW_CANDIDATES), (~few, len(candidates))):
            if chosen.any():
                here = np.flatnonzero(chosen[points.cell])
                self._settle_points(layer, boundary, _Candidates.of(candidates, chosen, most), points, here)

    def _settle_points(
        self, layer: _Layer, boundary: _Boundary, candidates: _Candidates, points: _Points, here: NDArray[np.intp]
    ) -> None:
        logits = candidates.of_channels(boundary.logits)
        value_of = self._value_of[np.concatenate([[0], boundary.channels + 1])]
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
                winner = self._rule.winners_among(values, numbers, boundary.channels).astype(np.intp)
                number = np.take_along_axis(numbers, np.maximum(winner - 1, 0)[None], 0)[0] * (winner > 0)
                planes[layer.first + plane, points.place[part]] = value_of[number]

    def _write_all(self, layer: _Layer, planes: list[_Plane]) -> None:
        """Interpolates every channel of the output planes of a layer, few at a time."""
        lower, upper = planes[0].logits, planes[-1].logits
        shape = self._result.shape[1:]
        at_once = max(1, _INTERPOLATED_AT_ONCE // max(math.prod(shape), math.prod(lower.shape[1:])))
        for plane, weight in enumerate(layer.weights):
            contest = self._rule.contest(shape, self._dtype)
            for first in range(0, len(lower), at_once):
                part = slice(first, first + at_once)
                low = lower[part].astype(np.float32)
                if weight:
                    low += np.float32(weight) * (upper[part] - low)
                logits = self._columns.along(self._rows.along(low, 1), 2)
                for number, (channel, highest) in enumerate(zip(logits, logits.max(-1), strict=True), start=first + 1):
                    contest.enter(number, channel, highest)
            np.take(self._value_of, contest.winner, out=self._result[layer.first + plane])


def _gathered(planes: list[_Plane], channels: NDArray[np.intp], corners: NDArray[np.intp]) -> NDArray[np.float32]:
    """Logits of some channels at the corners of cells, (k, planes, 4, m)."""
    found = np.empty((len(channels), len(planes), *corners.shape), np.float32)
    for row, channel in enumerate(channels):
        for number, plane in enumerate(planes):
            found[row, number] = np.take(plane.logits[channel].reshape(-1), corners)
    return found


class _Boundary(NamedTuple):
    """The undecided cells of a layer.

    Attributes:
        channels: Numbers of the channels that may win in some of them, rising, counted from 0; (k,).
        logits: Of these channels at the corners of the cells, (k, 1 or 2, 4, m).
    """

    channels: NDArray[np.intp]
    logits: NDArray[np.float32]


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


def export_labels(blocks: Iterable[Logits], maps: Maps, decoding: Decoding, threads: int = 1) -> Labels:
    """Labels at the resolution of the image.

    As nnU-Net's export: interpolate all logits, then decode. nnU-Net interpolates in float64 and rounds to the type of
    the logits; here it is float32, so that channels that are equal to a rounding may be decided otherwise.

    Args:
        blocks: Logits (C, k, Y, X) of consecutive planes, together all planes of the first axis; any k. A block is
            not used any more once the next one is asked for.
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
    exporter, layers = _Exporter(maps, decoding, result), _layers(maps[0])
    arrived = done = 0
    last: _Plane | None = None
    with ThreadPoolExecutor(threads) as pool:
        for block in blocks:
            planes = dict(enumerate(pool.map(exporter.plane, np.moveaxis(block, 1, 0)), start=arrived))
            if last is not None:
                planes[arrived - 1] = last
            arrived += block.shape[1]
            ready = done
            while ready < len(layers) and layers[ready].upper < arrived:
                ready += 1
            for _ in pool.map(functools.partial(exporter.write, planes), layers[done:ready]):
                pass
            done = ready
            if block.shape[1]:
                last = planes[arrived - 1].copy()
    if done < len(layers):
        raise ValueError(f"logits: expected at least {layers[-1].upper + 1} planes, got {arrived}")
    return result
