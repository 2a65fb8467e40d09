"""Readers of the memory in use on a GPU."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.efficiency.gpu_memory import NvidiaSmi, Nvml, open_gpu_reader

SMI = """#!{python} -S
import sys, time
assert sys.argv[1] == "--id=3" and "--query-gpu=memory.total,memory.free" in sys.argv, sys.argv
assert sys.argv[-1] == "--loop-ms=50", sys.argv
for free in range(900, 890, -1):
    print("1000,", free, flush=True)
    time.sleep(0.05)
time.sleep({rest})
"""


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def write(text: str) -> None:
        path = tmp_path / "bin" / "nvidia-smi"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(path.parent), prepend=os.pathsep)

    return write


def test_nvidia_smi_is_followed(nvidia_smi: Callable[[str], None]) -> None:
    nvidia_smi(SMI.format(python=sys.executable, rest=60))
    reader = NvidiaSmi(3, 0.05)
    seen = [reader.used_mb()]
    deadline = time.monotonic() + 30
    while seen[-1] < 109 and time.monotonic() < deadline:
        time.sleep(0.01)
        seen.append(reader.used_mb())
    reader.close()
    assert seen[0] < 105
    assert seen[-1] == 109
    assert seen == sorted(seen)
    with pytest.raises(PartialError, match="nvidia-smi ended"):
        reader.used_mb()


def test_nvidia_smi_without_numbers(nvidia_smi: Callable[[str], None]) -> None:
    nvidia_smi("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    with pytest.raises(PartialError, match="GPU 1: expected total and free memory of nvidia-smi, found 'No devices"):
        NvidiaSmi(1, 0.1)


PYNVML = """
class NVMLError(Exception):
    pass
class Memory:
    total, free, used = 80 * 2**30, 77 * 2**30, 2**20
def nvmlInit():
    pass
nvmlShutdown = nvmlInit
def nvmlDeviceGetHandleByIndex(index):
    if index > 1:
        raise NVMLError("Invalid Argument")
    return index
def nvmlDeviceGetMemoryInfo(device):
    return Memory
"""


def test_readers_of_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nvidia_smi: Callable[[str], None]) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "pynvml.py").write_text(PYNVML)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    reader = open_gpu_reader(None, 0.1)
    assert isinstance(reader, Nvml)
    # total minus free, not what the driver calls used
    assert reader.used_mb() == 3 * 1024
    reader.close()
    nvidia_smi("#!/bin/sh\nexit 9\n")
    with pytest.raises(PartialError, match=r"GPU 2: .*'Invalid Argument'; GPU 2: expected total"):
        open_gpu_reader(2, 0.1)
    nvidia_smi(SMI.format(python=sys.executable, rest=60))
    fallback = open_gpu_reader(3, 0.05)
    assert isinstance(fallback, NvidiaSmi)
    fallback.close()
    monkeypatch.delitem(sys.modules, "pynvml")


def test_machines_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert open_gpu_reader(None, 0.1) is None
    with pytest.raises(
        PartialError, match="GPU 0: its memory cannot be read: the package nvidia-ml-py is not installed"
    ):
        open_gpu_reader(0, 0.1)
