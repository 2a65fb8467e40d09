"""One run of a command, measured from outside."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.efficiency.gpu_memory import GpuReader
from nnunet_partial.inference.efficiency.process_tree import HostMeasure, HostMemory, host_measure

__all__ = ["Measurement", "Trace", "last_lines", "measure_command"]

_MB = 2**20
_READ_BYTES = 1 << 16
_CLEARING_UP_S = 10.0


@dataclass(frozen=True)
class Trace:
    """Memory over time. Samples are due at 0, 1, 2, ... intervals; those that came too late are missing.

    Attributes:
        interval_s: Seconds between two samples.
        ticks: Number of the interval of each sample, ascending.
        host_mb: Memory of the command's processes, in MB of 2**20 bytes.
        gpu_mb: Memory in use on the whole device; empty where none is read.
    """

    interval_s: float
    ticks: tuple[int, ...]
    host_mb: tuple[float, ...]
    gpu_mb: tuple[float, ...]

    @property
    def times_s(self) -> tuple[float, ...]:
        """Seconds since the start, one a sample."""
        return tuple(tick * self.interval_s for tick in self.ticks)

    def area_mb_s(self, values_mb: Sequence[float]) -> float | None:
        """Area under memory over time as the FLARE challenges define it: the sum of the samples, times the interval.

        Where samples are missing, the one before stands in, so that a slow reading makes nothing look smaller.

        Args:
            values_mb: `host_mb` or `gpu_mb`.

        Returns:
            The area in MB·s; None where there are no values.
        """
        if not values_mb:
            return None
        intervals = [*(b - a for a, b in zip(self.ticks, self.ticks[1:], strict=False)), 1]
        return self.interval_s * math.fsum(v * n for v, n in zip(values_mb, intervals, strict=True))


@dataclass(frozen=True)
class Measurement:
    """What one run of a command took.

    Attributes:
        exit_status: Of the command; negative is the signal that ended it.
        wall_s: Seconds from before its start to its end.
        cpu_s: Processor time of it and of the children it waited for.
        host_measure: What `trace.host_mb` counts.
        gpu_before_mb: Memory in use on the device before the start; None where none is read.
        trace: Memory over time.
    """

    exit_status: int
    wall_s: float
    cpu_s: float
    host_measure: HostMeasure
    gpu_before_mb: float | None
    trace: Trace

    @property
    def peak_host_mb(self) -> float:
        """Largest sample of the host's memory."""
        return max(self.trace.host_mb)

    @property
    def peak_gpu_mb(self) -> float | None:
        """Largest sample of the device's memory; None where none is read."""
        return max(self.trace.gpu_mb, default=None)


def measure_command(
    command: Sequence[str],
    log: Path,
    *,
    interval_s: float = 0.1,
    gpu: GpuReader | None = None,
    environment: Mapping[str, str] | None = None,
) -> Measurement:
    """Runs a command and samples the memory of all its processes while it runs.

    Args:
        command: Program and arguments.
        log: File that its output and its errors go to.
        interval_s: Seconds between two samples.
        gpu: Reads the memory of a device.
        environment: Environment variables; those of this process by default.

    Returns:
        What it took, also where it failed. Processes of its group that it leaves behind are killed.

    Raises:
        PartialError: It cannot be started, or memory cannot be read.
    """
    measure = host_measure()
    before = gpu.used_mb() if gpu is not None else None
    with log.open("wb") as output:
        start = time.perf_counter()
        process = _start(command, output.fileno(), environment)
        try:
            sampler = _Sampler(process.pid, start, interval_s, measure, gpu)
            sampler.start()
            try:
                _, status, usage = os.wait4(process.pid, 0)
                wall_s = time.perf_counter() - start
                process.returncode = os.waitstatus_to_exitcode(status)
            finally:
                sampler.stop()
        finally:
            _end(process)
    return Measurement(
        process.returncode, wall_s, usage.ru_utime + usage.ru_stime, measure, before, sampler.finished_trace()
    )


def _start(command: Sequence[str], output: int, environment: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
    try:
        # a session of its own, by which its processes are known
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise PartialError(f"{command[0]}: cannot be started ({error.strerror or error})") from error


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends what is left: a command that was interrupted, after it could clear up, and what it left behind."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(_CLEARING_UP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _Sampler:
    """A thread that samples on a fixed schedule until it is stopped."""

    def __init__(self, root: int, start: float, interval_s: float, measure: HostMeasure, gpu: GpuReader | None) -> None:
        self._start, self._interval_s = start, interval_s
        self._memory = HostMemory(root, measure)
        self._gpu = gpu
        self._ticks: list[int] = []
        self._host_mb: list[float] = []
        self._gpu_mb: list[float] = []
        self._problem: PartialError | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Starts to sample; the first sample is due at once."""
        self._thread.start()

    def stop(self) -> None:
        """Ends sampling."""
        self._stopped.set()
        self._thread.join()

    def finished_trace(self) -> Trace:
        """What was sampled.

        Raises:
            PartialError: A reading failed.
        """
        if self._problem is not None:
            raise self._problem
        return Trace(self._interval_s, tuple(self._ticks), tuple(self._host_mb), tuple(self._gpu_mb))

    def _run(self) -> None:
        tick = 0
        while True:
            try:
                host_mb = self._memory.used_bytes() / _MB
                gpu_mb = [self._gpu.used_mb()] if self._gpu is not None else []
            except PartialError as error:
                self._problem = error
                return
            self._ticks.append(tick)
            self._host_mb.append(host_mb)
            self._gpu_mb += gpu_mb
            elapsed = time.perf_counter() - self._start
            tick = max(tick + 1, math.ceil(elapsed / self._interval_s))
            if self._stopped.wait(max(0.0, tick * self._interval_s - elapsed)):
                return


def last_lines(log: Path, count: int = 5) -> str:
    """The end of what a command printed.

    Args:
        log: File with its output.
        count: Most lines to return.

    Returns:
        The last lines that are not blank; what a line wrote over itself, as progress bars do, is left out.
    """
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _READ_BYTES))
        text = file.read().decode("utf-8", "replace")
    lines = (line.rstrip("\r").rpartition("\r")[2].strip() for line in text.split("\n"))
    return "\n".join([line for line in lines if line][-count:])
