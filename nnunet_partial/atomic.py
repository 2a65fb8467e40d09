"""Files that are either whole or not there: written under a temporary name, then renamed."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["atomic_folder", "atomic_path", "leftovers", "remove_leftover", "write_json", "write_text"]

_DIGITS = 16
_TEMPORARY = re.compile(rf"\.\d{{{_DIGITS}}}\.(?P<target>.+)")


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yields a temporary path beside `target`; on success it becomes `target`, on failure it is removed.

    The temporary name keeps the full suffix (`.nii.gz`), because writers choose the format by it.

    Args:
        target: The final path; its folder is made where it is missing.

    Yields:
        The path to write to.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(target)
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yields a new folder beside `target`; on success it takes its place, on failure it is removed.

    A folder that is there already is replaced.

    Args:
        target: The final folder.

    Yields:
        The folder to write to.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary, replaced = _beside(target), _beside(target)
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            target.replace(replaced)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def _beside(target: Path) -> Path:
    """A name of its own in the folder of `target`: .NUMBER.NAME.

    The number is drawn from the system's randomness. Numbers of processes would do on one machine only: nodes and
    containers that share a folder have the same ones.
    """
    return target.with_name(f".{secrets.randbelow(10**_DIGITS):0{_DIGITS}d}.{target.name}")


def leftovers(folder: Path) -> dict[str, list[Path]]:
    """Temporary files and folders in a folder: of processes that are writing, and of those that were killed.

    Args:
        folder: The folder; it may be missing.

    Returns:
        Name of the target to its temporary files and folders.
    """
    found: dict[str, list[Path]] = {}
    try:
        paths = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return found
    for path in paths:
        match = _TEMPORARY.fullmatch(path.name)
        if match:
            found.setdefault(match["target"], []).append(path)
    return found


def remove_leftover(path: Path) -> None:
    """Removes a temporary file or folder, if it is still there. The caller knows that nobody is writing it."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Writes a text file in one step."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, content: Any) -> None:
    """Writes a JSON file in one step, in the order given, indented by two."""
    write_text(target, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
