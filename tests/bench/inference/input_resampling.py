"""Part `input`: an image resampled to the network's voxels, ours against nnU-Net's function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from tests.bench.inference.bench import Bench
from tests.bench.inference.child import run_child
from tests.bench.inference.input_case import InputCase
from tests.bench.inference.rounds import Task

__all__ = ["input_tasks"]


def _measure(bench: Bench, size: str, who: str) -> Mapping[str, Any]:
    grid = bench.preset.volumes[size]
    low = grid.at(bench.preset.network.spacing_mm)
    folder = bench.scratch("input")
    paths = {name: folder / f"{size}.{name}.npy" for name in ("nnunet", "ours")}

    def run(name: str) -> dict[str, Any]:
        case = InputCase(name, grid.shape, grid.spacing_mm, low.shape, low.spacing_mm, str(paths[name]))
        return run_child("tests.bench.inference.input_case", asdict(case), bench.threads)

    values = run(who)
    if who == "ours":
        if not paths["nnunet"].is_file():
            run("nnunet")
        ours, theirs = (np.load(paths[name]) for name in ("ours", "nnunet"))
        values["largest_difference"] = float(np.abs(ours - theirs).max())
    return values


def input_tasks(bench: Bench) -> list[Task]:
    """nnU-Net's cubic resampling and ours, on the main volume."""
    size = bench.preset.main
    return [Task("input", size, who, partial(_measure, bench, size, who)) for who in ("nnunet", "ours")]
