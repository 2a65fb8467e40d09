"""Files of finished measurements, so that an interrupted benchmark goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from nnunet_partial.errors import PartialError

__all__ = ["read_alike", "read_finished"]

Content = dict[str, Any]


def read_finished(path: Path, keys: Collection[str], settings: Mapping[str, Any]) -> Content | None:
    """The content of a file; None where it is not there.

    Args:
        path: The file.
        keys: What it must hold, 'settings' among them.
        settings: With which the measurement must have been made.

    Raises:
        PartialError: It was made with other settings, or cannot be read.
    """
    if not path.is_file():
        return None
    content = _read(path, keys)
    found = content["settings"]
    changed = sorted(name for name in {*found, *settings} if found.get(name) != settings.get(name))
    if changed:
        raise PartialError(
            f"{path}: was made with other settings ({', '.join(changed)}); choose another output folder, or delete "
            "this file"
        )
    return content


def read_alike(folder: Path, keys: Collection[str]) -> Iterator[Content]:
    """The content of all files of a folder.

    Args:
        folder: The folder.
        keys: What each must hold, 'settings' among them.

    Raises:
        PartialError: One cannot be read, or they were made with different settings.
    """
    first: tuple[Path, Content] | None = None
    for path in sorted(folder.glob("*.json")):
        content = _read(path, keys)
        first = first or (path, content)
        if content["settings"] != first[1]["settings"]:
            raise PartialError(f"{path} and {first[0]} were made with different settings; delete one of them")
        yield content


def _read(path: Path, keys: Collection[str]) -> Content:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PartialError(f"{path}: not valid JSON ({error}); delete it, and it is made again") from error
    if not isinstance(content, dict) or not content.keys() >= set(keys):
        raise PartialError(f"{path}: expected an object with {sorted(keys)}; delete it, and it is made again")
    return content
