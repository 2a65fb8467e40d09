"""A picture of measurements: memory over time, one line a case, and bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_partial.atomic import atomic_path
from nnunet_partial.inference.efficiency.measurement import Trace
from nnunet_partial.inference.efficiency.results import CaseCost

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_costs"]

_NAMED = 10  # lines in a legend
_BARS_NAMED = 60
_FAILED = "tab:red"


def plot_costs(path: Path, costs: Sequence[CaseCost], traces: Mapping[str, Trace], host_measure: str) -> None:
    """Draws memory over time for each case and bars of time and memory; runs that failed are red.

    Args:
        path: Picture to write; its ending chooses the format.
        costs: One row a case.
        traces: Memory over time by case.
        host_measure: What the host's memory counts, 'pss' or 'rss'.
    """
    from matplotlib.figure import Figure

    with_gpu = any(cost.peak_gpu_mb is not None for cost in costs)
    kinds = ["host", "gpu"] if with_gpu else ["host"]
    figure = Figure(figsize=(12, 4 + 4 * len(kinds)), layout="constrained")
    axes = figure.subplots(len(kinds) + 1, 1)
    titles = {
        "host": f"memory of the host ({host_measure.upper()} of all processes)",
        "gpu": "memory in use on the GPU",
    }
    for kind, axis in zip(kinds, axes, strict=False):
        _lines(
            axis,
            costs,
            {case: trace.gpu_mb if kind == "gpu" else trace.host_mb for case, trace in traces.items()},
            traces,
        )
        axis.set(title=titles[kind], xlabel="time in s", ylabel="MB", ylim=(0, None), xlim=(0, None))
    _bars(axes[-1], costs, with_gpu)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _lines(
    axis: Axes, costs: Sequence[CaseCost], values_mb: Mapping[str, Sequence[float]], traces: Mapping[str, Trace]
) -> None:
    for cost in costs:
        if values_mb[cost.case]:
            label = f"{cost.case} (failed)" if cost.problem else cost.case
            axis.plot(traces[cost.case].times_s, values_mb[cost.case], label=label, ls="--" if cost.problem else "-")
    if len(costs) <= _NAMED:
        axis.legend(fontsize="small")


def _bars(axis: Axes, costs: Sequence[CaseCost], with_gpu: bool) -> None:
    """Seconds as bars, peaks as marks on an axis of their own."""
    places = range(len(costs))
    axis.bar(places, [c.wall_s for c in costs], color=[_FAILED if c.problem else "tab:gray" for c in costs])
    axis.set(title="each case: time (bars) and largest memory (marks)", ylabel="time in s")
    axis.set_xticks(places if len(costs) <= _BARS_NAMED else [])
    if len(costs) <= _BARS_NAMED:
        axis.set_xticklabels([cost.case for cost in costs], rotation=45, ha="right", fontsize="small")
    memory = axis.twinx()
    memory.plot(places, [c.peak_host_mb for c in costs], "o", color="tab:blue", label="host")
    if with_gpu:
        peaks = [float("nan") if c.peak_gpu_mb is None else c.peak_gpu_mb for c in costs]
        memory.plot(places, peaks, "s", color="tab:green", label="GPU")
    memory.set(ylabel="MB", ylim=(0, None))
    memory.legend(fontsize="small")
