"""Sliding windows whose weighted mean streams out plane by plane: memory is that of a row of windows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.backends.backend import Backend

__all__ = ["importance", "sliding_logits", "window_count", "window_starts"]

_SIGMA = 1 / 8  # of the patch
_LARGEST_IMPORTANCE = 10


def window_starts(size: int, window: int, step: float) -> list[int]:
    """Where windows begin along an axis: evenly, with both rims covered.

    Args:
        size: Voxels, at least `window`.
        window: Voxels of a window.
        step: Largest distance of two windows as a part of a window, above 0 and at most 1.
    """
    count = math.ceil((size - window) / (window * step)) + 1
    if count == 1:
        return [0]
    # NumPy rounds halves to even, as nnU-Net does
    return [int(np.round((size - window) / (count - 1) * i)) for i in range(count)]


@lru_cache(maxsize=4)
def importance(patch: tuple[int, ...]) -> NDArray[np.float32]:
    """How much each voxel of a window counts: a Gaussian around its centre, in half precision as nnU-Net has it.

    Args:
        patch: Voxels of a window.

    Returns:
        float32, shape `patch`, above 0 and at most 10.
    """
    from scipy.ndimage import gaussian_filter1d

    whole = np.ones(())
    for size in patch:
        point = np.zeros(size)
        point[size // 2] = 1
        whole = np.multiply.outer(whole, gaussian_filter1d(point, size * _SIGMA, mode="constant"))
    # by way of single precision, as PyTorch goes: where both steps round, the result may be another
    whole = (whole / (whole.max() / _LARGEST_IMPORTANCE)).astype(np.float32).astype(np.float16)
    whole[whole == 0] = whole[whole > 0].min()
    return np.asarray(whole, np.float32)


def _padding(shape: Sequence[int], patch: Sequence[int]) -> list[tuple[int, int]]:
    missing = [max(0, p - n) for n, p in zip(shape, patch, strict=True)]
    return [(m // 2, m - m // 2) for m in missing]


def window_count(shape: Sequence[int], patch: Sequence[int], step: float) -> int:
    """Number of windows of a volume.

    Args:
        shape: Voxels along (z, y, x).
        patch: Voxels of a window, 2 or 3 numbers.
        step: See `window_starts`.
    """
    return math.prod(len(starts) for starts in _starts(shape, patch, step))


def _whole(patch: Sequence[int]) -> tuple[int, ...]:
    return (1,) * (3 - len(patch)) + tuple(patch)


def _starts(shape: Sequence[int], patch: Sequence[int], step: float) -> list[list[int]]:
    """Where windows begin along each axis; a network of slices sees each slice once."""
    sliced = len(shape) - len(patch)
    starts = [list(range(n)) for n in shape[:sliced]]
    return starts + [window_starts(max(n, p), p, step) for n, p in zip(shape[sliced:], patch, strict=True)]


class _Accumulator:
    """Weighted sums of the windows that begin at one plane, and what they share with those before.

    Args:
        backend: Whose arrays hold the sums.
        outputs: Channels.
        shape: (depth of a window, Y, X).
        patch: Voxels of a window, three numbers.
    """

    def __init__(self, backend: Backend, outputs: int, shape: tuple[int, int, int], patch: tuple[int, ...]) -> None:
        self._backend = backend
        self._importance = backend.to_backend(importance(patch))
        self._sums = backend.zeros((outputs, *shape))
        self._weights = backend.zeros(shape)
        self._patch = patch

    def add(self, logits: Any, y: int, x: int) -> None:
        """Adds a window (C, *patch) at the current plane."""
        logits *= self._importance
        _, height, width = self._patch
        self._sums[:, :, y : y + height, x : x + width] += logits
        self._weights[:, y : y + height, x : x + width] += self._importance

    def means(self, planes: int) -> NDArray[np.float32]:
        """Means of the first planes, of which no window is to come; (C, planes, Y, X), valid until `advance`.

        Raises:
            PartialError: Some are infinite or NaN.
        """
        sums = self._sums[:, :planes]
        sums /= self._weights[:planes]
        # one number for all, where they lie: a single infinity or NaN is never summed away
        with np.errstate(over="ignore", invalid="ignore"):
            total = float(sums.sum())
        found = self._backend.to_numpy(sums)
        if not math.isfinite(total):
            _refuse_infinite(found)
        return found

    def advance(self, planes: int) -> None:
        """Forgets the first planes."""
        kept = max(0, self._patch[0] - planes)
        # one plane at a time, upwards: source and target overlap
        for plane in range(kept):
            self._sums[:, plane] = self._sums[:, plane + planes]
            self._weights[plane] = self._weights[plane + planes]
        self._sums[:, kept:] = 0
        self._weights[kept:] = 0


def _refuse_infinite(logits: NDArray[np.float32]) -> None:
    wrong = logits.size - int(np.count_nonzero(np.isfinite(logits)))
    if wrong:  # finite numbers have an infinite sum only where they are near the largest that float32 holds
        raise PartialError(
            f"network: expected finite numbers, found {wrong} of {logits.size} that are infinite or NaN; half "
            "precision holds numbers up to 65504: try --precision fp32; if that does not help, the weights are damaged"
        )


def _predict(backend: Backend, patches: Any, mirror_axes: Sequence[int]) -> Any:
    """Logits of a batch of windows, averaged over all combinations of mirrored axes."""
    logits = backend.predict(patches)
    combinations = [c for n in range(1, len(mirror_axes) + 1) for c in itertools.combinations(mirror_axes, n)]
    if not combinations:
        return logits
    total = backend.zeros(logits.shape)
    total += logits
    for chosen in combinations:
        axes = [axis + 2 for axis in chosen]
        total += backend.flip(backend.predict(backend.flip(patches, axes)), axes)
    total /= len(combinations) + 1
    return total


def sliding_logits(
    image: NDArray[np.float32],
    backend: Backend,
    patch: Sequence[int],
    *,
    step: float = 0.5,
    mirror_axes: Sequence[int] = (),
    batch_size: int = 1,
) -> Iterator[NDArray[np.float32]]:
    """Predicts a volume in overlapping windows.

    The windows and their weights are nnU-Net's, summed in float32 where nnU-Net sums in float16. Volumes smaller than
    a window are padded with 0 on both sides.

    Args:
        image: float32 (C, z, y, x), as the network sees it.
        backend: The network.
        patch: Voxels of a window: three, or two for a network of slices.
        step: Distance of windows as a part of a window, above 0 and at most 1.
        mirror_axes: Spatial axes of a window along which it is also predicted mirrored.
        batch_size: Windows at once.

    Yields:
        Logits (outputs, k, Y, X) of consecutive planes along z, together all of the volume. Their memory is used again
        for the next ones.

    Raises:
        PartialError: The network gives infinite numbers or NaN.
    """
    whole = _whole(patch)
    padding = _padding(image.shape[1:], whole)
    volume = np.pad(image, [(0, 0), *padding]) if any(map(sum, padding)) else image
    _, depth, height, width = volume.shape
    starts = _starts(volume.shape[1:], patch, step)
    sums = _Accumulator(backend, backend.outputs, (whole[0], height, width), whole)
    inside = (
        slice(None),
        slice(None),
        *(slice(b, n - a) for (b, a), n in zip(padding[1:], (height, width), strict=True)),
    )
    first, last = padding[0][0], depth - padding[0][1]
    on_device = backend.to_backend(volume)
    places = list(itertools.product(starts[1], starts[2]))
    for z, following in itertools.pairwise([*starts[0], depth]):
        with _adding(sums, whole, backend) as add:
            for at in range(0, len(places), batch_size):
                part = places[at : at + batch_size]
                windows = [on_device[:, z : z + whole[0], y : y + whole[1], x : x + whole[2]] for y, x in part]
                add(_predict(backend, _stacked(backend, windows, patch), mirror_axes), part)
        planes = following - z
        kept = sums.means(planes)[:, max(0, first - z) : max(0, last - z)]
        if kept.shape[1]:
            yield kept[inside]
        sums.advance(planes)


@contextmanager
def _adding(
    sums: _Accumulator, whole: tuple[int, ...], backend: Backend
) -> Iterator[Callable[[Any, Sequence[tuple[int, int]]], None]]:
    """A function that adds windows at their places, where it pays beside the prediction of the next ones.

    At most one batch waits, so the logits of a batch are used while the next one is predicted, and no longer.
    """

    def add(logits: Any, places: Sequence[tuple[int, int]]) -> None:
        for (y, x), window in zip(places, logits, strict=True):
            sums.add(window.reshape(window.shape[0], *whole), y, x)

    if not backend.adds_beside:
        yield add
        return
    waiting: list[Future[None]] = []

    def add_beside(logits: Any, places: Sequence[tuple[int, int]]) -> None:
        if waiting:
            waiting.pop().result()
        waiting.append(pool.submit(add, logits, places))

    with ThreadPoolExecutor(1) as pool:
        yield add_beside
        for last in waiting:
            last.result()


def _stacked(backend: Backend, windows: list[Any], patch: Sequence[int]) -> Any:
    """Windows (C, *whole) as one batch (B, C, *patch)."""
    batch = backend.zeros((len(windows), windows[0].shape[0], *patch))
    for number, window in enumerate(windows):
        batch[number] = window.reshape(window.shape[0], *patch)
    return batch
