"""NIfTI files as bytes: unpacked and checked whole, because readers do not notice every damaged file.

SimpleITK fills what is missing from a file cut short with zeros, and neither SimpleITK nor nibabel compares the
checksum of a compressed file.
"""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from nnunet_partial.errors import VolumeError
from nnunet_partial.gzip_bytes import unpack

__all__ = ["NiftiHeader", "is_nifti", "load_nifti", "peek_header"]

_VERSION_1 = {
    "names": ["dim", "datatype", "bitpix", "pixdim", "vox_offset", "scl_slope", "scl_inter"],
    "formats": ["(8,)i2", "i2", "i2", "(8,)f4", "f4", "f4", "f4"],
    "offsets": [40, 70, 72, 76, 108, 112, 116],
}
_VERSION_2 = {
    "names": ["datatype", "bitpix", "dim", "pixdim", "vox_offset", "scl_slope", "scl_inter"],
    "formats": ["i2", "i2", "(8,)i8", "(8,)f8", "i8", "f8", "f8"],
    "offsets": [12, 14, 16, 104, 168, 176, 184],
}
_LAYOUTS = {348: _VERSION_1, 540: _VERSION_2}
_VOXEL_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}


@dataclass(frozen=True)
class NiftiHeader:
    """What the checks and the quick way of reading need of a header.

    Attributes:
        version: 1 or 2.
        shape: Voxels along (x, y, z, ...).
        pixdim: Voxel size as stored, one an axis.
        voxel_type: NumPy's type in the byte order of the file; None for colours and complex numbers.
        bits: Bits of a voxel.
        offset: Where in the file the voxels begin, in bytes.
        scaled: Whether stored numbers have to be multiplied or shifted.
    """

    version: int
    shape: tuple[int, ...]
    pixdim: tuple[float, ...]
    voxel_type: np.dtype[np.generic] | None
    bits: int
    offset: int
    scaled: bool

    def voxels(self, content: bytes) -> npt.NDArray[np.generic]:
        """The stored numbers, (..., z, y, x), without a copy. Only where `voxel_type` is known."""
        count = math.prod(self.shape)
        return np.frombuffer(content, self.voxel_type, count, self.offset).reshape(self.shape[::-1])


def is_nifti(path: Path) -> bool:
    """Whether a file name is that of a NIfTI image."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def load_nifti(path: Path) -> tuple[bytes, NiftiHeader]:
    """Loads a NIfTI file and checks that it is whole.

    Args:
        path: File, compressed or not.

    Returns:
        Its content, unpacked, and what its header says.

    Raises:
        VolumeError: The file is damaged or cut short, is no NIfTI image, has an axis without voxels, or a voxel size
            that is 0 or no number.
    """
    content = unpack(path, path.read_bytes())
    header = _parse(path, content)
    if any(n < 1 for n in header.shape) or not header.shape:
        raise VolumeError(f"{path}: expected voxels along every axis, found shape {header.shape} in the header")
    if not all(math.isfinite(size) and size != 0 for size in header.pixdim[:3]):
        raise VolumeError(f"{path}: expected voxel sizes above 0, found {header.pixdim[:3]} in the header; mend pixdim")
    needed = header.offset + math.prod(header.shape) * header.bits // 8
    if len(content) < needed:
        raise VolumeError(
            f"{path}: the file is cut short: {len(content)} bytes, but its header asks for {needed} "
            f"(shape {header.shape}); copy or download it again"
        )
    return content, header


def peek_header(path: Path) -> NiftiHeader:
    """Reads the header only.

    Args:
        path: File, compressed or not.

    Returns:
        What it says; nothing is checked.

    Raises:
        VolumeError: The file is damaged or no NIfTI image.
    """
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            start = file.read(540)
    except (OSError, EOFError) as error:
        raise VolumeError(f"{path}: the compressed file is damaged or cut short ({error})") from error
    return _parse(path, start)


def _parse(path: Path, content: bytes) -> NiftiHeader:
    orders: tuple[Literal["<", ">"], ...] = ("<", ">")
    for order in orders:
        size = int(np.frombuffer(content, order + "i4", 1)[0]) if len(content) >= 4 else 0
        if size in _LAYOUTS and len(content) >= size:
            return _fields(path, content, size, order)
    raise VolumeError(f"{path}: not a NIfTI image, though its name says so; nothing in it looks like a header")


def _fields(path: Path, content: bytes, size: int, order: Literal["<", ">"]) -> NiftiHeader:
    layout = np.dtype({**_LAYOUTS[size], "itemsize": size}).newbyteorder(order)  # type: ignore[call-overload]
    header = np.frombuffer(content, layout, 1)[0]
    dimensions = int(header["dim"][0])
    if not 1 <= dimensions <= 7:
        raise VolumeError(f"{path}: not a NIfTI image, or a damaged one: its header speaks of {dimensions} dimensions")
    code = _VOXEL_TYPES.get(int(header["datatype"]))
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    offset = float(header["vox_offset"])
    return NiftiHeader(
        version=1 if size == 348 else 2,
        shape=tuple(int(n) for n in header["dim"][1 : dimensions + 1]),
        pixdim=tuple(float(p) for p in header["pixdim"][1 : dimensions + 1]),
        voxel_type=None if code is None else np.dtype(code).newbyteorder(order),
        bits=int(header["bitpix"]),
        offset=int(offset) if math.isfinite(offset) else 0,
        scaled=not (slope in (0.0, 1.0) and intercept == 0.0),
    )
