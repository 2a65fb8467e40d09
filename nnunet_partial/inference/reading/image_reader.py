"""Images as the network's training saw them: arrays, axis order and spacing of nnU-Net's own readers.

What differs from nnU-Net: damaged files, images without finite numbers and unequal channels are errors instead of
surprises, a 4D file and a DICOM series keep a geometry to write with, and NIfTI files are unpacked faster.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_partial.dicom import read_series
from nnunet_partial.errors import VolumeError
from nnunet_partial.inference.reading.geometry import (
    ImageGeometry,
    ItkGeometry,
    NibabelGeometry,
    PixelGeometry,
    itk_image,
    lps_affine,
)
from nnunet_partial.inference.reading.nifti_bytes import is_nifti, load_nifti

__all__ = ["READERS", "Image", "read_image"]

_REORIENTED = "RAS"
_FLAT = 999
"""nnU-Net's spacing across the only slice of a 2D image; a multiple of the pixel size where that is known."""
_CHANNEL_ENDING = re.compile(r"_\d{4}$")


@dataclass(frozen=True, eq=False)
class Image:
    """An image to predict.

    Attributes:
        data: (channels, z, y, x); 2D images have one slice.
        spacing: Voxel size in mm in the order of the array, (z, y, x); 999, or 999 times the pixel size, across the
            slice of a 2D image.
        geometry: What a writer needs.
        files: Where the image came from; a folder for a DICOM series.
        flat: The image is 2D.
    """

    data: npt.NDArray[np.float32]
    spacing: tuple[float, ...]
    geometry: ImageGeometry
    files: tuple[Path, ...]
    flat: bool = False

    @property
    def from_dicom(self) -> bool:
        """Whether a DICOM series was read; label maps for it are written as NIfTI."""
        return self.files[0].is_dir()


@dataclass(frozen=True, eq=False)
class _Channels:
    """One file: `Image` without its list of files."""

    data: npt.NDArray[np.float32]
    spacing: tuple[float, ...]
    geometry: ImageGeometry
    flat: bool = False


def read_image(
    files: Sequence[Path], reader: str, *, channels: int | None = None, dimensions: int | None = None
) -> Image:
    """Reads the channels of a case.

    Args:
        files: One file a channel, in order; one file with all channels (4D, or colours for photographs); or one folder
            with a DICOM series.
        reader: nnU-Net's class name, one of `READERS`.
        channels: How many channels the model takes; None accepts any number.
        dimensions: 3 refuses 2D images.

    Returns:
        The image: voxels, spacing and geometry equal those of nnU-Net's reader.

    Raises:
        VolumeError: A file is missing, empty, damaged or of another kind; voxels are missing, NaN or infinite; the
            geometry makes no sense to the reader; or the channels do not fit together.
    """
    if reader not in READERS:
        raise VolumeError(f"images cannot be read by {reader!r}; expected one of nnU-Net's {', '.join(READERS)}")
    paths = tuple(Path(file) for file in files)
    if not paths:
        raise VolumeError("expected at least one image file for the case, found none")
    for path in paths:
        _check_exists(path)
    read = [_checked(path, READERS[reader]) for path in paths]
    _check_agreement(paths, read)
    first = read[0]
    data = first.data if len(read) == 1 else np.concatenate([one.data for one in read])
    if channels is not None and len(data) != channels:
        raise VolumeError(
            f"{paths[0]}: the model takes {channels} channels, found {len(data)} in "
            f"{len(paths)} {'file' if len(paths) == 1 else 'files'}; give CASE_0000, CASE_0001, ... in order"
        )
    if dimensions == 3 and first.flat:
        raise VolumeError(f"{paths[0]}: the model takes 3D images, found a 2D one of {data.shape[2:]} pixels")
    return Image(data, first.spacing, first.geometry, paths, first.flat)


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise VolumeError(f"{path}: no such file; every channel of a case needs its file")
    if path.is_file() and path.stat().st_size == 0:
        raise VolumeError(f"{path}: the file is empty (0 bytes); copy or download it again")


def _checked(path: Path, read: Callable[[Path], _Channels]) -> _Channels:
    """Reads a file, turns foreign errors into clear ones, and checks voxels and spacing."""
    try:
        channels = read(path)
    except VolumeError:
        raise
    except MemoryError as error:
        raise VolumeError(f"{path}: too large for the memory of this machine") from error
    except Exception as error:  # every library has its own
        raise _unreadable(path, error) from error
    if channels.data.size == 0:
        raise VolumeError(f"{path}: expected voxels along every axis, found shape {channels.data.shape}")
    if not all(np.isfinite(size) and size > 0 for size in channels.spacing):
        raise VolumeError(f"{path}: expected voxel sizes above 0, found {channels.spacing}")
    _check_finite(path, channels.data)
    return channels


def _unreadable(path: Path, error: Exception) -> VolumeError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "orthonormal" in str(error):
        return VolumeError(
            f"{path}: the axes of the image are not at right angles (sheared affine), which SimpleITK, the reader of "
            "this model, refuses; resample the image to an upright grid, or mend its sform"
        )
    if "change spacing" in str(error):
        return VolumeError(f"{path}: expected voxel sizes above 0; mend the header ({lines[-1]})")
    return VolumeError(
        f"{path}: cannot be read as an image; of another format, damaged or cut short? "
        f"({lines[-1] if lines else type(error).__name__})"
    )


def _check_finite(path: Path, data: npt.NDArray[Any]) -> None:
    # the extremes need no second array; NaN is both of them
    with np.errstate(invalid="ignore"):
        if np.isfinite(data.min()) and np.isfinite(data.max()):
            return
    nan, infinite = int(np.isnan(data).sum()), int(np.isinf(data).sum())
    raise VolumeError(
        f"{path}: expected numbers, found {nan} NaN and {infinite} infinite voxels; replace them, e.g. by the "
        "value of air"
    )


def _check_agreement(paths: Sequence[Path], read: Sequence[_Channels]) -> None:
    first = read[0]
    for path, other in zip(paths[1:], read[1:], strict=True):
        for what, a, b in (
            ("shape (z, y, x)", first.data.shape[1:], other.data.shape[1:]),
            ("spacing (z, y, x)", first.spacing, other.spacing),
        ):
            if not np.allclose(a, b):
                raise VolumeError(
                    f"{path}: its {what} is {_numbers(b)}, that of {paths[0].name} {_numbers(a)}; all channels of a "
                    "case must lie on one grid: resample one onto the other"
                )
        if not _same_place(first.geometry, other.geometry):
            warnings.warn(
                f"{path}: its origin or direction differs from that of {paths[0].name}; the channels are laid over "
                "each other voxel by voxel, and labels get the place of the first",
                stacklevel=3,
            )


def _numbers(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(value), 5) for value in values)


def _same_place(a: ImageGeometry, b: ImageGeometry) -> bool:
    if isinstance(a, ItkGeometry) and isinstance(b, ItkGeometry):
        return np.allclose(a.origin_mm, b.origin_mm) and np.allclose(a.direction, b.direction)
    if isinstance(a, NibabelGeometry) and isinstance(b, NibabelGeometry):
        return np.allclose(lps_affine(a), lps_affine(b))
    return True


def _float32(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Always a copy: SimpleITK's views do not keep their image alive, and those of bytes cannot be written to."""
    return np.array(array, dtype=np.float32, order="C")


# SimpleITK


def _read_simpleitk(path: Path) -> _Channels:
    plain = _plain_nifti(path)
    if plain is None:
        return _from_itk(path, _load_itk(path))
    voxels, geometry = plain
    return _Channels(_float32(voxels)[None], tuple(abs(size) for size in geometry.spacing_mm[::-1]), geometry)


def _read_simpleitk_reoriented(path: Path) -> _Channels:
    import SimpleITK as sitk

    plain = _plain_nifti(path)
    image = _load_itk(path) if plain is None else itk_image(*plain)
    if image.GetDimension() != 3:
        raise VolumeError(
            f"{path}: expected a 3D image, which can be turned to {_REORIENTED}, found {image.GetDimension()} "
            "dimensions"
        )
    orientation = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    return _from_itk(path, sitk.DICOMOrient(image, _REORIENTED), orientation)


def _load_itk(path: Path) -> Any:
    import SimpleITK as sitk

    return read_series(path)[0] if path.is_dir() else sitk.ReadImage(str(path))


def _plain_nifti(path: Path) -> tuple[npt.NDArray[Any], ItkGeometry] | None:
    """Voxels (z, y, x) from memory and the geometry from SimpleITK, where both are sure to be what SimpleITK reads.

    Any NIfTI file is checked here: SimpleITK would fill missing voxels, and put 0 in the place of NaN, unseen.
    """
    if path.is_dir() or not is_nifti(path):
        return None
    import SimpleITK as sitk

    content, header = load_nifti(path)
    if min(header.pixdim[:3]) < 0:  # SimpleITK would mirror the image, other readers would not
        raise VolumeError(f"{path}: expected voxel sizes above 0, found {header.pixdim[:3]} in the header; mend pixdim")
    if header.voxel_type is None:
        return None
    voxels = header.voxels(content)
    if header.voxel_type.kind == "f":
        _check_finite(path, voxels)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    simple = header.version == 1 and len(header.shape) == 3 and not header.scaled and header.offset >= 352
    if not simple or reader.GetSize() != header.shape or reader.GetNumberOfComponents() != 1:
        return None
    geometry = ItkGeometry(reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())
    return voxels.astype(voxels.dtype.newbyteorder("="), copy=False), geometry


def _from_itk(path: Path, image: Any, orientation: str | None = None) -> _Channels:
    import SimpleITK as sitk

    n = image.GetDimension()
    if image.GetNumberOfComponentsPerPixel() != 1 or n not in (2, 3, 4):
        raise VolumeError(
            f"{path}: expected one number a voxel in 2 to 4 dimensions, found {image.GetNumberOfComponentsPerPixel()} "
            f"numbers in {n} dimensions (a colour or vector image?)"
        )
    data = _float32(sitk.GetArrayViewFromImage(image))
    spacing, size = image.GetSpacing(), min(n, 3)
    direction = np.reshape(image.GetDirection(), (n, n))[:size, :size]
    geometry = ItkGeometry(
        spacing[:size], image.GetOrigin()[:size], tuple(float(cosine) for cosine in direction.ravel()), orientation
    )
    reverse = tuple(abs(s) for s in spacing[:size][::-1])
    if n == 2:
        return _Channels(data[None, None], (max(reverse) * _FLAT, *reverse), geometry, flat=True)
    return _Channels(data if n == 4 else data[None], reverse, geometry)


# nibabel


def _load_nibabel(path: Path) -> Any:
    import nibabel as nib

    if not is_nifti(path):
        raise VolumeError(f"{path}: the model's reader takes .nii and .nii.gz files and folders of DICOM files only")
    content, header = load_nifti(path)
    image = (nib.Nifti1Image if header.version == 1 else nib.Nifti2Image).from_bytes(content)
    if image.ndim != 3:
        raise VolumeError(
            f"{path}: the model's reader takes 3D images, found shape {image.shape}; store one channel a file, "
            "CASE_0000, CASE_0001, ..."
        )
    return image


def _nibabel_voxels(image: Any) -> npt.NDArray[np.float32]:
    """(z, y, x). nnU-Net goes through float64; whole numbers of up to 32 bits end the same without."""
    stored = image.dataobj
    scaled = getattr(stored, "slope", 1) != 1 or getattr(stored, "inter", 0) != 0
    short = stored.dtype.kind in "iuf" and stored.dtype.itemsize <= 4
    voxels = np.asanyarray(stored) if short and not scaled else image.get_fdata(caching="unchanged")
    return _float32(voxels.transpose(2, 1, 0))


def _read_nibabel(path: Path) -> _Channels:
    if path.is_dir():
        return _read_simpleitk(path)  # a DICOM series stored as NIfTI has the same axes
    image = _load_nibabel(path)
    spacing = tuple(float(zoom) for zoom in image.header.get_zooms()[::-1])
    return _Channels(_nibabel_voxels(image)[None], spacing, NibabelGeometry(np.asarray(image.affine)))


def _read_nibabel_reoriented(path: Path) -> _Channels:
    if path.is_dir():
        return _read_simpleitk_reoriented(path)
    from nibabel.orientations import io_orientation

    image = _load_nibabel(path)
    turned = image.as_reoriented(io_orientation(image.affine))
    spacing = tuple(float(zoom) for zoom in turned.header.get_zooms()[::-1])
    geometry = NibabelGeometry(np.asarray(image.affine), np.asarray(turned.affine))
    return _Channels(_nibabel_voxels(turned)[None], spacing, geometry)


# photographs and TIFF stacks


def _read_natural(path: Path) -> _Channels:
    from skimage import io

    pixels = np.asarray(io.imread(path))
    if pixels.ndim == 2:
        data = pixels[None]
    elif pixels.ndim == 3 and pixels.shape[-1] in (3, 4):
        data = pixels.transpose(2, 0, 1)
    else:
        raise VolumeError(f"{path}: expected a grey, RGB or RGBA picture, found an array of shape {pixels.shape}")
    spacing = (float(_FLAT), 1.0, 1.0)
    return _Channels(_float32(data)[:, None], spacing, PixelGeometry(spacing), flat=True)


def _read_tiff(path: Path) -> _Channels:
    import tifffile

    stack = tifffile.imread(path)
    if stack.ndim != 3:
        raise VolumeError(f"{path}: expected a TIFF stack (z, y, x), found an array of shape {stack.shape}")
    spacing = _tiff_spacing(path)
    return _Channels(_float32(stack)[None], spacing, PixelGeometry(spacing))


def _tiff_spacing(path: Path) -> tuple[float, ...]:
    """nnU-Net keeps the spacing beside the image, in CASE.json, without the channel's number."""
    beside = path.with_name(_CHANNEL_ENDING.sub("", path.stem) + ".json")
    if not beside.is_file():
        warnings.warn(
            f"{path}: there is no {beside.name} with its spacing; 1 mm is assumed on every axis", stacklevel=2
        )
        return (1.0, 1.0, 1.0)
    try:
        spacing = tuple(float(size) for size in json.loads(beside.read_text(encoding="utf-8"))["spacing"])
    except (ValueError, TypeError, KeyError) as error:
        raise VolumeError(f'{beside}: expected {{"spacing": [z, y, x]}} ({error!r})') from error
    if len(spacing) != 3:
        raise VolumeError(f"{beside}: expected 3 numbers under 'spacing', (z, y, x), found {len(spacing)}")
    return spacing


def _no_dicom(read: Callable[[Path], _Channels]) -> Callable[[Path], _Channels]:
    def checked(path: Path) -> _Channels:
        if path.is_dir():
            raise VolumeError(f"{path}: expected an image file, found a folder; the model's reader takes no DICOM")
        return read(path)

    return checked


READERS: dict[str, Callable[[Path], _Channels]] = {
    "SimpleITKIO": _read_simpleitk,
    "SimpleITKIOWithReorient": _read_simpleitk_reoriented,
    "NibabelIO": _read_nibabel,
    "NibabelIOWithReorient": _read_nibabel_reoriented,
    "NaturalImage2DIO": _no_dicom(_read_natural),
    "Tiff3DIO": _no_dicom(_read_tiff),
}
