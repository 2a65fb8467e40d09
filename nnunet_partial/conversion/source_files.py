"""The files that a case is made of: their state before a conversion, and their digest for its record."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_partial.conversion.case import Case, Dicom, LabelMap, Masks

__all__ = ["FileState", "SourceRecord", "files_below", "source_files", "state_of"]

FileState = tuple[str, int, int]
_LISTED = 4  # more files than these, such as the slices of a series, are recorded as one group
_BLOCK = 1 << 20


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, sorted, without hidden ones; links to folders are not followed."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        found += [Path(parent, name) for name in sorted(names) if not name.startswith(".")]
    return found


def source_files(case: Case) -> Iterator[tuple[Path, bool]]:
    """Files and folders of a case, and whether they must be there."""
    for image in case.channels:
        yield (image.folder if isinstance(image, Dicom) else image), True
    if isinstance(case.label, LabelMap):
        yield case.label.path, True
    elif isinstance(case.label, Masks):
        for path in case.label.files.values():
            yield path, case.label.missing == "error"
    elif case.label is not None:
        for path in case.label.files:
            yield path, True


def state_of(path: Path) -> list[FileState]:
    """Name, size in bytes and time of change of a file, or of all files of a folder.

    Raises:
        OSError: It is missing, empty (a folder), or cannot be read.
    """
    if not path.is_dir():
        status = path.stat()
        return [(str(path), status.st_size, status.st_mtime_ns)]
    files = files_below(path)
    if not files:
        raise FileNotFoundError(errno.ENOENT, "empty folder", str(path))
    return [state for file in files for state in state_of(file)]


@dataclass
class SourceRecord:
    """Digests of what was read for a case.

    Args:
        root: Paths are recorded relative to it.
    """

    root: Path
    _groups: dict[str, list[tuple[Path, int, str]]] = field(default_factory=dict)

    def add_content(self, path: Path, content: bytes, group: str = "") -> None:
        """Records a file whose content is at hand."""
        self._add(path, len(content), hashlib.sha256(content).hexdigest(), group)

    def add_file(self, path: Path, group: str = "") -> None:
        """Records a file, which is read for it."""
        checksum, size = hashlib.sha256(), 0
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                checksum.update(block)
                size += len(block)
        self._add(path, size, checksum.hexdigest(), group)

    def _add(self, path: Path, size: int, checksum: str, group: str) -> None:
        self._groups.setdefault(group or str(path), []).append((path, size, checksum))

    def as_json(self) -> list[dict[str, Any]]:
        """One entry a file; groups of many files get one entry with the SHA-256 of their names and digests."""
        entries: list[dict[str, Any]] = []
        for files in self._groups.values():
            if len(files) <= _LISTED:
                entries += [{"path": self._name(path), "bytes": size, "sha256": s} for path, size, s in files]
                continue
            folder = Path(os.path.commonpath([path for path, _, _ in files]))
            lines = "".join(f"{s}  {path.relative_to(folder).as_posix()}\n" for path, _, s in _sorted(files))
            entries.append(
                {
                    "path": self._name(folder),
                    "files": len(files),
                    "bytes": sum(size for _, size, _ in files),
                    "sha256": hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest(),
                }
            )
        return entries

    def _name(self, path: Path) -> str:
        return (path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix()


def _sorted(files: Iterable[tuple[Path, int, str]]) -> list[tuple[Path, int, str]]:
    return sorted(files, key=lambda file: file[0].as_posix())
