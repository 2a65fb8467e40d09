"""One export of logits to labels, in this process: `python -m tests.bench.inference.export_case JSON`.

The JSON holds the fields of `ExportCase`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_partial.inference.label_export import export_labels
from nnunet_partial.inference.model.plan import Decoding, Resampling
from nnunet_partial.inference.resampling import AxisMap, axis_maps
from nnunet_partial.inference.windows import window_starts
from tests.bench.inference.balls import Balls
from tests.bench.inference.child import measured, print_result

__all__ = ["ExportCase", "main", "run_export"]

_STEP = 0.5  # of a window


@dataclass(frozen=True)
class ExportCase:
    """An export.

    Attributes:
        who: 'ours', 'nnunet', or 'streamed': ours, with logits that come block by block in memory that is used again,
            as windows give them; they are never there as a whole.
        regions: Channels are independent, the last one above 0 wins; else the highest one does.
        separate_z: nnU-Net's force_separate_z; None leaves it to the anisotropy.
        channels: Channels of the logits.
        shape: Voxels of the image, (z, y, x).
        spacing_mm: Their size.
        low_shape: Voxels of the logits.
        low_spacing_mm: Their size.
        window: Planes of the network's windows.
        threads: Of our export.
        labels: .npy file for the label map; None for none.
    """

    who: str
    regions: bool
    separate_z: bool | None
    channels: int
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    low_shape: tuple[int, int, int]
    low_spacing_mm: tuple[float, float, float]
    window: int
    threads: int
    labels: str | None = None

    @property
    def decoding(self) -> Decoding:
        """What the channels mean: regions have no background."""
        values = tuple(range(self.regions, self.channels + self.regions))
        return Decoding(self.regions, values, ("class",) * self.channels, max(values))

    def blocks(self) -> list[tuple[int, int]]:
        """First plane and plane after the last one of the blocks in which windows give logits."""
        depth = self.low_shape[0]
        return list(pairwise([*window_starts(max(depth, self.window), self.window, _STEP), depth]))

    def maps(self) -> tuple[AxisMap, AxisMap, AxisMap]:
        """From the logits' voxels to the image's."""
        rule = Resampling("spline", 1, 0, self.separate_z)
        maps = axis_maps(rule, self.low_shape, self.shape, self.low_spacing_mm, self.spacing_mm)
        assert maps is not None
        return maps


class _Stream:
    """Blocks of logits, with the time that making them takes."""

    def __init__(self, balls: Balls, case: ExportCase) -> None:
        self.seconds = 0.0
        self._balls, self._case = balls, case

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        # as the sums of windows have it
        memory = np.zeros((self._balls.channels, self._case.window, *self._balls.shape[1:]), np.float32)
        for first, stop in self._case.blocks():
            start = time.perf_counter()
            block = self._balls.planes(first, stop, memory)
            self.seconds += time.perf_counter() - start
            yield block


def _by_nnunet(case: ExportCase, logits: NDArray[np.float32]) -> NDArray[Any]:
    """Labels as nnU-Net makes them: all logits resampled, then decoded by its label manager."""
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    whole = resample_data_or_seg_to_shape(
        logits,
        case.shape,
        case.low_spacing_mm,
        case.spacing_mm,
        order=1,
        order_z=0,
        force_separate_z=case.separate_z,
    )
    names = [f"class {value}" for value in case.decoding.values]
    if not case.regions:
        labels: dict[str, Any] = dict(zip(names[1:], case.decoding.values[1:], strict=True))
        return np.asarray(LabelManager({"background": 0, **labels}, None).convert_logits_to_segmentation(whole))
    # one region of two labels makes it a model of regions; which value is written, the order says
    labels = dict(zip(names, [[1, case.channels + 1], *case.decoding.values[1:]], strict=True))
    manager = LabelManager({"background": 0, **labels}, list(case.decoding.values))
    return np.asarray(manager.convert_logits_to_segmentation(whole))


def run_export(case: ExportCase) -> dict[str, float]:
    """Exports once and measures it.

    Args:
        case: What and by whom.

    Returns:
        'seconds' (without the making of blocks), 'extra_mb' above the logits, 'process_mb' of the whole process.
    """
    balls = Balls.draw(case.channels, case.low_shape, background=not case.regions)
    labels: list[NDArray[Any]] = []
    if case.who == "streamed":
        stream = _Stream(balls, case)
        values = measured(lambda: labels.append(export_labels(stream, case.maps(), case.decoding, case.threads)))
        values["seconds"] -= stream.seconds
    else:
        logits = balls.planes(0, case.low_shape[0])

        def ours() -> None:
            # views: nothing is copied
            blocks = (logits[:, first:stop] for first, stop in case.blocks())
            labels.append(export_labels(blocks, case.maps(), case.decoding, case.threads))

        values = measured(ours if case.who == "ours" else lambda: labels.append(_by_nnunet(case, logits)))
    if case.labels is not None:
        with Path(case.labels).open("wb") as file:
            np.save(file, labels[0].astype(np.uint8))
    return values


def main(argument: str) -> None:
    """Runs a case given as JSON, after a small one that does what is done only once in a process: imports."""
    case = ExportCase(**json.loads(argument))
    small: dict[str, Any] = {"shape": (12, 16, 16), "low_shape": (8, 8, 8), "channels": 3, "labels": None}
    run_export(ExportCase(**{**json.loads(argument), **small}))
    print_result(run_export(case))


if __name__ == "__main__":
    main(sys.argv[1])
