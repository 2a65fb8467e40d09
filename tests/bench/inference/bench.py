"""What all parts of the benchmark know: where it writes, its sizes, and how often it measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_partial.errors import PartialError
from tests.bench.inference.machine import cores, describe_machine
from tests.bench.inference.presets import Preset
from tests.bench.inference.results import Results
from tests.bench.inference.rounds import Task

__all__ = ["Bench"]

_SIZES_OF = {"accuracy": ("accuracy",)}
_OF_NETWORKS = ("end_to_end", "sizes", "gpu")


@dataclass(frozen=True)
class Bench:
    """A benchmark.

    Attributes:
        folder: Output folder, absolute.
        preset: Sizes.
        runs: Number of rounds.
        threads: Of every competitor.
        sizes: Volumes of the part `sizes`, by their number of slices.
        classes: Numbers of classes of the part `sizes`, the background included.
        decoding: 'regions' or 'argmax': what the network's channels mean.
        stock_classes: Numbers of classes for which the part `sizes` runs nnU-Net too, where that fits into memory.
        competitors: Names of those that are measured; empty for all.
    """

    folder: Path
    preset: Preset
    runs: int
    threads: int
    sizes: tuple[str, ...]
    classes: tuple[int, ...]
    decoding: str = "regions"
    stock_classes: tuple[int, ...] = (14,)
    competitors: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises a PartialError where something is out of range."""
        unknown = [size for size in self.sizes if size not in self.preset.volumes]
        if unknown:
            raise PartialError(
                f"--sizes: expected some of {', '.join(self.preset.volumes)}, found {', '.join(unknown)}"
            )
        if self.runs < 1 or self.threads < 1:
            raise PartialError(f"--runs and --threads: expected at least 1, found {self.runs} and {self.threads}")
        if min(self.classes) < 2 or max(self.classes) > 254:
            raise PartialError(
                f"--classes: expected numbers of 2 to 254, the background included, found {list(self.classes)}"
            )

    @property
    def results(self) -> Results:
        """The measurements."""
        return Results(self.folder)

    def settings(self, part: str) -> Mapping[str, Any]:
        """What must agree where measurements of a part are compared: sizes that matter to it, threads, the processor.

        Args:
            part: Of the benchmark.
        """
        sizes = self.preset.settings()
        used = {name: sizes[name] for name in _SIZES_OF.get(part, ("volumes", "main", "network"))}
        if part in _OF_NETWORKS:
            used |= {"training": sizes["training"], "decoding": self.decoding}
        machine = describe_machine()
        return {
            "preset": self.preset.name,
            **used,
            "threads": self.threads,
            "cpu": f"{machine['cpu']}, {cores()} cores",
        }

    def chosen(self, tasks: Sequence[Task]) -> list[Task]:
        """Those of the chosen competitors.

        Args:
            tasks: Of a part.

        Raises:
            PartialError: None of them is among the tasks.
        """
        found = [task for task in tasks if not self.competitors or task.who in self.competitors]
        if tasks and not found:
            known = ", ".join(dict.fromkeys(task.who for task in tasks))
            raise PartialError(f"--competitors: expected some of {known}, found {', '.join(self.competitors)}")
        return found

    def scratch(self, name: str) -> Path:
        """A folder for files that may be deleted when the benchmark is done."""
        folder = self.folder / "scratch" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder
