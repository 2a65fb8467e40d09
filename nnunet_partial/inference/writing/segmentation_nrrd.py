"""3D Slicer's segmentation files (.seg.nrrd): names and colours of classes with the voxels, overlaps as layers.

Format: https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html and
https://teem.sourceforge.net/nrrd/format.html.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_partial.atomic import atomic_path
from nnunet_partial.errors import VolumeError
from nnunet_partial.gzip_bytes import compress
from nnunet_partial.inference.reading.geometry import lps_affine
from nnunet_partial.inference.reading.image_reader import Image
from nnunet_partial.inference.writing.colours import Colour, class_colours
from nnunet_partial.inference.writing.label_writer import original_grid

__all__ = ["Segment", "layers_of_masks", "write_segmentation_nrrd"]

_HIGHEST = 255
_NOWHERE = "0 -1 0 -1 0 -1"
"""Slicer's extent of a layer without voxels."""


@dataclass(frozen=True)
class Segment:
    """A class in a segmentation.

    Attributes:
        name: Shown to the user.
        value: Of its voxels, 1 to 65535.
        layer: Which of the layers they lie in.
    """

    name: str
    value: int
    layer: int = 0


def layers_of_masks(
    masks: Iterable[tuple[str, npt.NDArray[Any]]],
) -> tuple[npt.NDArray[np.uint8], tuple[Segment, ...]]:
    """Packs masks that may overlap into as few label maps as come about when each goes where it first fits.

    Args:
        masks: Class and its mask (z, y, x), drawn one by one; at least one.

    Returns:
        (layers, z, y, x) label maps, and where each class is in them.

    Raises:
        VolumeError: There is no mask.
    """
    layers: list[npt.NDArray[np.uint8]] = []
    used: list[int] = []
    segments = []
    for name, mask in masks:
        present = np.not_equal(mask, 0)
        fitting = (i for i, layer in enumerate(layers) if used[i] < _HIGHEST and not layer[present].any())
        index = next(fitting, len(layers))
        if index == len(layers):
            layers.append(np.zeros(present.shape, np.uint8))
            used.append(0)
        used[index] += 1
        layers[index][present] = used[index]
        segments.append(Segment(name, used[index], index))
    if not layers:
        raise VolumeError("a segmentation needs at least one class, found none")
    return np.stack(layers), tuple(segments)


def write_segmentation_nrrd(
    labels: npt.NDArray[np.integer[Any]],
    segments: Sequence[Segment],
    image: Image,
    target: Path,
    colours: Mapping[str, Colour] | None = None,
) -> None:
    """Writes a segmentation that 3D Slicer opens with names and colours, in one step.

    Args:
        labels: (z, y, x), or (layers, z, y, x) where classes overlap; see `layers_of_masks`.
        segments: What the values of the layers mean; values that none names are written all the same.
        image: What was predicted; the axes are turned back to those of its file.
        target: File, named *.seg.nrrd.
        colours: Class to red, green and blue, 0 to 1; `class_colours` for those not in it.

    Raises:
        VolumeError: Shape, values or segments do not fit, or the file cannot be written.
    """
    layers = labels if labels.ndim == 4 else labels[None]
    _check(layers, segments, image, target)
    turned, geometry = zip(*(original_grid(layer, image.geometry) for layer in layers), strict=True)
    stored = np.stack(turned).astype(np.uint8 if layers.max(initial=0) <= _HIGHEST else np.uint16, copy=False)
    chosen = {**class_colours([segment.name for segment in segments]), **(colours or {})}
    header = _grid_lines(stored, lps_affine(geometry[0])) + _segment_lines(stored, segments, chosen)
    # NRRD's first axis is the fastest: layers of one voxel lie side by side
    voxels = stored[0] if len(stored) == 1 else np.moveaxis(stored, 0, -1)
    try:
        with atomic_path(target) as temporary, temporary.open("wb") as file:
            file.write("\n".join([*header, "", ""]).encode("utf-8"))
            file.writelines(compress(np.ascontiguousarray(voxels).reshape(-1).view(np.uint8).data))
    except OSError as error:
        raise VolumeError(f"{target}: cannot be written ({error.strerror or error})") from error


def _check(layers: npt.NDArray[Any], segments: Sequence[Segment], image: Image, target: Path) -> None:
    if layers.shape[1:] != image.data.shape[1:]:
        raise VolumeError(f"{target}: expected the image's shape {image.data.shape[1:]}, found {layers.shape[1:]}")
    if layers.min(initial=0) < 0 or layers.max(initial=0) > 65535:
        raise VolumeError(f"{target}: expected labels from 0 to 65535, found {layers.min()} to {layers.max()}")
    if not target.name.lower().endswith(".seg.nrrd"):
        raise VolumeError(f"{target}: expected a name that ends in .seg.nrrd, by which 3D Slicer knows segmentations")
    for segment in segments:
        if not (1 <= segment.value <= 65535 and 0 <= segment.layer < len(layers)):
            raise VolumeError(
                f"{target}: class {segment.name!r} has value {segment.value} in layer {segment.layer}; expected a "
                f"value of 1 to 65535 in one of {len(layers)} layers"
            )
    places = {(segment.layer, segment.value) for segment in segments}
    if len(places) != len(segments) or len({segment.name for segment in segments}) != len(segments):
        raise VolumeError(f"{target}: expected every class once and a value of its own, found {list(segments)}")


def _grid_lines(stored: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> list[str]:
    layered = len(stored) > 1
    sizes = [len(stored)] * layered + list(stored.shape[:0:-1])
    return [
        "NRRD0004",
        "# Complete NRRD file format specification at:",
        "# http://teem.sourceforge.net/nrrd/format.html",
        f"type: {'unsigned char' if stored.dtype == np.uint8 else 'unsigned short'}",
        f"dimension: {len(sizes)}",
        "space: left-posterior-superior",
        f"sizes: {_joined(sizes)}",
        f"space directions: {'none ' * layered}{' '.join(_vector(affine[:3, axis]) for axis in range(3))}",
        f"kinds: {'list ' * layered}domain domain domain",
        *(["endian: little"] if stored.dtype != np.uint8 else []),
        "encoding: gzip",
        f"space origin: {_vector(affine[:3, 3])}",
    ]


def _segment_lines(stored: npt.NDArray[Any], segments: Sequence[Segment], colours: Mapping[str, Colour]) -> list[str]:
    lines = [
        "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
        "Segmentation_MasterRepresentation:=Binary labelmap",
        "Segmentation_SourceRepresentation:=Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset:=0 0 0",
    ]
    # segments of a layer share one labelmap in Slicer, and so its extent
    extents = [_extent(layer) for layer in stored]
    for index, segment in enumerate(segments):
        values = {
            "ID": f"Segment_{index + 1}",
            "Name": segment.name.replace("\\", "\\\\").replace("\n", "\\n"),
            "NameAutoGenerated": "0",
            "Color": _joined([round(part, 6) for part in colours[segment.name]]),
            "ColorAutoGenerated": "0",
            "Extent": extents[segment.layer],
            "LabelValue": str(segment.value),
            "Layer": str(segment.layer),
            "Tags": "Segmentation.Status:inprogress|",
        }
        lines += [f"Segment{index}_{key}:={value}" for key, value in values.items()]
    return lines


def _extent(layer: npt.NDArray[Any]) -> str:
    """First and last index along x, y and z of what is not 0."""
    ends = []
    for axis in (2, 1, 0):
        others = tuple(other for other in range(3) if other != axis)
        present = np.flatnonzero(layer.any(axis=others))
        if not present.size:
            return _NOWHERE
        ends += [int(present[0]), int(present[-1])]
    return _joined(ends)


def _joined(numbers: Iterable[float]) -> str:
    return " ".join(str(number) for number in numbers)


def _vector(numbers: npt.NDArray[np.float64]) -> str:
    return "(" + ",".join(repr(float(number)) for number in numbers) + ")"
