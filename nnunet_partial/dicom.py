"""A DICOM series as one volume."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_partial.errors import VolumeError

__all__ = ["holds_dicom", "is_dicom", "read_series"]

_PREAMBLE_BYTES = 128
_POSITION, _ORIENTATION, _DESCRIPTION = "0020|0032", "0020|0037", "0008|103e"
_TOLERANCE = 0.01
"""Allowed differences, as a share of the distance between slices and of the length of a direction."""
_ROUNDING_MM = 0.01


def holds_dicom(folder: Path) -> bool:
    """Whether any file in a folder, or in the folders in it, is a DICOM file; hidden files are left out.

    Raises:
        VolumeError: None is among those that can be read, but a file or a folder cannot be read.
    """
    unreadable: list[VolumeError] = []
    for path in _files(folder, unreadable):
        try:
            if is_dicom(path):
                return True
        except VolumeError as error:
            unreadable.append(error)
    if unreadable:
        raise unreadable[0]
    return False


def _files(folder: Path, unreadable: list[VolumeError]) -> Iterator[Path]:
    """Without hidden ones, in which some systems keep notes beside each file; folders that cannot be read are added."""

    def note(error: OSError) -> None:
        unreadable.append(VolumeError(f"{error.filename}: cannot be read ({error.strerror})"))

    for parent, folders, names in os.walk(folder, onerror=note):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def is_dicom(path: Path) -> bool:
    """Whether a file is a DICOM file by its first bytes; the index of a medium, DICOMDIR, does not count.

    Raises:
        VolumeError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            file.seek(_PREAMBLE_BYTES)
            return file.read(4) == b"DICM" and path.name != "DICOMDIR"
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read ({error.strerror})") from error


def read_series(folder: Path, uid: str | None = None) -> tuple[Any, tuple[Path, ...]]:
    """Reads a series of a folder.

    Args:
        folder: Folder; the series may lie in folders in it.
        uid: Series instance UID, where the folder holds several.

    Returns:
        The SimpleITK image, 3D, with rescale slope and intercept applied, and its files in the order of the slices.

    Raises:
        VolumeError: There is no such series, or more than one; slices are unevenly spaced, doubled, turned against
            each other or sheared (gantry tilt); or a file cannot be read.
    """
    import SimpleITK as sitk

    files = _only_series(folder, uid)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        # one file is a single slice, or has several frames
        image = reader.Execute() if len(files) > 1 else sitk.ReadImage(files[0])
    except RuntimeError as error:
        raise VolumeError(
            f"{folder}: the DICOM series of {len(files)} files cannot be read ({str(error).splitlines()[-1].strip()})"
        ) from error
    if len(files) > 1:
        _check_slices(folder, reader, len(files))
    return image, tuple(Path(file) for file in files)


def _only_series(folder: Path, uid: str | None) -> tuple[str, ...]:
    import SimpleITK as sitk

    unreadable: list[VolumeError] = []
    files = list(_files(folder, unreadable))
    slices = [path for path in files if is_dicom(path)]
    if unreadable:
        raise unreadable[0]
    series: dict[str, tuple[str, ...]] = {}
    for parent in sorted({path.parent for path in slices}):
        for found in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(parent)):
            series[found] = _series_files(folder, found)
    if uid is not None:
        series = {found: names for found, names in series.items() if found == uid}
    known = {Path(name) for names in series.values() for name in names}
    damaged = [] if uid else [path for path in slices if path not in known] + _emptied(files, slices)
    if damaged:
        raise VolumeError(
            f"{folder}: {len(damaged)} DICOM file(s) cannot be read, such as {damaged[0].name}; damaged or cut short? "
            "Copy or download them again, or take them away"
        )
    if not series:
        wanted = f"the DICOM series {uid}" if uid else "a folder with one DICOM series"
        raise VolumeError(f"{folder}: expected {wanted}, found no DICOM image in it")
    if len(series) > 1:
        listed = "".join(
            f"\n  - {found}: {len(names)} files{_description(names[0])}" for found, names in series.items()
        )
        raise VolumeError(
            f"{folder}: expected one DICOM series, found {len(series)}; put the wanted one in its own folder:{listed}"
        )
    return next(iter(series.values()))


def _emptied(files: Sequence[Path], slices: Sequence[Path]) -> list[Path]:
    """Files of 0 bytes that were slices, by their ending: the last one of a series would not be missed otherwise."""
    endings = {path.suffix.lower() for path in slices}
    return [path for path in files if path.suffix.lower() in endings and path.stat().st_size == 0]


def _series_files(folder: Path, uid: str) -> tuple[str, ...]:
    import SimpleITK as sitk

    return tuple(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid, False, True))


def _description(file: str) -> str:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    try:
        reader.ReadImageInformation()
    except RuntimeError:  # the listing goes without a name
        return ""
    return f" ({reader.GetMetaData(_DESCRIPTION).strip()})" if reader.HasMetaDataKey(_DESCRIPTION) else ""


def _check_slices(folder: Path, reader: Any, count: int) -> None:
    positions = _per_slice(folder, reader, count, _POSITION, 3)
    orientations = _per_slice(folder, reader, count, _ORIENTATION, 6)
    if np.abs(orientations - orientations[0]).max() > _TOLERANCE:
        raise VolumeError(
            f"{folder}: the slices of the DICOM series are turned against each other (a localizer among them?); "
            "keep those of one orientation"
        )
    normal = np.cross(orientations[0, :3], orientations[0, 3:])
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    step = float(np.median(gaps))
    doubled = int(np.count_nonzero(gaps < _ROUNDING_MM))
    if doubled:
        raise VolumeError(
            f"{folder}: {doubled} of {count} slices of the DICOM series lie where another one lies (several phases or "
            "time points in one series?); keep one slice a position"
        )
    wrong = np.flatnonzero(np.abs(gaps - step) > max(_TOLERANCE * step, _ROUNDING_MM))
    if wrong.size:
        first = int(wrong[0])
        raise VolumeError(
            f"{folder}: the slices of the DICOM series are unevenly spaced: {step:.4g} mm apart mostly, but "
            f"{gaps[first]:.4g} mm after the slice at {along[order][first]:.4g} mm ({wrong.size} such gaps); is a "
            "slice missing? Add it, or resample the series to even distances"
        )
    travelled = positions[order[-1]] - positions[order[0]]
    sideways = float(np.linalg.norm(travelled - (travelled @ normal) * normal))
    if sideways > max(_TOLERANCE * float(travelled @ normal), _ROUNDING_MM):
        raise VolumeError(
            f"{folder}: the slices of the DICOM series are shifted sideways against each other, by {sideways:.4g} mm "
            "in all (gantry tilt?); resample the series to an upright grid first"
        )


def _per_slice(folder: Path, reader: Any, count: int, key: str, numbers: int) -> npt.NDArray[np.float64]:
    rows = []
    for index in range(count):
        text = reader.GetMetaData(index, key) if reader.HasMetaDataKey(index, key) else ""
        row = text.split("\\")
        if len(row) != numbers:
            raise VolumeError(
                f"{folder}: expected {numbers} numbers under the DICOM key ({key.replace('|', ',')}) of every slice, "
                f"found {text!r}; the place of the slices is unknown"
            )
        rows.append([float(value) for value in row])
    return np.array(rows)
