"""Markdown tables of the report, one function a part."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.inference.accuracy import REFERENCE
from tests.bench.inference.competitors import NNUNET, on_cpu, on_gpu
from tests.bench.inference.export import VARIANTS
from tests.bench.inference.goals import Goal
from tests.bench.inference.results import Results
from tests.bench.inference.summary import Summary

__all__ = [
    "accuracy_tables",
    "end_to_end_table",
    "export_table",
    "goals_table",
    "gpu_tables",
    "input_table",
    "many_table",
    "markdown",
    "sizes_tables",
]

_MARKS = {True: "yes", False: "**no**", None: "not measured"}


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in markdown.

    Args:
        titles: Of the columns.
        rows: Cells.
    """
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _number(value: float | None, digits: int = 3) -> str:
    """Some digits; those before the point are all written."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{_number(value)}×"


def _share(value: float | None) -> str:
    return "" if value is None else ("none" if value == 0 else f"{value:.1e}")


def goals_table(goals: Sequence[Goal]) -> str:
    """Goals and whether they are met."""
    rows = [
        [str(goal.row), goal.title, part.what, part.wanted, part.measured, _MARKS[part.met]]
        for goal in goals
        for part in goal.parts
    ]
    return markdown(["#", "test", "what", "goal", "measured", "met"], rows)


def export_table(results: Results) -> str:
    """Part `export`."""
    found = Summary(results.values("export"))
    rows = [
        [
            variant.replace("_", ", ", 1).replace("_", " "),
            *(_number(found.median(variant, who, "seconds")) for who in ("ours", NNUNET)),
            _times(found.ratio(variant, NNUNET, "ours", "seconds")),
            *(_number(found.median(variant, who, "extra_mb")) for who in ("ours", NNUNET)),
            _share(found.largest(variant, "ours", "different")),
            str(found.rounds(variant, "ours")),
        ]
        for variant in VARIANTS
        if variant in found.cases
    ]
    titles = ["export", "ours, s", "nnU-Net, s", "faster", "ours, MB", "nnU-Net, MB", "voxels that differ", "runs"]
    return markdown(titles, rows)


def many_table(results: Results) -> str:
    """Part `export_many`."""
    found = Summary(results.values("export_many"))
    rows = [
        [
            case,
            who.removeprefix("C"),
            _number(found.median(case, who, "seconds")),
            _times(found.ratio(case, who, "C14", "seconds")),
            _number(found.largest(case, who, "process_mb")),
            str(found.rounds(case, who)),
        ]
        for case in found.cases
        for who in sorted(found.who(case), key=lambda name: int(name[1:]))
    ]
    return markdown(["channels are", "channels", "s", "in 14 channels'", "peak of the process, MB", "runs"], rows)


def input_table(results: Results) -> str:
    """Part `input`."""
    found = Summary(results.values("input"))
    rows = [
        [
            f"{case} slices",
            *(_number(found.median(case, who, "seconds")) for who in ("ours", NNUNET)),
            _times(found.ratio(case, NNUNET, "ours", "seconds")),
            *(_number(found.median(case, who, "extra_mb")) for who in ("ours", NNUNET)),
            _share(found.largest(case, "ours", "largest_difference")),
            str(found.rounds(case, "ours")),
        ]
        for case in found.cases
    ]
    titles = ["volume", "ours, s", "nnU-Net, s", "faster", "ours, MB", "nnU-Net, MB", "largest difference", "runs"]
    return markdown(titles, rows)


def _prediction_row(found: Summary, case: str, who: str, title: str, memory: str = "mb") -> list[str]:
    return [
        title,
        _number(found.median(case, who, "seconds")),
        _times(found.ratio(case, NNUNET, who, "seconds")),
        _number(found.median(case, who, memory)),
        _times(found.ratio(case, who, NNUNET, memory)),
        _share(found.largest(case, who, "different")),
        "" if who == NNUNET else _number(found.median(case, who, "mean_dice"), 5),
        str(found.rounds(case, who)),
    ]


_PREDICTION = ("faster than nnU-Net", "MB", "in nnU-Net's", "voxels that differ", "mean Dice", "runs")


def end_to_end_table(results: Results) -> str:
    """Part `end_to_end`."""
    found = Summary(results.values("end_to_end"))
    case = found.cases[0]
    measured = found.who(case)
    rows = [_prediction_row(found, case, c.name, c.title) for c in on_cpu(1) if c.name in measured]
    share = found.median(case, NNUNET, "boundary")
    boundary = "" if share is None else f"\nOf neighbouring voxels, {100 * share:.1f} % have different labels.\n"
    return markdown(["who", "s", *_PREDICTION], rows) + boundary


def sizes_tables(results: Results) -> str:
    """Part `sizes`; nnU-Net on the main volume comes from the part `end_to_end`."""
    found = Summary(results.values("sizes"))
    elsewhere = Summary(results.values("end_to_end"))
    rows, files = [], []
    for case in sorted(found.cases, key=_order):
        name, _, size = case.rpartition("_")
        if name == "files":
            cells = (_number(found.median(case, "ours", quantity)) for quantity in ("seconds", "extra_mb"))
            files.append([size, *cells, str(found.rounds(case, "ours"))])
            continue
        who = next(w for w in found.who(case) if w != NNUNET)
        nnunet = found if NNUNET in found.who(case) else elsewhere
        rows.append(
            [
                name.split("_")[0].removeprefix("C"),
                size,
                _number(found.median(case, who, "labels"), 4),
                _number(found.median(case, who, "seconds")),
                _number(found.median(case, who, "mb")),
                _number(nnunet.median(case, NNUNET, "seconds")),
                _number(nnunet.median(case, NNUNET, "mb")),
                _share(found.largest(case, who, "different")),
                str(found.rounds(case, who)),
            ]
        )
    titles = ["classes", "slices", "labels found", "ours, s", "ours, MB", "nnU-Net, s", "nnU-Net, MB"]
    first = markdown([*titles, "voxels that differ", "runs"], rows)
    return f"{first}\nReading and writing alone:\n\n{markdown(['slices', 's', 'MB', 'runs'], files)}"


def _order(case: str) -> tuple[int, int]:
    name, _, size = case.rpartition("_")
    return (0 if name == "files" else int(name.split("_")[0][1:])), int(size)


def accuracy_tables(results: Results) -> str:
    """Part `accuracy`: Dice of each organ, and agreement on the scans without labels."""
    values = {key.who: found for key, found in results.values("accuracy").items()}
    exact = values.get(REFERENCE)
    organs = list(next(iter(values.values()))["dice"])
    first = [who for who in (REFERENCE, NNUNET) if who in values]
    ordered = [*first, *(who for who in values if who not in first)]
    rows = []
    for who in ordered:
        found = values[who]
        lost = "" if exact is None else f"{100 * (exact['mean_dice'] - found['mean_dice']):+.2f}"
        dice = [f"{found['dice'][organ]:.3f}" for organ in organs]
        rows.append([who, f"{found['mean_dice']:.4f}", lost, *dice])
    tables = markdown(["who", "mean Dice", "points lost", *organs], rows)
    scans = sorted({scan for found in values.values() for scan in found.get("agreement", {})})
    agreeing = [
        [
            who,
            *(
                cell
                for scan in scans
                for cell in (
                    _number(values[who]["agreement"][scan]["mean_dice"], 4),
                    _share(values[who]["agreement"][scan]["different"]),
                )
            ),
        ]
        for who in ordered
        if "agreement" in values[who]
    ]
    titles = ["who", *(cell for scan in scans for cell in (f"{scan}: Dice", "voxels that differ"))]
    return f"{tables}\nAgreement with {REFERENCE}:\n\n{markdown(titles, agreeing)}"


def gpu_tables(results: Results) -> str:
    """Part `gpu`: cold commands and the second image of a process."""
    found = Summary(results.values("gpu"))
    titles = {competitor.name: competitor.title for competitor in on_gpu(1)}
    parts = []
    for case in found.cases:
        warm = case.endswith("_warm")
        memory = "allocated_mb" if warm else "gpu_mb"
        rows = [_prediction_row(found, case, who, titles.get(who, who), memory) for who in found.who(case)]
        about = "second image of one process; MB allocated by PyTorch" if warm else "cold; MB in use on the device"
        parts.append(f"{about}:\n\n{markdown(['who', 's', *_PREDICTION], rows)}")
    return "\n".join(parts)
