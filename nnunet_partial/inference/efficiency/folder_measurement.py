"""Runs a prediction command once for each case of a folder, as the FLARE challenges do, and measures each run."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_partial.atomic import atomic_path
from nnunet_partial.errors import PartialError
from nnunet_partial.inference.efficiency.gpu_memory import GpuReader
from nnunet_partial.inference.efficiency.measurement import Measurement, last_lines, measure_command
from nnunet_partial.inference.efficiency.process_tree import host_measure
from nnunet_partial.inference.efficiency.results import CaseCost, Setup, read_costs, write_costs, write_trace
from nnunet_partial.volumes import channel_files

__all__ = ["INPUT", "OUTPUT", "ResultFolder", "measure_folder"]

INPUT, OUTPUT = "{input}", "{output}"
"""What stands for the folders of a case in a template."""


@dataclass(frozen=True)
class ResultFolder:
    """Where measurements lie.

    Attributes:
        folder: The folder.
    """

    folder: Path

    @property
    def table(self) -> Path:
        """One row a case."""
        return self.folder / "efficiency.csv"

    @property
    def setup(self) -> Path:
        """What was measured how."""
        return self.folder / "efficiency.json"

    @property
    def plot(self) -> Path:
        """Memory over time, and bars."""
        return self.folder / "efficiency.png"

    @property
    def predictions(self) -> Path:
        """What the command wrote."""
        return self.folder / "predictions"

    def trace(self, case: str) -> Path:
        """Memory over time of a case."""
        return self.folder / "traces" / f"{case}.csv"

    def log(self, case: str) -> Path:
        """What the command printed."""
        return self.folder / "logs" / f"{case}.txt"


def measure_folder(
    images: Path,
    output: Path,
    command: Sequence[str],
    *,
    interval_s: float = 0.1,
    gpu: GpuReader | None = None,
    file_ending: str = ".nii.gz",
    report: Callable[[CaseCost], None] = lambda cost: None,
) -> list[CaseCost]:
    """Measures a command on every case of a folder, one case a run.

    Each run sees a new folder with copies of the files of its case alone, and a new empty folder for its output, which
    is kept under `output`/predictions. Cases that were measured before and did not fail are not measured again.

    Args:
        images: Folder with CASE_0000.ending.
        output: Folder for the results.
        command: Program and arguments; {input} and {output} in them stand for the two folders.
        interval_s: Seconds between two samples, above 0.
        gpu: Reads the memory of a device.
        file_ending: Ending of the images with its dot.
        report: Called after each case.

    Returns:
        One row a case, in order of their names.

    Raises:
        PartialError: There are no cases, the template or interval is wrong, the command cannot be started, or the
            folder holds measurements of another command.
    """
    missing = [word for word in (INPUT, OUTPUT) if not any(word in part for part in command)]
    if missing:
        raise PartialError(
            f"command: expected the words {INPUT} and {OUTPUT}, which stand for the folders of a case; "
            f"{' and '.join(missing)} not found in {list(command)}"
        )
    if not 0 < interval_s <= 60:
        raise PartialError(f"interval: expected seconds above 0 and at most 60, found {interval_s:g}")
    cases = {case: list(files.values()) for case, files in channel_files(images, file_ending).items()}
    if not cases:
        raise PartialError(f"{images}: expected images named CASE_0000{file_ending}, found none")
    results = ResultFolder(output)
    Setup(command, interval_s, host_measure(), gpu.name if gpu else None).claim(results.setup)
    costs = {cost.case: cost for cost in read_costs(results.table)}
    for case, files in cases.items():
        if case not in costs or costs[case].problem:
            costs[case] = _measure_case(case, files, results, command, interval_s=interval_s, gpu=gpu)
            write_costs(results.table, [costs[name] for name in sorted(costs)])
        report(costs[case])
    return [costs[case] for case in cases]


def _measure_case(
    case: str,
    files: Sequence[Path],
    results: ResultFolder,
    command: Sequence[str],
    *,
    interval_s: float,
    gpu: GpuReader | None,
) -> CaseCost:
    with tempfile.TemporaryDirectory(prefix=".case_", dir=results.folder, ignore_cleanup_errors=True) as work:
        # absolute, as containers want it
        folders = {name: Path(work).resolve() / name.strip("{}") for name in (INPUT, OUTPUT)}
        for folder in folders.values():
            folder.mkdir()
        for file in files:
            # no links, which end at the borders of a container
            shutil.copyfile(file, folders[INPUT] / file.name)
        with atomic_path(results.log(case)) as log:
            measurement = measure_command(_filled(command, folders), log, interval_s=interval_s, gpu=gpu)
            written = sorted(folders[OUTPUT].iterdir())
            problem = _problem(measurement, log, case, [path.name for path in written])
        if not problem:
            for path in written:
                _move(path, results.predictions / path.name)
    write_trace(results.trace(case), measurement.trace)
    return CaseCost.of(case, measurement, problem)


def _filled(command: Sequence[str], folders: Mapping[str, Path]) -> list[str]:
    words = list(command)
    for name, folder in folders.items():
        words = [word.replace(name, str(folder)) for word in words]
    return words


def _problem(measurement: Measurement, log: Path, case: str, written: Sequence[str]) -> str:
    """Why a run failed, with the end of what it printed; empty where it did not fail."""
    status = measurement.exit_status
    if status < 0:
        reason = f"ended by signal {-status} ({signal.strsignal(-status)})"
    elif status > 0:
        reason = f"exit status {status}"
    elif not any(name.startswith(case) for name in written):
        reason = f"exit status 0, but it wrote nothing named {case}* to its output folder, only {list(written)}"
    else:
        return ""
    said = last_lines(log)
    return f"{reason}; its output ends with:\n{said}" if said else f"{reason}; it printed nothing"


def _move(source: Path, target: Path) -> None:
    """Moves a file or folder over what is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)
