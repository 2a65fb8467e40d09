"""Finished measurements: one JSON file each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_partial.atomic import write_json
from tests.bench.finished import read_alike, read_finished

__all__ = ["Key", "Results"]

_FOLDER = "runs"
_KEYS = {"case", "who", "run", "settings", "machine", "values", "problem"}


@dataclass(frozen=True)
class Key:
    """Names one measurement.

    Attributes:
        part: Of the benchmark, e.g. 'end_to_end'.
        case: What is predicted or exported, e.g. 'C14_regions_200'.
        who: The competitor, e.g. 'nnunet'.
        run: Number of the round, from 0.
    """

    part: str
    case: str
    who: str
    run: int

    def __str__(self) -> str:
        return f"{self.part} {self.case} {self.who} run {self.run}"


class Results:
    """The JSON files of an output folder.

    Args:
        folder: Output folder of the benchmark.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: Key) -> Path:
        """Where a measurement lies."""
        return self.folder / _FOLDER / key.part / f"{key.case}.{key.who}.run{key.run}.json"

    def is_finished(self, key: Key, settings: Mapping[str, Any]) -> bool:
        """Whether a measurement is there and did not fail.

        Raises:
            PartialError: It was made with other settings, or its file cannot be read.
        """
        content = read_finished(self.path(key), _KEYS, settings)
        return content is not None and not content["problem"]

    def save(
        self,
        key: Key,
        settings: Mapping[str, Any],
        machine: Mapping[str, Any],
        values: Mapping[str, Any],
        problem: str = "",
    ) -> None:
        """Writes a measurement.

        Args:
            key: Its name.
            settings: Must be equal where measurements are compared.
            machine: Where and when it was made.
            values: What was measured.
            problem: Why it failed; empty where it did not.
        """
        content = {"case": key.case, "who": key.who, "run": key.run, "settings": dict(settings)}
        write_json(self.path(key), {**content, "machine": dict(machine), "values": dict(values), "problem": problem})

    def load(self, part: str) -> dict[Key, dict[str, Any]]:
        """All measurements of a part, those that failed too, whole content of their files.

        Raises:
            PartialError: A file cannot be read, or they were made with different settings.
        """
        contents = read_alike(self.folder / _FOLDER / part, _KEYS)
        return {Key(part, content["case"], content["who"], content["run"]): content for content in contents}

    def values(self, part: str) -> dict[Key, dict[str, Any]]:
        """What was measured, of those that did not fail.

        Raises:
            PartialError: As `load`.
        """
        return {key: content["values"] for key, content in self.load(part).items() if not content["problem"]}

    def write_notes(self, part: str, notes: Sequence[str]) -> None:
        """Keeps what was left out of a part, and why."""
        write_json(self._notes_path(part), list(notes))

    def notes(self, part: str) -> list[str]:
        """What was left out of a part."""
        path = self._notes_path(part)
        return [str(note) for note in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []

    def _notes_path(self, part: str) -> Path:
        return self.folder / "notes" / f"{part}.json"
