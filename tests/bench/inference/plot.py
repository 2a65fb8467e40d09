"""The picture of the report: time and memory of all competitors, and how ours grow with size and classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from nnunet_partial.atomic import atomic_path
from tests.bench.inference.competitors import on_cpu
from tests.bench.inference.results import Results
from tests.bench.inference.summary import Summary

__all__ = ["save_plot"]

_OTHERS, _EXACT, _FAST, _PAPER = "#888888", "#3366AA", "#228833", "#CCAA44"
_COLOURS = {"exact": _EXACT, "fast": _FAST, "paper": _PAPER}
_QUANTITIES = {"seconds": "time, s", "mb": "peak memory, MB"}
_DOTS_PER_INCH = 150


def _bars(axes: Axes, found: Summary, case: str, names: Sequence[str], quantity: str) -> None:
    for place, name in enumerate(names):
        median = found.median(case, name, quantity) or 0.0
        axes.barh(place, median, color=_COLOURS.get(name.partition(".")[0], _OTHERS))
        text = f"{median:.0f}" if median >= 100 else f"{median:.3g}"
        axes.annotate(f" {text}", (median, place), va="center", fontsize=7)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * (high / low) ** 0.1)  # room for the last number
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _lines(axes: Axes, found: Summary, quantity: str) -> None:
    cases = [case for case in found.cases if not case.startswith("files_")]
    for name in sorted({case.rpartition("_")[0] for case in cases}, key=lambda n: int(n.split("_")[0][1:])):
        sizes = sorted(int(case.rpartition("_")[2]) for case in cases if case.rpartition("_")[0] == name)
        points = []
        for size in sizes:
            who = next(w for w in found.who(f"{name}_{size}") if w.startswith("fast."))
            points.append(found.median(f"{name}_{size}", who, quantity) or 0.0)
        axes.plot(sizes, points, "o-", label=f"{name.split('_')[0][1:]} classes")
    axes.set(xlabel="slices", ylim=(0, 1.05 * axes.get_ylim()[1]))
    axes.legend(fontsize=7)


def save_plot(results: Results) -> Path | None:
    """Draws what is finished.

    Args:
        results: The measurements.

    Returns:
        inference.png; None where neither whole predictions nor sizes were measured.
    """
    whole, sizes = Summary(results.values("end_to_end")), Summary(results.values("sizes"))
    growing = any(not case.startswith("files_") for case in sizes.cases)
    if not whole.cases and not growing:
        return None
    height = 1.0 + 0.25 * len(whole.who(whole.cases[0])) if whole.cases else 0.0
    heights = [size for size, shown in ((height, whole.cases), (3.0, growing)) if shown]
    figure = Figure(figsize=(11, sum(heights) + 0.5), dpi=_DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(heights), 2, height_ratios=heights, squeeze=False)
    if whole.cases:
        _draw_competitors(rows[0], whole)
    if growing:
        for axes, (quantity, title) in zip(rows[-1], _QUANTITIES.items(), strict=True):
            _lines(axes, sizes, quantity)
            axes.set_title(f"fast: {title}", fontsize=9)
    path = results.folder / "inference.png"
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
    return path


def _draw_competitors(row: Sequence[Axes], whole: Summary) -> None:
    case = whole.cases[0]
    competitors = [c for c in on_cpu(1) if c.name in whole.who(case)]
    name, decoding, slices = case.split("_")
    for axes, (quantity, title) in zip(row, _QUANTITIES.items(), strict=True):
        _bars(axes, whole, case, [c.name for c in competitors], quantity)
        axes.set_title(f"{name.removeprefix('C')} classes ({decoding}), {slices} slices: {title}", fontsize=9)
        axes.set_yticks(range(len(competitors)), [c.title for c in competitors], fontsize=7)
        axes.invert_yaxis()
    row[1].set_yticklabels([])
