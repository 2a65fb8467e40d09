"""Pictures of the report: Dice and false positives of all methods, and overlays of one held-out case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nnunet_partial.atomic import atomic_path
from nnunet_partial.evaluation import save_overlay
from tests.bench.methods.frame_overlay import save_frame_overlay
from tests.bench.methods.methods import METHODS, SAMPLING_TITLES
from tests.bench.methods.mixes import MIXES
from tests.bench.methods.orderings import MEAN, score_of
from tests.bench.methods.results import Results, RunKey
from tests.bench.methods.scores import unit_of

__all__ = ["save_overlays", "save_plot"]

_SHOWN_VOLUMES = ("naive", "multitalent", "shared", "ambiguity", "full_sigmoid")
_SHOWN = {
    **dict.fromkeys(MIXES, _SHOWN_VOLUMES),
    "real": _SHOWN_VOLUMES,
    "frames": ("naive", "shared", "implicit", "implicit_calibrated", "per_class", "full_sigmoid"),
}
_UNITS = {"ml": "mL a case", "percent": "% of a frame"}
_WINDOW = (-2.0, 2.0)  # of normalised intensities
_DOTS_PER_INCH = 150
_REFERENCE, _OTHER = "#888888", "#3366AA"


def _values(results: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """Mean Dice and mean size of the false positives of each training."""
    unit = unit_of(results[0])
    sizes = [[entry[unit] for entry in r["false_positives"].values()] for r in results]
    return (
        [score_of(r, "threshold", MEAN) for r in results],
        [sum(v) / len(v) if v else float("nan") for v in sizes],
    )


def _draw(axes: Axes, columns: Sequence[list[float]], colours: Sequence[str], title: str) -> None:
    for position, (values, colour) in enumerate(zip(columns, colours, strict=True)):
        axes.barh(position, float(np.mean(values)), color=colour, alpha=0.35)
        axes.plot(values, [position] * len(values), "o", color=colour, markersize=4)
    axes.set_title(title, fontsize=10)
    axes.grid(axis="x", alpha=0.3)


def save_plot(folder: Path, collection: str, results: Mapping[RunKey, Mapping[str, Any]]) -> Path:
    """Draws a bar (mean) and a dot a seed for each method and sampling, and returns the file.

    Args:
        folder: Where to write.
        collection: Its name.
        results: Finished trainings of it.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    order, samplings = list(METHODS), list(SAMPLING_TITLES)
    for key in sorted(results, key=lambda k: (order.index(k.method), samplings.index(k.sampling), k.seed)):
        groups.setdefault((key.method, key.sampling), []).append(results[key])
    names = [f"{METHODS[m].title}, {SAMPLING_TITLES[s]}" for m, s in groups]
    colours = [_REFERENCE if METHODS[m].fully_labelled or m == "naive" else _OTHER for m, _ in groups]
    dice, sizes = zip(*(_values(runs) for runs in groups.values()), strict=True)
    figure = Figure(figsize=(11, 1.2 + 0.3 * len(groups)), dpi=_DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, dice, colours, "mean Dice, held-out cases")
    _draw(right, sizes, colours, f"false positives, {_UNITS[unit_of(next(iter(results.values())))]}")
    left.set_yticks(range(len(names)), names, fontsize=8)
    left.invert_yaxis()
    path = folder / f"methods_{collection}.png"
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
    return path


def save_overlays(results: Results, collection: str, finished: Mapping[RunKey, Mapping[str, Any]]) -> list[Path]:
    """Draws the kept case of a few methods, reference beside prediction, and returns the files.

    Args:
        results: The output folder.
        collection: Its name.
        finished: Finished trainings of it.
    """
    paths = []
    for method in _SHOWN[collection]:
        kept = [key for key in finished if key.method == method and results.prediction_path(key).is_file()]
        if not kept:
            continue
        key = min(kept, key=lambda k: (list(SAMPLING_TITLES).index(k.sampling), k.seed))
        path = results.folder / f"overlay_{collection}_{method}.png"
        with np.load(results.prediction_path(key)) as saved:
            title = f"{METHODS[method].title}, {SAMPLING_TITLES[key.sampling]}, {saved['case']}, seed {key.seed}"
            _save_overlay(path, saved, title)
        paths.append(path)
    return paths


def _save_overlay(path: Path, saved: Mapping[str, NDArray[Any]], title: str) -> None:
    classes = [str(name) for name in saved["classes"]]
    image, truth, prediction = saved["image"].astype(np.float32), saved["truth"], saved["prediction"]
    if len(image) == 1:
        save_overlay(
            path,
            image[0],
            dict(zip(classes, truth, strict=True)),
            dict(zip(classes, prediction, strict=True)),
            spacing_mm=tuple(float(mm) for mm in saved["spacing_mm"]),
            window=_WINDOW,
            title=title,
        )
        return
    low, high = _WINDOW
    save_frame_overlay(
        path,
        (image[:, 0] - low) / (high - low),
        dict(zip(classes, truth[:, 0], strict=True)),
        dict(zip(classes, prediction[:, 0], strict=True)),
        title=title,
    )
