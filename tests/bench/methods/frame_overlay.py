"""A picture of a frame: as it is, with the reference, and with the prediction."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from nnunet_partial.atomic import atomic_path

__all__ = ["save_frame_overlay"]

# Set2 of ColorBrewer
_COLOURS = ("#66C2A5", "#FC8D62", "#8DA0CB", "#E78AC3", "#A6D854", "#FFD92F")
_WIDTH_INCHES, _DOTS_PER_INCH = 10.0, 150

Masks = Mapping[str, NDArray[np.bool_]]


def _draw(axes: Axes, picture: NDArray[np.float32], masks: Masks, title: str) -> None:
    """A frame with its structures filled and outlined; later ones lie over earlier ones."""
    axes.imshow(picture)
    for (name, mask), colour in zip(masks.items(), cycle(_COLOURS), strict=False):
        if not mask.any():
            continue
        fill = np.zeros((*mask.shape, 4))
        fill[mask] = to_rgba(colour, 0.5)
        axes.imshow(fill)
        # a rim of background closes outlines at the border
        axes.contour(
            np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1), np.pad(mask, 1), [0.5], colors=[colour]
        )
    axes.set(xticks=[], yticks=[], xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))
    axes.set_title(title, fontsize=10)


def save_frame_overlay(
    path: Path, image: NDArray[np.float32], reference: Masks, prediction: Masks, *, title: str = ""
) -> None:
    """Writes a PNG of a frame, beside it the frame with the reference and with the prediction.

    Args:
        path: Target, .png.
        image: Red, green and blue in [0, 1], (3, H, W); values beyond are cut.
        reference: Class to its mask, (H, W).
        prediction: Class to its mask, (H, W); the same classes.
        title: Line above the picture.
    """
    picture = np.clip(image, 0, 1).transpose(1, 2, 0)
    height = _WIDTH_INCHES / 3 * picture.shape[0] / picture.shape[1] + 0.9
    figure = Figure(figsize=(_WIDTH_INCHES, height), dpi=_DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    shown: dict[str, Masks] = {"frame": {}, "reference": reference, "prediction": prediction}
    for axes, (name, masks) in zip(figure.subplots(1, 3), shown.items(), strict=True):
        _draw(axes, picture, masks, name)
    patches = [Patch(color=colour, label=name) for name, colour in zip(reference, cycle(_COLOURS), strict=False)]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
