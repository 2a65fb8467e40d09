"""Mean Dice of all methods side by side: by the kind of partial labels, and by sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.bench.methods.comparison import MeanSpread
from tests.bench.methods.methods import METHODS, SAMPLING_TITLES

__all__ = ["Scores", "by_collection", "by_sampling"]

Scores = Mapping[tuple[str, str], MeanSpread]
"""Method and sampling to the mean Dice over seeds."""


def _pivot(corner: str, columns: Sequence[str], rows: Mapping[str, Mapping[str, MeanSpread]]) -> str:
    """A markdown table; the best partly labelled method of each column is bold."""
    lines = [f"| {' | '.join((corner, *columns))} |", f"|{'---|' * (len(columns) + 1)}"]
    partial = [name for name in rows if not METHODS[name].fully_labelled]
    best = {
        column: max((name for name in partial if column in rows[name]), key=lambda n: rows[n][column].mean, default="")
        for column in columns
    }
    for name, row in rows.items():
        cells = [row[column].text() if column in row else "" for column in columns]
        marked = [f"**{cell}**" if best[column] == name else cell for column, cell in zip(columns, cells, strict=True)]
        lines.append(f"| {' | '.join((METHODS[name].title, *marked))} |")
    return "\n".join(lines) + "\n"


def _in_order(names: set[str]) -> list[str]:
    return [name for name in METHODS if name in names]


def by_collection(scores: Mapping[str, Scores], sampling: str) -> str:
    """Methods by collections, all with one sampling; empty for fewer than two collections.

    Args:
        scores: By collection.
        sampling: Only trainings with it are shown.
    """
    rows: dict[str, dict[str, MeanSpread]] = {}
    for collection, found in scores.items():
        for (method, drawn), value in found.items():
            if drawn == sampling and value.n:
                rows.setdefault(method, {})[collection] = value
    columns = [name for name in scores if any(name in row for row in rows.values())]
    if len(columns) < 2:
        return ""
    return _pivot("method", columns, {name: rows[name] for name in _in_order(set(rows))})


def by_sampling(scores: Scores) -> str:
    """Methods by samplings, of the methods that have several; empty where none has.

    Args:
        scores: Of one collection.
    """
    rows: dict[str, dict[str, MeanSpread]] = {}
    for (method, sampling), value in scores.items():
        if value.n:
            rows.setdefault(method, {})[SAMPLING_TITLES[sampling]] = value
    several = {name for name, row in rows.items() if len(row) > 1}
    columns = [title for title in SAMPLING_TITLES.values() if any(title in rows[name] for name in several)]
    return _pivot("method", columns, {name: rows[name] for name in _in_order(several)}) if several else ""
