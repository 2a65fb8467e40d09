"""From label maps and table rows to per-class targets, on the device, a few channels at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

__all__ = ["KnownStates", "check_inputs"]

# Channels are taken in blocks of at most this many voxels: small on a CPU, where a block should stay in the cache,
# larger on a GPU, where each block costs a few kernel launches.
_BLOCK_VOXELS = {"cpu": 1 << 18, "cuda": 1 << 23}


def check_inputs(logits: Tensor, labels: Tensor, table: Tensor) -> None:
    """Raises ValueError where the shapes of a sigmoid loss's arguments do not fit.

    Args:
        logits: (B, C, *S).
        labels: (B, 1, *S).
        table: (B, V, C).
    """
    if labels.shape != (logits.shape[0], 1, *logits.shape[2:]):
        expected = (logits.shape[0], 1, *logits.shape[2:])
        raise ValueError(
            f"labels: expected shape {expected} for logits {tuple(logits.shape)}, got {tuple(labels.shape)}"
        )
    if table.ndim != 3 or table.shape[0] != logits.shape[0] or table.shape[2] != logits.shape[1]:
        raise ValueError(
            f"table: expected shape ({logits.shape[0]}, values, {logits.shape[1]}) for logits {tuple(logits.shape)}, "
            f"got {tuple(table.shape)}"
        )
    if labels.dtype.is_floating_point:
        raise ValueError(f"labels: expected integers, got {labels.dtype}")


class KnownStates:
    """Looks up, block by block, where classes are known and where they are present.

    Args:
        labels: integer (B, 1, *S); -1 is unknown for every class.
        table: int8 (B, V, C): 1 present, 0 absent, -1 unknown.
        assumed_absent: Classes that are taken for absent wherever they are unknown, label -1 included.

    Attributes:
        annotated: bool (B, C), on the CPU: whether anything is known of a class in a case.
    """

    def __init__(self, labels: Tensor, table: Tensor, assumed_absent: Iterable[int] = ()) -> None:
        on_host = table.cpu()
        unknown = torch.full_like(on_host[:, :1], -1)
        # row 0 stands for label -1; classes first, so that a block of classes is contiguous
        self._states = torch.cat([unknown, on_host], 1).transpose(1, 2).contiguous()
        for c in assumed_absent:
            self._states[:, c].clamp_min_(0)
        known = self._states >= 0
        self.annotated = known.any(2)
        self._known = self.annotated.tolist()
        self._complete = known.all(2).tolist()
        self._complete_inside = known[:, :, 1:].all(2).tolist()
        self._labels = labels
        self._tables: dict[torch.device, Tensor] = {}
        self._index: tuple[int, Tensor, bool] | None = None

    def blocks(self, device: torch.device) -> Iterator[tuple[int, slice]]:
        """Yields (case, consecutive channels) for all channels of which something is known in the case."""
        voxels = self._labels[0, 0].numel()
        longest = max(1, _BLOCK_VOXELS.get(device.type, 1 << 20) // voxels)
        for case, known in enumerate(self._known):
            yield from ((case, run) for run in _runs(known, longest))

    def present(self, case: int, channels: slice, dtype: torch.dtype) -> Tensor:
        """Where the classes of a block are present: (k, voxels) of 0 and 1 in the given type."""
        index, _ = self._label_index(case)
        return _look_up((self._table(index.device)[case, channels] == 1).to(dtype), index)

    def known(self, case: int, channels: slice, dtype: torch.dtype) -> Tensor | None:
        """Where the classes of a block are known: (k, voxels) of 0 and 1, or None where they are known everywhere."""
        index, inside = self._label_index(case)
        complete = self._complete_inside if inside else self._complete
        if all(complete[case][channels]):
            return None
        return _look_up((self._table(index.device)[case, channels] >= 0).to(dtype), index)

    def _label_index(self, case: int) -> tuple[Tensor, bool]:
        """Rows of the table for each voxel of a case, and whether none of them lies outside the image."""
        if self._index is None or self._index[0] != case:
            index = self._labels[case, 0].flatten().to(torch.int64) + 1
            inside = index.device.type == "cpu" and int(index.min()) > 0
            self._index = (case, index, inside)
        return self._index[1], self._index[2]

    def _table(self, device: torch.device) -> Tensor:
        if device not in self._tables:
            self._tables[device] = self._states.to(device, non_blocking=True)
        return self._tables[device]


def _look_up(rows: Tensor, index: Tensor) -> Tensor:
    """rows[:, index]; one row at a time is several times faster on a CPU."""
    return rows[0].index_select(0, index)[None] if rows.shape[0] == 1 else rows.index_select(1, index)


def _runs(flags: list[bool], longest: int) -> Iterator[slice]:
    """Slices of consecutive true flags, no longer than `longest`."""
    start = 0
    while start < len(flags):
        if not flags[start]:
            start += 1
            continue
        stop = start
        while stop < len(flags) and flags[stop] and stop - start < longest:
            stop += 1
        yield slice(start, stop)
        start = stop
