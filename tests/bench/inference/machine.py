"""What a measurement was made on: processor, cores, memory, versions."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from nnunet_partial.inference.backends.open_backend import has_bf16

__all__ = ["available_mb", "cores", "describe_machine", "machine_lines"]

_PACKAGES = (
    "nnunet-partial",
    "nnunetv2",
    "torch",
    "openvino",
    "onnxruntime",
    "numpy",
    "scipy",
    "scikit-image",
    "SimpleITK",
)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def _cpu_entry(name: str) -> str:
    """A field of the first processor."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _memory_mb(field: str) -> float:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def available_mb() -> float:
    """Memory that new processes can take, in MB of 2**20 bytes."""
    return _memory_mb("MemAvailable")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def describe_machine() -> dict[str, Any]:
    """The machine, versions and today's date, as JSON holds them."""
    return {
        "cpu": _cpu_entry("model name") or platform.machine(),
        "cores": cores(),
        "memory_gb": round(_memory_mb("MemTotal") / 1024, 1),
        "bf16": has_bf16(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in _PACKAGES},
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def machine_lines(machines: list[dict[str, Any]]) -> list[str]:
    """Sentences for a report; several where measurements are of several machines, versions or days.

    Args:
        machines: Of all measurements.
    """
    lines = []
    for machine in machines:
        processor = f"{machine['cpu']}, {machine['cores']} cores" + (" with bfloat16" if machine["bf16"] else "")
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        gpu = f" GPU: {machine['gpu']}." if machine.get("gpu") else ""
        line = (
            f"{machine['date']}: {processor}, {machine['memory_gb']:g} GB, {machine['system']}.{gpu} "
            f"Python {machine['python']}, {versions}."
        )
        if line not in lines:
            lines.append(line)
    return lines
