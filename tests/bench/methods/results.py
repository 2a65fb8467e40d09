"""Finished trainings: one JSON file each, so that an interrupted benchmark goes on where it stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_partial.atomic import write_json
from tests.bench.finished import read_alike, read_finished

__all__ = ["Results", "RunKey"]

_FOLDER = "runs"
_KEYS = {"settings", "method", "sampling", "seed", "dice"}


@dataclass(frozen=True)
class RunKey:
    """Names one training.

    Attributes:
        collection: 'phantoms', 'real' or 'frames'.
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
        return read_finished(self.path(key), _KEYS, settings) is not None

    def save(self, key: RunKey, result: dict[str, Any]) -> None:
        """Writes a result."""
        write_json(self.path(key), result)

    def load(self, collection: str) -> dict[RunKey, dict[str, Any]]:
        """All finished trainings of a collection.

        Raises:
            PartialError: A file cannot be read, or they were made with different settings.
        """
        return {
            RunKey(collection, content["method"], content["sampling"], content["seed"]): content
            for content in read_alike(self.folder / _FOLDER / collection, _KEYS)
        }
