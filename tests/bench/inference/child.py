"""Functions measured in processes of their own, so that their peak memory can be told from that of everything else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nnunet_partial.errors import PartialError
from tests.bench.measure import peak_growth_megabytes

__all__ = ["ROOT", "child_environment", "measured", "print_result", "run_child"]

ROOT = Path(__file__).resolve().parents[3]
"""What must be on the path for `tests` to be found."""


def child_environment(threads: int) -> dict[str, str]:
    """Environment of whatever is measured.

    Args:
        threads: Of linear algebra, PyTorch and the like.
    """
    number = str(threads)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "OMP_NUM_THREADS": number,
        "MKL_NUM_THREADS": number,
        "OPENBLAS_NUM_THREADS": number,
        "nnUNet_compile": "f",
    }


def run_child(module: str, arguments: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Runs `python -m module JSON` and returns the JSON of its last line.

    Args:
        module: Whose main program calls `print_result`.
        arguments: Given to it as JSON.
        threads: See `child_environment`.

    Raises:
        PartialError: It failed; the end of its messages is in the error.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=child_environment(threads),
    )
    if done.returncode != 0:
        said = "\n".join(done.stderr.splitlines()[-5:])
        raise PartialError(f"{module}: exit status {done.returncode}; it ends with:\n{said}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measured(function: Callable[[], object]) -> dict[str, float]:
    """Runs a function once.

    Returns:
        'seconds', 'extra_mb' (peak above what the process held before) and 'process_mb' (peak of all it holds).
    """
    seconds = []

    def timed() -> None:
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)

    extra = peak_growth_megabytes(timed)
    return {"seconds": seconds[0], "extra_mb": extra, "process_mb": _peak_megabytes()}


def _peak_megabytes() -> float:
    """Peak memory of this process since `peak_growth_megabytes` began to look."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def print_result(values: Mapping[str, Any]) -> None:
    """Hands values to `run_child`."""
    print(json.dumps(values), flush=True)
