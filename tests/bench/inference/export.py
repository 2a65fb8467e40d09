"""Parts `export` and `export_many`: logits to labels, ours against nnU-Net's function, and for many classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.inference.bench import Bench
from tests.bench.inference.child import run_child
from tests.bench.inference.export_case import ExportCase
from tests.bench.inference.presets import Grid
from tests.bench.inference.rounds import Task

__all__ = ["CHANNELS", "MANY_CHANNELS", "VARIANTS", "export_tasks", "many_tasks"]

CHANNELS = 14
MANY_CHANNELS = (14, 117)
VARIANTS: dict[str, tuple[bool, bool | None]] = {
    "regions_separate_z": (True, None),
    "argmax_separate_z": (False, None),
    "regions_trilinear": (True, False),
    "argmax_trilinear": (False, False),
}
"""Name to (regions, nnU-Net's force_separate_z): None means separate slices for the thick ones of the main volume."""

_MODULE = "tests.bench.inference.export_case"


def _case(bench: Bench, grid: Grid, **fields: Any) -> ExportCase:
    low = grid.at(bench.preset.network.spacing_mm)
    return ExportCase(
        shape=grid.shape,
        spacing_mm=grid.spacing_mm,
        low_shape=low.shape,
        low_spacing_mm=low.spacing_mm,
        window=bench.preset.network.patch[0],
        threads=bench.threads,
        **fields,
    )


def _measure(bench: Bench, case: ExportCase) -> dict[str, Any]:
    return run_child(_MODULE, asdict(case), bench.threads)


def _pair(bench: Bench, variant: str, who: str) -> Mapping[str, Any]:
    """Measures one of the two and compares ours with nnU-Net's label map of the same round, which comes before."""
    regions, separate_z = VARIANTS[variant]
    folder = bench.scratch("export")
    theirs, path = folder / f"{variant}.nnunet.npy", folder / f"{variant}.{who}.npy"
    grid = bench.preset.volumes[bench.preset.main]
    options = {"regions": regions, "separate_z": separate_z, "channels": CHANNELS}
    values = _measure(bench, _case(bench, grid, who=who, labels=str(path), **options))
    if who == "ours":
        if not theirs.is_file():
            _measure(bench, _case(bench, grid, who="nnunet", labels=str(theirs), **options))
        values["different"] = _different(path, theirs)
    return values


def _different(one: Path, other: Path) -> float:
    """Share of the voxels in which two label maps differ."""
    first, second = np.load(one, mmap_mode="r"), np.load(other, mmap_mode="r")
    return float(sum(int(np.count_nonzero(a != b)) for a, b in zip(first, second, strict=True)) / first.size)


def export_tasks(bench: Bench) -> list[Task]:
    """nnU-Net's export and ours, for regions and argmax, with separate slices and trilinear."""
    return [
        Task("export", variant, who, partial(_pair, bench, variant, who))
        for variant in VARIANTS
        for who in ("nnunet", "ours")
    ]


def many_tasks(bench: Bench) -> list[Task]:
    """Our export of few and of many classes, streamed: logits of the whole volume are never there."""
    grid = bench.preset.volumes[bench.preset.largest]

    def measure(channels: int, regions: bool) -> Mapping[str, Any]:
        options = {"regions": regions, "separate_z": None, "channels": channels}
        return _measure(bench, _case(bench, grid, who="streamed", **options))

    return [
        Task("export_many", decoding, f"C{channels}", partial(measure, channels, decoding == "regions"))
        for decoding in ("regions", "argmax")
        for channels in MANY_CHANNELS
    ]
