"""Pictures of a case: reference beside prediction, on three slices through the structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from nnunet_partial.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["save_overlay", "to_ras"]

Masks = Mapping[str, npt.NDArray[np.bool_]]
# Bright enough on dark tissue; the first ones differ in lightness too, for colour-blind readers.
_COLOURS = (
    "#EE6677", "#4FA3E0", "#CCBB44", "#66CCEE", "#44BB77", "#CC66AA", "#EE9944", "#AACC66", "#9988EE", "#DDAAAA",
    "#55BBAA", "#DDCC99", "#BB6655", "#88AADD", "#AA9933", "#EE99CC",
)  # fmt: skip
_BACKGROUND, _TEXT = "#101214", "#E8EAED"
_WIDTH_INCHES, _DOTS_PER_INCH = 8.0, 150
_LEGEND_COLUMNS = 5


@dataclass(frozen=True)
class _Plane:
    """A slice to show: its axis and index in the array, and its size in mm. Coordinates start at the lower left."""

    name: str
    axis: int
    index: int
    width_mm: float
    height_mm: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        return (0.0, self.width_mm, 0.0, self.height_mm)

    def cut(self, volume: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Rows and columns of the picture, top left first: both axes of the array run the other way."""
        section: npt.NDArray[Any] = volume.take(self.index, self.axis)[::-1, ::-1].T
        return section


def save_overlay(
    path: Path,
    image: npt.NDArray[Any],
    reference: Masks,
    prediction: Masks,
    *,
    spacing_mm: Sequence[float],
    window: tuple[float, float] = (-160, 240),
    title: str = "",
) -> None:
    """Writes a PNG of an axial, a coronal and a sagittal slice, each with the reference and with the prediction.

    The array must lie as RAS+ (see `to_ras`): x grows from left to right of the patient, y from back to front, z
    from feet to head. It is shown as radiologists do: the patient's right on the left of axial and coronal slices,
    the front on top of axial and on the left of sagittal slices, the head on top.
    The slices pass through the centre of all structures. Later classes are drawn over earlier ones.

    Args:
        path: Target, .png.
        image: (X, Y, Z) intensities.
        reference: Class to its mask, (X, Y, Z); leave out what is not annotated.
        prediction: Class to its mask, (X, Y, Z).
        spacing_mm: Voxel size along x, y and z, in mm.
        window: Intensities shown as black and as white; the default is a soft-tissue window in HU.
        title: Line above the picture.

    Raises:
        ValueError: The image is not 3D, or a mask has another shape.
    """
    for name, mask in (*reference.items(), *prediction.items()):
        if image.ndim != 3 or mask.shape != image.shape:
            raise ValueError(f"class '{name}': expected a mask of the image's shape {image.shape}, found {mask.shape}")
    names = tuple(dict.fromkeys([*reference, *prediction]))
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
    planes = _planes(
        image.shape,
        _centre(image.shape, reference) or _centre(image.shape, prediction) or tuple(n // 2 for n in image.shape),
        spacing_mm,
    )
    figure, grid = _figure(planes, legend_rows=-(-len(names) // _LEGEND_COLUMNS))
    for row, plane in zip(grid, planes, strict=True):
        for axes, masks in zip(row, (reference, prediction), strict=True):
            _draw_image(axes, image, plane, window)
            _draw_masks(axes, masks, plane, colours)
    if title:
        figure.suptitle(title, color=_TEXT, fontsize=12)
    _legend(figure, colours)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=_BACKGROUND)


def to_ras(volume: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> tuple[npt.NDArray[Any], tuple[float, ...]]:
    """Flips and permutes the axes of a volume so that they run to the right, to the front and to the head.

    Args:
        volume: (X, Y, Z).
        affine: (4, 4), voxel index to RAS+ world coordinates.

    Returns:
        The volume with its axes nearest to RAS+, and its voxel size along them, in mm.
    """
    orientation = nib.io_orientation(affine)
    turned: npt.NDArray[Any] = nib.apply_orientation(volume, orientation)
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    return turned, tuple(float(spacing_mm[axis]) for axis in np.argsort(orientation[:, 0]))


def _centre(shape: tuple[int, ...], masks: Masks) -> tuple[int, ...] | None:
    union = np.zeros(shape, bool)
    for mask in masks.values():
        union |= mask
    if not union.any():
        return None
    profiles = [union.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    return tuple(round(float(np.average(np.arange(len(p)), weights=p))) for p in profiles)


def _planes(shape: tuple[int, ...], centre: tuple[int, ...], spacing_mm: Sequence[float]) -> tuple[_Plane, ...]:
    width, depth, height = (n * float(s) for n, s in zip(shape, spacing_mm, strict=True))
    return (
        _Plane("axial", 2, centre[2], width, depth),
        _Plane("coronal", 1, centre[1], width, height),
        _Plane("sagittal", 0, centre[0], depth, height),
    )


def _figure(planes: Sequence[_Plane], legend_rows: int) -> tuple[Figure, npt.NDArray[Any]]:
    """An empty figure with a row a plane, in proportion, and two columns."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heights = [plane.height_mm / max(p.width_mm for p in planes) for plane in planes]
    inches = (_WIDTH_INCHES, sum(heights) * _WIDTH_INCHES / 2 + 0.7 + 0.28 * legend_rows)
    figure = Figure(figsize=inches, dpi=_DOTS_PER_INCH, facecolor=_BACKGROUND, layout="constrained")
    FigureCanvasAgg(figure)
    grid: npt.NDArray[Any] = figure.subplots(3, 2, gridspec_kw={"height_ratios": heights})
    for axes, plane in zip(grid[:, 0], planes, strict=True):
        axes.set_ylabel(f"{plane.name}, slice {plane.index}", color=_TEXT, fontsize=9)
    for axes, column in zip(grid[0], ("reference", "prediction"), strict=True):
        axes.set_title(column, color=_TEXT, fontsize=11)
    return figure, grid


def _draw_image(axes: Axes, image: npt.NDArray[Any], plane: _Plane, window: tuple[float, float]) -> None:
    axes.imshow(
        plane.cut(image), cmap="gray", vmin=window[0], vmax=window[1], extent=plane.box, interpolation="bilinear"
    )
    axes.set(xticks=[], yticks=[], facecolor=_BACKGROUND)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_masks(axes: Axes, masks: Masks, plane: _Plane, colours: Mapping[str, str]) -> None:
    """Fills and outlines the structures of one slice."""
    from matplotlib.colors import to_rgba

    for name, mask in masks.items():
        section = plane.cut(mask)
        if not section.any():
            continue
        fill = np.zeros((*section.shape, 4))
        fill[section] = to_rgba(colours[name], 0.35)
        axes.imshow(fill, extent=plane.box, interpolation="nearest")
        # a rim of background closes the outlines of structures that reach the border
        rows, columns = (np.arange(-1, n + 1) + 0.5 for n in section.shape)
        axes.contour(
            columns * plane.width_mm / section.shape[1],
            plane.height_mm - rows * plane.height_mm / section.shape[0],
            np.pad(section, 1).astype(float),
            [0.5],
            colors=[colours[name]],
            linewidths=1.1,
        )
    axes.set(xlim=plane.box[:2], ylim=plane.box[2:], aspect="equal")


def _legend(figure: Figure, colours: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    if not colours:
        return
    patches = [Patch(facecolor=colour, edgecolor=colour, label=name) for name, colour in colours.items()]
    figure.legend(
        handles=patches,
        loc="outside lower center",
        ncols=min(_LEGEND_COLUMNS, len(patches)),
        frameon=False,
        labelcolor=_TEXT,
        fontsize=9,
    )
