"""Time and memory of one command, measured from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.efficiency import process_tree
from nnunet_partial.inference.efficiency.measurement import Trace, last_lines, measure_command
from tests.unit.measured_commands import FakeGpu, allocating, python


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.txt"


def test_memory_of_a_process(log: Path) -> None:
    empty = measure_command(python("import time; time.sleep(0.6)"), log, interval_s=0.05)
    full = measure_command(python(allocating(200)), log, interval_s=0.05)
    assert full.exit_status == 0
    # while it is built, the block is there twice
    assert full.peak_host_mb - empty.peak_host_mb == pytest.approx(200, abs=5)
    assert full.peak_host_mb == max(full.trace.host_mb)
    assert 0.6 < full.wall_s < 60
    assert full.gpu_before_mb is None
    assert full.peak_gpu_mb is None
    assert full.trace.area_mb_s(full.trace.gpu_mb) is None


def test_children_of_children_count(log: Path) -> None:
    nested = "import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {!r}], start_new_session={})"
    alone = measure_command(python(allocating(100)), log, interval_s=0.05)
    for own_session in (False, True):
        code = nested.format(nested.format(allocating(100), own_session), False)
        grandchild = measure_command(python(code), log, interval_s=0.05)
        # with two interpreters above it
        assert alone.peak_host_mb < grandchild.peak_host_mb < alone.peak_host_mb + 60


def test_orphans_count_and_end_with_the_command(log: Path) -> None:
    # the middle process ends at once, so that its child has no parent among the command's processes
    middle = f"import subprocess as s, sys; print(s.Popen([sys.executable, '-S', '-c', {allocating(100, 60)!r}]).pid)"
    code = f"import subprocess, sys, time; subprocess.run([sys.executable, '-S', '-c', {middle!r}]); time.sleep(1.5)"
    measured = measure_command(python(code), log, interval_s=0.05)
    assert measured.peak_host_mb > 100
    state = Path("/proc") / last_lines(log) / "stat"
    deadline = time.monotonic() + 30
    # gone, or a zombie that the system has yet to collect
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_shared_memory_counts_once() -> None:
    if process_tree.host_measure() != "pss":
        pytest.skip("this system does not tell how pages are shared")
    code = (
        "import mmap, os, sys; m = mmap.mmap(-1, 2**20 * 100); m.write(b'x' * 2**20 * 100); p = os.fork()\n"
        "if not p: [m[i] for i in range(0, len(m), 4096)]; print('touched', flush=True)\n"
        "sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(python(code), start_new_session=True, **pipes) as process:
        assert process.stdout.readline() == b"touched\n"
        both = process_tree.members(process.pid)
        assert len(both) == 2
        pss, rss = (process_tree.memory_bytes(both, measure) / 2**20 for measure in process_tree.HOST_MEASURES)
        process.stdin.close()
    assert 100 < pss < 150
    assert rss > 200


def test_processor_time_is_that_of_all_children(log: Path) -> None:
    burn = "import time\nwhile time.process_time() < {}: pass"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {burn.format(0.3)!r}])"
    measured = measure_command(python(f"{code}\n{burn.format(0.2)}"), log)
    assert 0.5 <= measured.cpu_s < 2
    assert measure_command(python("import time; time.sleep(0.8)"), log).cpu_s < 0.5


def test_area_of_a_known_curve() -> None:
    ramp = Trace(0.1, tuple(range(11)), tuple(float(i) for i in range(11)), ())
    assert ramp.area_mb_s(ramp.host_mb) == pytest.approx(0.1 * 10 * 11 / 2)
    # the readings of the intervals 2 and 3 came too late: that of 1 stands for them
    late = Trace(0.5, (0, 1, 4), (10.0, 20.0, 30.0), (1.0, 2.0, 4.0))
    assert late.area_mb_s(late.host_mb) == pytest.approx(0.5 * (10 + 20 * 3 + 30))
    assert late.area_mb_s(late.gpu_mb) == pytest.approx(0.5 * (1 + 2 * 3 + 4))
    assert late.times_s == (0.0, 0.5, 2.0)


def test_gpu_memory_is_sampled_in_time(log: Path) -> None:
    gpu = FakeGpu(lambda reading: 1000.0)
    measured = measure_command(python("import time; time.sleep(1)"), log, interval_s=0.1, gpu=gpu)
    trace = measured.trace
    assert trace.ticks[0] == 0
    assert measured.gpu_before_mb == measured.peak_gpu_mb == 1000
    # constant memory: its area is that of a rectangle, which ends in the last interval
    area = trace.area_mb_s(trace.gpu_mb)
    assert area == pytest.approx(1000 * 0.1 * (trace.ticks[-1] + 1))
    assert 1000 * 0.1 * 2 < area <= 1000 * (measured.wall_s + 0.1)


def test_gpu_memory_is_read_before_and_at_each_sample(log: Path) -> None:
    gpu = FakeGpu(lambda reading: 5.0 + reading)
    measured = measure_command(python("import time; time.sleep(0.5)"), log, interval_s=0.1, gpu=gpu)
    samples = len(measured.trace.ticks)
    assert gpu.readings == samples + 1
    assert measured.gpu_before_mb == 5
    assert measured.trace.gpu_mb == tuple(6.0 + i for i in range(samples))
    assert measured.peak_gpu_mb == 5 + samples


def test_a_slow_reading_makes_the_area_no_smaller(log: Path) -> None:
    def slow(reading: int) -> float:
        time.sleep(0.25)
        return 100.0

    trace = measure_command(python("import time; time.sleep(1)"), log, interval_s=0.1, gpu=FakeGpu(slow)).trace
    assert len(trace.ticks) < trace.ticks[-1] + 1
    assert trace.area_mb_s(trace.gpu_mb) == pytest.approx(100 * 0.1 * (trace.ticks[-1] + 1))


def test_readers_that_fail_end_the_measurement(log: Path) -> None:
    def fail(reading: int) -> float:
        if reading == 2:
            raise PartialError("the device is gone")
        return 1.0

    with pytest.raises(PartialError, match="the device is gone"):
        measure_command(python("import time; time.sleep(0.5)"), log, gpu=FakeGpu(fail))


def test_output_goes_to_the_log(log: Path) -> None:
    code = "import sys; print('one\\n\\ntwo'); print('10%\\r100%', file=sys.stderr); sys.exit(7)"
    assert measure_command([sys.executable, "-u", "-c", code], log).exit_status == 7
    assert last_lines(log) == "one\ntwo\n100%"
    assert last_lines(log, 2) == "two\n100%"
    log.write_bytes(b"x" * 200_000 + b"\n\xff\n")
    assert last_lines(log, 1) == "\N{REPLACEMENT CHARACTER}"


def test_programs_that_cannot_be_started(log: Path, tmp_path: Path) -> None:
    with pytest.raises(PartialError, match="no-such-program: cannot be started"):
        measure_command(["no-such-program"], log)
    log.write_text("")
    with pytest.raises(PartialError, match="Permission denied"):
        measure_command([str(log)], tmp_path / "other.txt")


def test_systems_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process_tree, "_PROC", tmp_path)
    with pytest.raises(PartialError, match="this system has none"):
        process_tree.host_measure()
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "statm").write_text("")
    assert process_tree.host_measure() == "rss"


def test_resident_memory_where_shares_are_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> int:
        raise PermissionError

    own = [os.getpid()]
    resident = process_tree.memory_bytes(own, "rss")
    assert 0 < process_tree.memory_bytes(own, "pss") <= 1.05 * resident
    monkeypatch.setattr(process_tree, "_pss", refuse)
    assert process_tree.memory_bytes(own, "pss") == pytest.approx(resident, rel=0.05)
    assert process_tree.memory_bytes([2**30], "rss") == 0


def test_ctrl_c_ends_the_command_after_it_could_clear_up(tmp_path: Path, log: Path) -> None:
    clears_up = (
        "import pathlib, signal, sys, time; clear = lambda *a: (pathlib.Path(sys.argv[1]).touch(), sys.exit())"
        "; signal.signal(15, clear); print('up', flush=True); time.sleep(60)"
    )

    command = python(clears_up, str(tmp_path / "cleared"))
    measures = (
        # what runs in the background of a shell, and all it starts, ignores the signal otherwise
        "import pathlib, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from nnunet_partial.inference.efficiency.measurement import measure_command; "
        f"measure_command({list(command)!r}, pathlib.Path({str(log)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", measures], stderr=subprocess.PIPE, text=True)
    while not (log.exists() and "up" in log.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert (tmp_path / "cleared").exists()


def test_shares_are_read_again_only_where_memory_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading them holds a large process up."""
    resident, read = [1000, 1005, 1009, 995, 2000, 2010, 0, 0], []

    def memory(processes: list[int], measure: str) -> int:
        if measure == "rss":
            return resident[0]
        read.append(resident[0])
        return resident[0] // 2

    monkeypatch.setattr(process_tree, "members", lambda root: [root])
    monkeypatch.setattr(process_tree, "memory_bytes", memory)
    host = process_tree.HostMemory(7, "pss")
    found = []
    while resident:
        found.append(host.used_bytes())
        del resident[0]
    assert read == [1000, 2000, 0]
    assert found == [500, round(502.5), round(504.5), round(497.5), 1000, 1005, 0, 0]
    resident = [300]
    assert process_tree.HostMemory(7, "rss").used_bytes() == 300
