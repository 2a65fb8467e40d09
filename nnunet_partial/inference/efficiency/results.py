"""Measurements on disk: a table with one row a case, memory over time, and what was measured how."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nnunet_partial.atomic import write_json, write_text
from nnunet_partial.errors import PartialError
from nnunet_partial.inference.efficiency.measurement import Measurement, Trace

__all__ = ["CaseCost", "Setup", "read_costs", "read_trace", "write_costs", "write_trace"]

_TRACE_COLUMNS = ["tick", "time_s", "host_mb", "gpu_mb"]


@dataclass(frozen=True)
class CaseCost:
    """What one case took. MB are 2**20 bytes.

    Attributes:
        case: Its name.
        exit_status: Of the command; negative is the signal that ended it.
        wall_s: Seconds from start to end.
        cpu_s: Processor seconds.
        peak_host_mb: Largest memory of all processes of the command.
        host_area_mb_s: Area under it over time.
        peak_gpu_mb: Largest memory in use on the device; None where none was read, as in all that follow.
        gpu_area_mb_s: Area under it over time.
        gpu_before_mb: Memory in use before the start.
        samples: Number of samples.
        problem: Why it failed; empty where it did not.
    """

    case: str
    exit_status: int
    wall_s: float
    cpu_s: float
    peak_host_mb: float
    host_area_mb_s: float
    peak_gpu_mb: float | None
    gpu_area_mb_s: float | None
    gpu_before_mb: float | None
    samples: int
    problem: str

    @classmethod
    def of(cls, case: str, measurement: Measurement, problem: str) -> CaseCost:
        """The row of a measurement."""
        trace = measurement.trace
        return cls(
            case,
            measurement.exit_status,
            round(measurement.wall_s, 3),
            round(measurement.cpu_s, 3),
            round(measurement.peak_host_mb, 1),
            round(trace.area_mb_s(trace.host_mb) or 0.0, 1),
            _rounded(measurement.peak_gpu_mb),
            _rounded(trace.area_mb_s(trace.gpu_mb)),
            _rounded(measurement.gpu_before_mb),
            len(trace.ticks),
            problem,
        )


@dataclass(frozen=True)
class Setup:
    """What was measured and how; rows of one table must share it.

    Attributes:
        command: The template.
        interval_s: Seconds between two samples.
        host_measure: 'pss' or 'rss'.
        gpu_reader: What read the GPU's memory; None where nothing did.
    """

    command: Sequence[str]
    interval_s: float
    host_measure: str
    gpu_reader: str | None

    def claim(self, path: Path) -> None:
        """Writes the setup, or compares it with the one that is there.

        Args:
            path: efficiency.json.

        Raises:
            PartialError: Another setup is there.
        """
        content = {**asdict(self), "command": list(self.command)}
        if not path.exists():
            write_json(path, content)
            return
        try:
            found = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise PartialError(f"{path}: cannot be read as JSON ({error}); choose another folder") from error
        for key, value in content.items():
            there = found.get(key) if isinstance(found, Mapping) else None
            if there != value:
                raise PartialError(
                    f"{path}: holds measurements with {key} {there!r}, now it is {value!r}; choose another folder, or "
                    "remove this one"
                )


def write_costs(path: Path, costs: Sequence[CaseCost]) -> None:
    """Writes the table of all cases in one step; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(CaseCost)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(cost) for cost in costs)
    write_text(path, text.getvalue())


def read_costs(path: Path) -> list[CaseCost]:
    """Reads a table of `write_costs`; one that is missing has no rows.

    Raises:
        PartialError: It is no such table.
    """
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [_cost(row) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        columns = ", ".join(field.name for field in fields(CaseCost))
        raise PartialError(f"{path}: expected a table with the columns {columns} ({error!r}); remove it") from error


def _cost(row: Mapping[str, str]) -> CaseCost:
    convert: dict[str, Callable[[str], Any]] = {"case": str, "problem": str, "exit_status": int, "samples": int}
    optional = {"peak_gpu_mb", "gpu_area_mb_s", "gpu_before_mb"}
    values: dict[str, Any] = {}
    for field in fields(CaseCost):
        cell = row[field.name]
        values[field.name] = None if field.name in optional and not cell else convert.get(field.name, float)(cell)
    return CaseCost(**values)


def write_trace(path: Path, trace: Trace) -> None:
    """Writes memory over time as a table, in one step."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_TRACE_COLUMNS)
    gpu_mb: Sequence[float | str] = trace.gpu_mb or [""] * len(trace.ticks)
    for tick, time_s, host, gpu in zip(trace.ticks, trace.times_s, trace.host_mb, gpu_mb, strict=True):
        writer.writerow([tick, f"{time_s:g}", f"{host:.1f}", gpu if isinstance(gpu, str) else f"{gpu:.1f}"])
    write_text(path, text.getvalue())


def read_trace(path: Path, interval_s: float) -> Trace:
    """Reads a table of `write_trace`.

    Args:
        path: The table.
        interval_s: Seconds between two samples.

    Raises:
        PartialError: It is missing or no such table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return Trace(
            interval_s,
            tuple(int(row["tick"]) for row in rows),
            tuple(float(row["host_mb"]) for row in rows),
            tuple(float(row["gpu_mb"]) for row in rows if row["gpu_mb"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PartialError(
            f"{path}: expected a table with the columns {', '.join(_TRACE_COLUMNS)} ({error!r}); remove its case from "
            "efficiency.csv to measure it again"
        ) from error


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
