"""The report: made of the JSON files of finished measurements and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nnunet_partial.atomic import write_text
from nnunet_partial.errors import PartialError
from tests.bench.inference import tables
from tests.bench.inference.goals import check_goals
from tests.bench.inference.machine import machine_lines
from tests.bench.inference.parts import PARTS
from tests.bench.inference.plot import save_plot
from tests.bench.inference.presets import Grid
from tests.bench.inference.results import Results

__all__ = ["write_report"]

_TABLES: dict[str, tuple[str, Callable[[Results], str]]] = {
    "export": ("Export of labels", tables.export_table),
    "export_many": ("Export of many classes", tables.many_table),
    "input": ("Resampling of the input", tables.input_table),
    "end_to_end": ("Whole predictions", tables.end_to_end_table),
    "sizes": ("Sizes and classes", tables.sizes_tables),
    "accuracy": ("Accuracy on real CT", tables.accuracy_tables),
    "gpu": ("On a GPU", tables.gpu_tables),
}

_ABOUT = {
    "export": "Logits of 14 channels at the network's voxels to a label map of {main}. The classes are balls. nnU-Net: "
    "`resample_data_or_seg_to_shape`, then its label manager. Each in a process of its own; MB are the peak above the "
    "logits, which are float32.",
    "export_many": "Our export alone, to a label map of {largest}. Logits come block by block, as windows of {planes} "
    "planes give them, in memory that is used again and counts; making them does not count. 116 balls fill as much "
    "space as 13.",
    "input": "A volume of noise, {main}, to the network's voxels with nnU-Net's cubic splines. MB are the peak above "
    "the image.",
    "end_to_end": "Cold commands, from a file to a file, without mirroring: {main}, 14 classes, {network}. Time is "
    "that of the whole command; MB are the largest sum of all its processes' memory ({measure}). Voxels that differ "
    "and mean Dice compare with nnUNetv2_predict's label map.",
    "sizes": "Mode fast in the fastest back end, cold, at the precision that it takes by itself: bf16 where the "
    "processor has it. All models have the same body; further heads are trained heads plus a random direction and a "
    "shift, so that they divide the trained classes' regions.",
    "accuracy": "One patient's CT with twelve organs of one reader, and two scans without labels. The network was "
    "trained on that same patient, so its scores say nothing about other patients; only differences between modes "
    "mean something. `mode.backend.precision`; without mirroring.",
    "gpu": "{main}, 14 classes, {network}.",
}

_ABOUT_ROUNDS = (
    "Competitors take turns; ratios are of the same round. Numbers are medians over rounds; differences, and memory "
    "that has a limit, are the largest of all rounds."
)


def _volumes(settings: Mapping[str, Any]) -> dict[str, Grid]:
    """Volumes by their slices, in the order of their size."""
    grids = {s: Grid(tuple(v["shape"]), tuple(v["spacing_mm"])) for s, v in settings.get("volumes", {}).items()}
    return dict(sorted(grids.items(), key=lambda item: item[1].voxels))


def _words(settings: Mapping[str, Any], values: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What stands for the braces of `_ABOUT`."""
    volumes = _volumes(settings)
    if not volumes:
        return {}
    network = settings["network"]
    patch = "×".join(map(str, reversed(network["patch"])))
    measures = sorted({found["measure"].upper() for found in values if "measure" in found})
    return {
        "main": str(volumes[settings["main"]]),
        "largest": str(list(volumes.values())[-1]),
        "planes": str(network["patch"][0]),
        "network": f"windows of {patch}, {network['features'][0]} to {network['features'][-1]} channels",
        "measure": " or ".join(measures),
    }


def _machines(loaded: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """On what the parts were measured, each machine once."""
    parts_of: dict[str, list[str]] = {}
    for part, found in loaded.items():
        lines = machine_lines([content["machine"] for content in found])
        threads = sorted({content["settings"]["threads"] for content in found})
        for line in lines:
            text = f"{line} {' or '.join(map(str, threads))} threads."
            parts_of.setdefault(text, []).append(_TABLES[part][0].lower())
    if len(parts_of) == 1:
        return f"{next(iter(parts_of))}\n"
    return "\n".join(f"* {', '.join(parts)}: {text}" for text, parts in parts_of.items()) + "\n"


def write_report(results: Results) -> None:
    """Writes report.md and inference.png of all that is finished.

    Args:
        results: The measurements.

    Raises:
        PartialError: A file cannot be read, or measurements of one part were made with different settings.
    """
    loaded = {part: list(results.load(part).values()) for part in PARTS}
    everything = [content for found in loaded.values() for content in found]
    if not everything:
        write_text(results.folder / "report.md", "# Prediction\n\nNothing is measured yet.\n")
        return
    sized: Mapping[str, Any] = next(
        (content["settings"] for content in everything if "volumes" in content["settings"]), {}
    )
    main, largest = sized.get("main", ""), list(_volumes(sized) or [""])[-1]
    parts = [
        f"# Prediction, preset `{everything[0]['settings']['preset']}`\n",
        f"{_ABOUT_ROUNDS}\n",
        _machines(loaded),
        "## Goals\n",
    ]
    parts.append(tables.goals_table(check_goals(results, main, largest)))
    for part, found in loaded.items():
        notes, failed = results.notes(part), [content for content in found if content["problem"]]
        if not found and not notes:
            continue
        title, table = _TABLES[part]
        parts.append(f"## {title}\n")
        finished = [content for content in found if not content["problem"]]
        if finished:
            words = _words(finished[0]["settings"], [content["values"] for content in finished])
            try:
                parts.append(_ABOUT[part].format(**words) + "\n")
            except KeyError as error:
                place = results.folder / "runs" / part
                raise PartialError(f"{place}: found no sizes in the settings; delete it, and measure again") from error
            parts.append(table(results))
        failures = [f"Failed: {c['who']} on {c['case']}: {' '.join(c['problem'].split())}" for c in failed]
        if notes or failures:
            parts.append("\n".join(f"* {line}" for line in [*notes, *failures]) + "\n")
        if part == "accuracy":
            overlays = sorted(path.name for path in results.folder.glob("overlay_*.png"))
            parts += [f"![{name.removesuffix('.png')}]({name})\n" for name in overlays]
    plot = save_plot(results)
    if plot is not None:
        parts.append(f"![time and memory]({plot.name})\n")
    write_text(results.folder / "report.md", "\n".join(parts))
