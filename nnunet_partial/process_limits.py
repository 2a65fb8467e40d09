"""How many processors and how much memory this process may use: fewer than the machine has, in many a container.

Docker (`-m`, `--cpus`), Kubernetes and SLURM set such limits by Linux's control groups, which are read as files: those
of version 2 (https://docs.kernel.org/admin-guide/cgroup-v2.html) or 1 (.../cgroup-v1/memory.html, and
https://docs.kernel.org/scheduler/sched-bwc.html for processors).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["memory_bytes", "processors"]

_ROOT = Path("/")
_GROUPS, _MEMBERSHIP = "sys/fs/cgroup", "proc/self/cgroup"
_NAMES = {"memory": ("memory",), "cpu": ("cpu", "cpu,cpuacct", "cpuacct,cpu")}
"""Version 1 mounts each controller in a folder of its own; processors and their accounts may share one."""


def memory_bytes(root: Path = _ROOT) -> int:
    """Memory that this process may use, in bytes.

    Args:
        root: Where the system's files are, for tests.

    Returns:
        The smallest limit of its control groups, and at most the memory of the machine.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limits += [limit for limit in _numbers(group / name)[:1] if limit > 0]
    return min(limits)


def processors(root: Path = _ROOT) -> int:
    """Number of processors that this process may use, at least 1.

    Args:
        root: Where the system's files are, for tests.

    Returns:
        Those it may run on, or as many as its control groups give it time of, rounded up, where these are fewer.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [affinity]
    for group in _groups(root, "cpu"):
        quota = [*_numbers(group / "cpu.cfs_quota_us"), *_numbers(group / "cpu.cfs_period_us")]
        for share in (_numbers(group / "cpu.max"), quota):
            if len(share) == 2 and min(share) > 0:  # version 1 says -1 where there is no limit
                limits.append(math.ceil(share[0] / share[1]))
    return max(1, min(limits))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders with the limits of this process: its group and those above, whose limits hold for it as well.

    In a container the file of memberships may speak of folders of the host, which are not there. Then the root counts,
    which is the container's group.
    """
    for line in _text(root / _MEMBERSHIP).splitlines() or ["0::/"]:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        mounts = _NAMES[controller] if controllers else ("", "unified")
        for mount in mounts:
            top = root / _GROUPS / mount
            group = top / path.strip("/")
            yield from [group, *(parent for parent in group.parents if parent.is_relative_to(top))]


def _numbers(file: Path) -> list[int]:
    """The whole numbers in a file; none where the file is missing or says 'max'."""
    try:
        return [int(word) for word in _text(file).split()]
    except ValueError:
        return []


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):  # another system, or a group that may not be looked into
        return ""
