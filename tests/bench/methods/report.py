"""The report: CSV and markdown tables, made of the JSON files of finished trainings and nothing else."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_partial.atomic import write_text
from tests.bench.methods.collection import SizeUnit
from tests.bench.methods.comparison import MeanSpread, mean_spread
from tests.bench.methods.methods import METHODS, SAMPLING_TITLES
from tests.bench.methods.mixes import MIXES
from tests.bench.methods.orderings import FOCUS, MEAN, checked, score_of
from tests.bench.methods.overview import by_collection, by_sampling
from tests.bench.methods.pictures import save_overlays, save_plot
from tests.bench.methods.results import Results, RunKey
from tests.bench.methods.scores import unit_of

__all__ = ["Row", "table_rows", "write_report"]

_COMPARED_SAMPLING = "cmd_anywhere"

_ABOUT = {
    **{name: f"Hard phantoms. {mix.about} The held-out cases are other patients." for name, mix in MIXES.items()},
    "real": "Slabs of one patient's CT with different protocols, and three further patients. Scored on the classes "
    "that were hidden in each slab: this shows how partial labels come together, and says nothing about other "
    "patients.",
    "frames": "Laparoscopic frames, drawn: six subsets of the same surgeries, each of which annotates one of six "
    "structures. The held-out frames are of other surgeries, labelled completely, and scored on the structures that "
    "fill at least 3 % of the frame.",
}

_MEANS = {MEAN: "mean Dice", "argmax": "after argmax", "painted": "painted"}

_UNITS = {"ml": "mL", "percent": "%"}

_DICE = """\
Dice: mean over the held-out cases of a seed, then mean ± standard deviation over seeds. 'after argmax' counts a voxel
only for the most probable of disjoint classes; 'painted' scores nnU-Net's label map, where later classes are painted
over earlier ones; other columns cut each sigmoid at one half. MultiTalent's probability of a class is the mean over the
heads of its sources, that of several networks the mean over those that have the class.
'in focus' scores a frame on the structure that it looks at alone, as Jenke et al. 2024 do in Tables 1 and 3.
"""

_FALSE_POSITIVES = """\
False positives: predicted voxels of a class, in cases whose source does not annotate it, that are something else in
truth; mL a case, or percent of a frame, and share of the voxels that are not the class (‰), averaged over classes.
"""

_RULE = """\
Rule: the paired difference of each seed is taken (the seed fixes split, initial weights and draws of both); '±' is the
standard error of its mean. An ordering is reproduced where the 95 % confidence interval of the mean difference lies
above zero (with three seeds: beyond 4.3 standard errors), not reproduced where it lies below, and within noise where it
holds zero. Where no sampling is named, the ordering compares samplings.
"""


@dataclass(frozen=True)
class Row:
    """A method under one sampling, over its seeds.

    Attributes:
        method: One of METHODS.
        sampling: One of SAMPLINGS.
        seeds: Its seeds.
        dice: 'mean', 'argmax' (mean after argmax), 'painted' (mean of label maps), the first two 'in focus', 'mean
            MODALITY' and each class.
        unit: 'ml' or 'percent' (of a frame).
        false_positive_size: Mean over classes of the size a case, in that unit.
        false_positive_permille: Mean over classes of false positives in a thousand voxels that are not the class.
        seconds: Training time.
    """

    method: str
    sampling: str
    seeds: tuple[int, ...]
    dice: dict[str, MeanSpread]
    unit: SizeUnit
    false_positive_size: MeanSpread
    false_positive_permille: MeanSpread
    seconds: MeanSpread


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def _row(method: str, sampling: str, runs: Mapping[int, Mapping[str, Any]]) -> Row:
    results = [runs[seed] for seed in sorted(runs)]
    of_decoding = {"threshold": MEAN, "argmax": "argmax", "painted": "painted"}
    dice = {title: mean_spread([score_of(r, name, MEAN) for r in results]) for name, title in of_decoding.items()}
    if any(result.get("dice_in_focus", {}).get("threshold") for result in results):
        dice["in focus"] = mean_spread([score_of(r, "threshold", FOCUS) for r in results])
        dice["in focus, argmax"] = mean_spread([score_of(r, "argmax", FOCUS) for r in results])
    modalities = list(dict.fromkeys(m for r in results for m in r["dice_by_modality"]))
    if len(modalities) > 1:
        for name in modalities:
            means = [_mean(list(r["dice_by_modality"].get(name, {}).values())) for r in results]
            dice[f"{MEAN} {name}"] = mean_spread(means)
    for name in results[0]["dice"]["threshold"]:
        dice[name] = mean_spread([r["dice"]["threshold"][name] for r in results])

    found = [list(r["false_positives"].values()) for r in results]
    unit = unit_of(results[0])
    return Row(
        method,
        sampling,
        tuple(sorted(runs)),
        dice,
        unit,
        mean_spread([_mean([entry[unit] for entry in entries]) for entries in found]),
        mean_spread([_mean([1000 * entry["rate"] for entry in entries]) for entries in found]),
        mean_spread([r["training_seconds"] for r in results]),
    )


def table_rows(results: Mapping[RunKey, Mapping[str, Any]]) -> list[Row]:
    """One row a method and sampling, in the order of METHODS.

    Args:
        results: Finished trainings of one collection.
    """
    grouped: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    for key, result in results.items():
        grouped.setdefault((key.method, key.sampling), {})[key.seed] = result
    order = {name: position for position, name in enumerate(METHODS)}
    samplings = list(SAMPLING_TITLES)
    ranked = sorted(grouped, key=lambda pair: (order[pair[0]], samplings.index(pair[1])))
    return [_row(method, sampling, grouped[method, sampling]) for method, sampling in ranked]


def _markdown(rows: Sequence[Row]) -> str:
    columns = [name for name in rows[0].dice if name not in _MEANS]
    titles = [
        "method",
        "sampling",
        "seeds",
        *_MEANS.values(),
        *columns,
        f"FP {_UNITS[rows[0].unit]}",
        "FP ‰",
        "training s",
    ]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for row in rows:
        cells = [
            METHODS[row.method].title,
            SAMPLING_TITLES[row.sampling],
            str(len(row.seeds)),
            *(row.dice[name].text() for name in (*_MEANS, *columns)),
            row.false_positive_size.text(1),
            row.false_positive_permille.text(2),
            f"{row.seconds.mean:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _orderings(collection: str, results: Mapping[RunKey, Mapping[str, Any]]) -> str:
    titles = ["published ordering", "source", "published", "sampling", "difference here", "±", "seeds", "finding"]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for entry in checked(collection, results):
        measured = entry.difference.n > 0
        cells = [
            entry.ordering.claim,
            entry.ordering.source,
            entry.ordering.published,
            SAMPLING_TITLES.get(entry.sampling, ""),
            f"{entry.difference.mean:+.3f}" if measured else "",
            f"{entry.error:.3f}" if entry.error == entry.error else "",
            str(entry.difference.n),
            entry.verdict if measured else "not measured",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _csv(rows_of: Mapping[str, Sequence[Row]]) -> str:
    """One line a number: collection, method, sampling, quantity, mean, sd, seeds."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["collection", "method", "sampling", "quantity", "mean", "sd", "seeds"])
    for collection, rows in rows_of.items():
        for row in rows:
            numbers = {f"dice {name}": value for name, value in row.dice.items()}
            numbers[f"false positive {row.unit}"] = row.false_positive_size
            numbers["false positives per mille"] = row.false_positive_permille
            numbers["training seconds"] = row.seconds
            for quantity, value in numbers.items():
                if value.n:
                    sd = f"{value.sd:.6g}" if value.n > 1 else ""
                    writer.writerow([collection, row.method, row.sampling, quantity, f"{value.mean:.6g}", sd, value.n])
    return buffer.getvalue()


def _scores(rows: Sequence[Row]) -> dict[tuple[str, str], MeanSpread]:
    return {(row.method, row.sampling): row.dice[MEAN] for row in rows}


def _sampling_part(rows: Sequence[Row]) -> str:
    table = by_sampling(_scores(rows))
    return f"### Mean Dice by sampling\n\n{table}" if table else ""


def _collections_part(rows_of: Mapping[str, Sequence[Row]]) -> str:
    table = by_collection({name: _scores(rows) for name, rows in rows_of.items()}, _COMPARED_SAMPLING)
    about = f"Mean Dice with the sampling '{SAMPLING_TITLES[_COMPARED_SAMPLING]}'; bold: the best with partial labels."
    return f"## Collections side by side\n\n{about}\n\n{table}" if table else ""


def write_report(results: Results, collections: Sequence[str]) -> None:
    """Writes methods.csv, report.md, and pictures, of all finished trainings.

    Args:
        results: The output folder.
        collections: Names of collections; those without a finished training are left out.
    """
    parts: list[str] = []
    rows_of: dict[str, list[Row]] = {}
    for name in collections:
        finished = results.load(name)
        if not finished:
            continue
        rows_of[name] = table_rows(finished)
        settings = next(iter(finished.values()))["settings"]
        described = ", ".join(f"{key} {value}" for key, value in settings.items())
        devices = ", ".join(sorted({result["device"] for result in finished.values()}))
        plot = save_plot(results.folder, name, finished)
        overlays = save_overlays(results, name, finished)
        pictures = "\n".join(f"![{path.stem}]({path.name})" for path in (plot, *overlays))
        parts += [
            f"## Collection: {name}\n",
            f"{_ABOUT[name]}\n",
            f"Settings: {described}. Device: {devices}.\n",
            _markdown(rows_of[name]),
            _DICE,
            _FALSE_POSITIVES,
            _sampling_part(rows_of[name]),
            "### Published orderings\n",
            _RULE,
            _orderings(name, finished),
            f"### Pictures\n\n{pictures}\n",
        ]
    write_text(results.folder / "methods.csv", _csv(rows_of))
    top = ["# Methods for partly labelled data\n", _collections_part(rows_of)]
    write_text(results.folder / "report.md", "\n".join(part for part in (*top, *parts) if part))
