"""Paired measurements: two functions in turn, so that a machine whose speed drifts slows both alike."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["paired_seconds", "peak_growth_megabytes", "peak_megabytes"]


def paired_seconds(
    ours: Callable[[], object], stock: Callable[[], object], runs: int = 5
) -> tuple[float, float, float]:
    """Median seconds of both, and the median of the ratios pair by pair."""
    pairs = []
    for function in (ours, stock):
        function()
    for _ in range(runs):
        seconds = []
        for function in (ours, stock):
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
        pairs.append(seconds)
    return (
        statistics.median(p[0] for p in pairs),
        statistics.median(p[1] for p in pairs),
        statistics.median(p[0] / p[1] for p in pairs),
    )


def peak_megabytes(module: str, *arguments: str) -> float:
    """Runs `python -m module arguments` and reads the number it prints last: its peak memory above a baseline."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=True, timeout=600
    )
    return float(done.stdout.split()[-1])


def peak_growth_megabytes(function: Callable[[], object]) -> float:
    """Peak memory while a function runs, above that of the process before (Linux)."""
    # forget the peak of building the inputs
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status_kilobytes("VmRSS")
    function()
    return (_status_kilobytes("VmHWM") - before) / 1024


def _status_kilobytes(field: str) -> int:
    """A field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
