"""Finished trainings: one JSON file each, so that an interrupted benchmark goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_partial.atomic import write_json
from nnunet_partial.errors import PartialError

__all__ = ["Results", "RunKey"]

_FOLDER = "runs"


@dataclass(frozen=True)
class RunKey:
    """Names one training.

    Attributes:
        collection: 'phantoms' or 'real'.
        method: One of METHODS.
        sampling: One of SAMPLINGS.
        seed: Of split, initial weights and draws.
    """

    collection: str
    method: str
    sampling: str
    seed: int

    def __str__(self) -> str:
        return f"{self.collection} {self.method} {self.sampling} seed {self.seed}"


class Results:
    """The JSON files of an output folder.

    Args:
        folder: Output folder of the benchmark.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: RunKey) -> Path:
        """Where a training's result lies."""
        return self.folder / _FOLDER / key.collection / f"{key.method}.{key.sampling}.seed{key.seed}.json"

    def prediction_path(self, key: RunKey) -> Path:
        """Where the predicted masks of one case lie, for pictures."""
        return self.path(key).with_suffix(".npz")

    def is_finished(self, key: RunKey, settings: dict[str, Any]) -> bool:
        """Whether a training is done.

        Raises:
            PartialError: It was done with other settings, or its file cannot be read.
        """
        path = self.path(key)
        if not path.is_file():
            return False
        found = _read(path)["settings"]
        if found != settings:
            changed = sorted(name for name in {*found, *settings} if found.get(name) != settings.get(name))
            raise PartialError(
                f"{path}: was made with other settings ({', '.join(changed)}); choose another output folder, or delete "
                "this one"
            )
        return True

    def save(self, key: RunKey, result: dict[str, Any]) -> None:
        """Writes a result."""
        write_json(self.path(key), result)

    def load(self, collection: str) -> dict[RunKey, dict[str, Any]]:
        """All finished trainings of a collection.

        Raises:
            PartialError: A file cannot be read, or they were made with different settings.
        """
        results: dict[RunKey, dict[str, Any]] = {}
        first: Path | None = None
        for path in sorted((self.folder / _FOLDER / collection).glob("*.json")):
            content = _read(path)
            key = RunKey(collection, content["method"], content["sampling"], content["seed"])
            if first is not None and content["settings"] != _read(first)["settings"]:
                raise PartialError(f"{path} and {first} were made with different settings; delete one of them")
            first = first or path
            results[key] = content
        return results


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PartialError(f"{path}: not valid JSON ({error}); delete it, and it is made again") from error
    expected = {"settings", "method", "sampling", "seed", "dice"}
    if not isinstance(content, dict) or not expected <= content.keys():
        raise PartialError(f"{path}: expected an object with {sorted(expected)}; delete it, and it is made again")
    return content
