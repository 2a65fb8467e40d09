"""Finding the files of a download by patterns such as 'labelsTr/liver_{id}.nii.gz'."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_partial.errors import PartialError, ProblemsError, VolumeError

__all__ = ["Found", "either", "find", "ids", "natural_order", "read_table", "spacing_of"]

_FIELD = re.compile(r"\{(\w+)\}")
_JUNK = {"__MACOSX", "Thumbs.db"}
_SHOWN = 8
_DELIMITERS = (";", ",", "\t")


@dataclass(frozen=True)
class Found:
    """A file or folder that fits a pattern.

    Attributes:
        path: Where it is.
        fields: What stands in the place of each {field}.
    """

    path: Path
    fields: Mapping[str, str]

    def __getitem__(self, field: str) -> str:
        return self.fields[field]


def natural_order(text: str) -> list[tuple[int, int | str]]:
    """A key that sorts case 2 before case 10."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"([0-9]+)", text) if part]


def find(root: Path, pattern: str, *, optional: bool = False, **fields: str) -> list[Found]:
    """Finds all files and folders that fit a pattern.

    Hidden files, the '._' files of macOS and __MACOSX never fit.

    Args:
        root: Top folder of the download.
        pattern: Path below it, with '/' between folders and {field} for text that varies. A field that stands twice
            has the same text in both places.
        optional: Finding nothing is no error.
        fields: Regular expression of a field, e.g. id='[0-9]{4}'; any text by default.

    Returns:
        What fits, in natural order.

    Raises:
        ProblemsError: Nothing fits; says what is there instead.
    """
    found = list(_descend(root, pattern.split("/"), {}, fields))
    if not found and not optional:
        raise ProblemsError(f"{root}: not the files that were expected", [_nothing_fits(root, pattern)])
    return sorted(found, key=lambda one: [natural_order(part) for part in one.path.relative_to(root).parts])


def ids(root: Path, *patterns: str, field: str = "id", optional: bool = False, **fields: str) -> list[str]:
    """The texts that a field has in files of any of the patterns.

    With the patterns of images and of labels, a case of which either is missing is found as well.

    Args:
        root: Top folder of the download.
        patterns: As for `find`; each must fit something.
        field: The field.
        optional: Finding nothing is no error.
        fields: As for `find`.

    Returns:
        Every text once, in natural order.

    Raises:
        ProblemsError: Nothing fits one or more of the patterns.
    """
    found = {pattern: find(root, pattern, optional=True, **fields) for pattern in patterns}
    missing = [pattern for pattern, files in found.items() if not files]
    if missing and not optional:
        raise ProblemsError(
            f"{root}: not the files that were expected", [_nothing_fits(root, pattern) for pattern in missing]
        )
    return sorted({one[field] for files in found.values() for one in files}, key=natural_order)


def either(root: Path, *patterns: str, **fields: str) -> str:
    """The first of several patterns that fits something, where copies of a dataset are laid out differently.

    Args:
        root: Top folder of the download.
        patterns: As for `find`.
        fields: As for `find`.

    Raises:
        ProblemsError: None of them fits.
    """
    for pattern in patterns:
        if find(root, pattern, optional=True, **fields):
            return pattern
    raise ProblemsError(f"{root}: not the files that were expected", [_nothing_fits(root, p) for p in patterns])


def read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Reads a table (CSV) that belongs to a download.

    Args:
        path: The file; commas, semicolons or tabs stand between its columns.
        columns: Columns that must be there.

    Returns:
        Its rows, with all columns, as text without spaces around.

    Raises:
        PartialError: The file or a column is missing, or it is no text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise PartialError(f"{path}: no such file; it belongs to the download") from error
    except (OSError, UnicodeDecodeError) as error:
        raise PartialError(f"{path}: cannot be read as a table ({error}); download it again") from error
    header = text.partition("\n")[0]
    for delimiter in _DELIMITERS:
        if set(columns) <= {name.strip().strip('"') for name in header.split(delimiter)}:
            reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
            return [{key.strip(): (row[key] or "").strip() for key in reader.fieldnames or ()} for row in reader]
    raise PartialError(
        f"{path}: expected the columns {list(columns)}, found '{header.strip()}'; is it the file of another release?"
    )


def spacing_of(image: Path) -> tuple[float, ...] | None:
    """The voxel size that the header of an image states; voxels are not read.

    Args:
        image: A file, in any format that volumes come in.

    Returns:
        Millimetres along each array axis; None where the file is missing or damaged, which the engine tells together
        with all other files that are.
    """
    from nnunet_partial.volumes import read_geometry  # slow to import, which a list of all datasets need not wait for

    try:
        return tuple(read_geometry(image).spacing_mm)
    except VolumeError:
        return None


def _descend(folder: Path, parts: list[str], known: dict[str, str], expressions: Mapping[str, str]) -> Iterator[Found]:
    part, rest = parts[0], parts[1:]
    if not _FIELD.search(part):
        path = folder / part
        if os.path.lexists(path):
            yield from _descend(path, rest, known, expressions) if rest else (Found(path, known),)
        return
    expression = re.compile(_expression(part, known, expressions))
    for name in _names(folder):
        match = expression.fullmatch(name)
        if match:
            fields = {**known, **match.groupdict()}
            yield from _descend(folder / name, rest, fields, expressions) if rest else (Found(folder / name, fields),)


def _expression(part: str, known: Mapping[str, str], expressions: Mapping[str, str]) -> str:
    """A regular expression of a part of a pattern; fields that are known already stand for their text."""
    pieces, position = [], 0
    seen: set[str] = set()
    for match in _FIELD.finditer(part):
        pieces.append(re.escape(part[position : match.start()]))
        name, position = match[1], match.end()
        if name in known:
            pieces.append(re.escape(known[name]))
        elif name in seen:
            pieces.append(f"(?P={name})")
        else:
            pieces.append(f"(?P<{name}>{expressions.get(name, '.+?')})")
            seen.add(name)
    return "".join([*pieces, re.escape(part[position:])])


def _names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".") and name not in _JUNK]  # noqa: PTH208
    except OSError:  # a file where a folder was expected, a folder that cannot be opened
        return []


def _nothing_fits(root: Path, pattern: str) -> str:
    folder, parts = root, pattern.split("/")
    while len(parts) > 1 and not _FIELD.search(parts[0]) and (folder / parts[0]).is_dir():
        folder, parts = folder / parts[0], parts[1:]
    if not folder.is_dir():
        return f"expected {pattern}, found no folder {folder}"
    names = sorted(_names(folder), key=natural_order)
    there = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    place = f"the folder {folder.relative_to(root)}" if folder != root else "this folder"
    return f"expected {pattern}, but {place} holds {there or 'nothing'}"
