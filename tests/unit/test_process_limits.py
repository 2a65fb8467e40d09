"""Limits of containers, read from files as Linux has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnunet_partial import process_limits
from nnunet_partial.process_limits import memory_bytes, processors

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
GROUP = "sys/fs/cgroup"


def system(root: Path, memberships: str | None, files: dict[str, str]) -> Path:
    if memberships is not None:
        files = {"proc/self/cgroup": memberships, **files}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_limits.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


VERSION_1 = "11:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"


@pytest.mark.parametrize(
    ("memberships", "files", "memory", "cpus"),
    [
        pytest.param(None, {}, MACHINE, 8, id="another system"),
        pytest.param("0::/\n", {}, MACHINE, 8, id="no limits"),
        pytest.param(
            "0::/\n",
            {f"{GROUP}/memory.max": "67108864\n", f"{GROUP}/cpu.max": "200000 100000\n"},
            64 << 20,
            2,
            id="docker, version 2",
        ),
        pytest.param(
            "0::/\n",
            {f"{GROUP}/memory.max": "max\n", f"{GROUP}/cpu.max": "max 100000\n"},
            MACHINE,
            8,
            id="docker without limits, version 2",
        ),
        pytest.param(
            "0::/slurm/job_1/step_0\n",
            {
                f"{GROUP}/slurm/job_1/step_0/memory.max": "max\n",
                f"{GROUP}/slurm/job_1/memory.max": "33554432\n",
                f"{GROUP}/slurm/memory.max": "67108864\n",
                f"{GROUP}/slurm/job_1/step_0/cpu.max": "400000 100000\n",
                f"{GROUP}/slurm/cpu.max": "250000 100000\n",
                f"{GROUP}/slurm/job_2/memory.max": "1024\n",
                f"{GROUP}/slurm/job_2/cpu.max": "1000 100000\n",
            },
            32 << 20,
            3,
            id="groups above count, others do not",
        ),
        pytest.param(
            VERSION_1,
            {
                f"{GROUP}/memory/memory.limit_in_bytes": "67108864\n",
                f"{GROUP}/cpu,cpuacct/cpu.cfs_quota_us": "150000\n",
                f"{GROUP}/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            64 << 20,
            2,
            id="docker, version 1, whose path is the host's",
        ),
        pytest.param(
            VERSION_1,
            {
                f"{GROUP}/memory/docker/abc/memory.limit_in_bytes": "16777216\n",
                f"{GROUP}/memory/memory.limit_in_bytes": "9223372036854771712\n",
                f"{GROUP}/cpu/docker/abc/cpu.cfs_quota_us": "10000\n",
                f"{GROUP}/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
                f"{GROUP}/cpu/cpu.cfs_quota_us": "-1\n",
                f"{GROUP}/cpu/cpu.cfs_period_us": "100000\n",
            },
            16 << 20,
            1,
            id="host, version 1",
        ),
        pytest.param(
            "0::/\n",
            {f"{GROUP}/memory.max": f"{MACHINE * 4}\n", f"{GROUP}/cpu.max": "1600000 100000\n"},
            MACHINE,
            8,
            id="limits beyond the machine",
        ),
        pytest.param(
            "nonsense\n\n0::/\n",
            {f"{GROUP}/memory.max": "\n", f"{GROUP}/cpu.max": "100000\n"},
            MACHINE,
            8,
            id="files that say nothing",
        ),
    ],
)
def test_limits(memberships: str | None, files: dict[str, str], memory: int, cpus: int, tmp_path: Path) -> None:
    root = system(tmp_path, memberships, files)
    assert memory_bytes(root) == memory
    assert processors(root) == cpus


def test_fewer_processors_than_the_group_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = system(tmp_path, "0::/\n", {f"{GROUP}/cpu.max": "400000 100000\n"})
    monkeypatch.setattr(process_limits.os, "sched_getaffinity", lambda _: {5}, raising=False)
    assert processors(root) == 1
    monkeypatch.delattr(process_limits.os, "sched_getaffinity")
    monkeypatch.setattr(process_limits.os, "cpu_count", lambda: 3)
    assert processors(root) == 3
    monkeypatch.setattr(process_limits.os, "cpu_count", lambda: None)
    assert processors(root) == 1


def test_this_system() -> None:
    assert 0 < memory_bytes() <= MACHINE
    assert 1 <= processors() <= 8
