"""How much memory of a GPU is in use, by anything: total minus free, as the FLARE challenges measure it."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import subprocess
import threading
from typing import Any, Protocol

from nnunet_partial.errors import PartialError

__all__ = ["GpuReader", "NvidiaSmi", "Nvml", "open_gpu_reader"]

_START_S = 10.0


class GpuReader(Protocol):
    """Reads the memory in use on one device."""

    @property
    def name(self) -> str:
        """What is read and how, for the tables."""

    def used_mb(self) -> float:
        """Memory in use now, in MB of 2**20 bytes."""

    def close(self) -> None:
        """Ends reading."""


class Nvml:
    """Reads through NVIDIA's management library.

    Args:
        index: Number of the device, as nvidia-smi counts.

    Raises:
        PartialError: There is no driver or no such device.
    """

    def __init__(self, index: int) -> None:
        # of the package nvidia-ml-py, which is optional
        self._library: Any = importlib.import_module("pynvml")
        try:
            self._library.nvmlInit()
            self._device = self._library.nvmlDeviceGetHandleByIndex(index)
        except self._library.NVMLError as error:
            raise PartialError(f"GPU {index}: NVIDIA's management library says '{error}'") from error
        self.name = "nvml"

    def used_mb(self) -> float:
        """Memory in use now, in MB.

        Raises:
            PartialError: The driver does not answer.
        """
        try:
            memory = self._library.nvmlDeviceGetMemoryInfo(self._device)
        except self._library.NVMLError as error:
            raise PartialError(f"the memory of the GPU cannot be read any more: '{error}'") from error
        return float(memory.total - memory.free) / 2**20

    def close(self) -> None:
        """Gives the library back."""
        self._library.nvmlShutdown()


class NvidiaSmi:
    """Reads from one nvidia-smi that prints again and again, because starting it takes longer than an interval.

    Args:
        index: Number of the device.
        interval_s: Seconds between two readings.

    Raises:
        PartialError: It prints no number.
    """

    def __init__(self, index: int, interval_s: float) -> None:
        query = ["--query-gpu=memory.total,memory.free", "--format=csv,noheader,nounits"]
        command = ["nvidia-smi", f"--id={index}", *query, f"--loop-ms={max(1, round(1000 * interval_s))}"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
        )
        self._used_mb: float | None = None
        self._said = ""
        self._first = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        self.name = "nvidia-smi"
        self._first.wait(_START_S)
        if self._used_mb is None:
            self.close()
            raise PartialError(f"GPU {index}: expected total and free memory of nvidia-smi, found '{self._said}'")

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said = line.strip()
            try:
                total, free = map(float, line.split(","))
            except ValueError:
                break
            self._used_mb = total - free
            self._first.set()
        self._first.set()

    def used_mb(self) -> float:
        """Memory in use at the last reading, in MB.

        Raises:
            PartialError: nvidia-smi has ended.
        """
        if self._used_mb is None or not self._thread.is_alive():
            raise PartialError(f"nvidia-smi ended while it was read; the last it said is '{self._said}'")
        return self._used_mb

    def close(self) -> None:
        """Ends nvidia-smi."""
        self._process.kill()
        self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


def open_gpu_reader(index: int | None, interval_s: float) -> GpuReader | None:
    """The best reader there is: NVML where the package nvidia-ml-py is installed, else nvidia-smi.

    Args:
        index: Number of the device, as nvidia-smi counts; None takes the first one, where there is one.
        interval_s: Seconds between two readings.

    Returns:
        The reader; None where `index` is None and there is no GPU.

    Raises:
        PartialError: A device was asked for that cannot be read.
    """
    problems = []
    try:
        if importlib.util.find_spec("pynvml") is not None:
            return Nvml(index or 0)
        problems.append("the package nvidia-ml-py is not installed")
    except PartialError as error:
        problems.append(str(error))
    try:
        if shutil.which("nvidia-smi") is not None:
            return NvidiaSmi(index or 0, interval_s)
        problems.append("there is no nvidia-smi on the PATH")
    except PartialError as error:
        problems.append(str(error))
    if index is None:
        return None
    raise PartialError(f"GPU {index}: its memory cannot be read: {'; '.join(problems)}")
