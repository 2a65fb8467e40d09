"""A DICOM series as one volume."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from nnunet_partial.conversion.case import Dicom
from nnunet_partial.conversion.source_files import files_below
from nnunet_partial.errors import VolumeError
from nnunet_partial.volumes import Geometry

__all__ = ["read_series"]

_PREAMBLE_BYTES = 128
_POSITION, _ORIENTATION = "0020|0032", "0020|0037"
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TOLERANCE = 0.01
"""Allowed differences, as a share of the distance between slices and of the length of a direction."""
_ROUNDING_MM = 0.01


def read_series(source: Dicom) -> tuple[npt.NDArray[Any], Geometry, list[Path]]:
    """Reads a series: slices in the order of their positions, with rescale slope and intercept applied.

    Args:
        source: Folder and, where it holds several, which series.

    Returns:
        (x, y, z) voxels, their geometry, and the files, in the order of the slices.

    Raises:
        VolumeError: There is no such series, or several; slices cannot be read, are unevenly spaced, doubled, turned
            against each other or shifted sideways (gantry tilt).
    """
    files = _files(source)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        image = reader.Execute() if len(files) > 1 else sitk.ReadImage(str(files[0]))
    except RuntimeError as error:
        raise VolumeError(
            f"{source.folder}: the DICOM series of {len(files)} files cannot be read "
            f"({str(error).splitlines()[-1].strip()})"
        ) from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise VolumeError(f"{source.folder}: expected a DICOM series of grey slices, found {image.GetSize()}")
    if len(files) > 1:
        _check_slices(source.folder, reader, len(files))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    return array, Geometry(array.shape, _LPS_TO_RAS @ affine), files


def _files(source: Dicom) -> list[Path]:
    """The files of the series, in the order of their positions."""
    slices = [path for path in files_below(source.folder) if _is_dicom(path)]
    series: dict[str, list[Path]] = {}
    for folder in sorted({path.parent for path in slices}):
        for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(os.fspath(folder)):
            names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(os.fspath(source.folder), uid, False, True)
            series[uid] = [Path(name) for name in names]
    if source.series is not None:
        series = {uid: files for uid, files in series.items() if uid == source.series}
    known = {path for files in series.values() for path in files}
    damaged = [] if source.series else [path for path in slices if path not in known]
    if damaged:
        raise VolumeError(
            f"{source.folder}: {len(damaged)} DICOM file(s) cannot be read, such as {damaged[0].name}; download them "
            "again"
        )
    if len(series) != 1:
        found = "".join(f"\n  - {uid}: {len(files)} files" for uid, files in series.items())
        wanted = f"the DICOM series {source.series}" if source.series else "one DICOM series"
        raise VolumeError(f"{source.folder}: expected {wanted}, found {len(series)}{found}")
    return next(iter(series.values()))


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(_PREAMBLE_BYTES)
            return file.read(4) == b"DICM" and path.name != "DICOMDIR"
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read ({error.strerror})") from error


def _check_slices(folder: Path, reader: Any, count: int) -> None:
    positions = _numbers(folder, reader, count, _POSITION, 3)
    directions = _numbers(folder, reader, count, _ORIENTATION, 6)
    if np.abs(directions - directions[0]).max() > _TOLERANCE:
        raise VolumeError(f"{folder}: the slices of the DICOM series are turned against each other")
    normal = np.cross(directions[0, :3], directions[0, 3:])
    steps = np.diff(positions, axis=0)
    along = steps @ normal
    step = float(np.median(along))
    allowed = max(_TOLERANCE * abs(step), _ROUNDING_MM)
    if np.diff(np.sort(positions @ normal)).min() < _ROUNDING_MM:
        raise VolumeError(f"{folder}: slices of the DICOM series lie where others lie (several phases in one series?)")
    wrong = np.flatnonzero(np.abs(along - step) > allowed)
    if wrong.size:
        raise VolumeError(
            f"{folder}: the slices of the DICOM series are unevenly spaced: {abs(step):.4g} mm apart mostly, but "
            f"{abs(along[wrong[0]]):.4g} mm after slice {wrong[0] + 1} of {count}; is a slice missing?"
        )
    sideways = float(np.linalg.norm((positions[-1] - positions[0]) - along.sum() * normal))
    if sideways > allowed:
        raise VolumeError(
            f"{folder}: the slices of the DICOM series are shifted sideways by {sideways:.4g} mm in all (gantry tilt?)"
        )


def _numbers(folder: Path, reader: Any, count: int, key: str, length: int) -> npt.NDArray[np.float64]:
    rows = []
    for index in range(count):
        text = reader.GetMetaData(index, key) if reader.HasMetaDataKey(index, key) else ""
        row = text.split("\\")
        if len(row) != length:
            raise VolumeError(f"{folder}: a slice of the DICOM series does not say where it lies (key {key})")
        rows.append([float(value) for value in row])
    return np.array(rows)
