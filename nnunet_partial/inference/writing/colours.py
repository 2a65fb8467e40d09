"""Colours of classes: always the same for the same names, and far from each other to the eye."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["Colour", "class_colours"]

Colour = tuple[float, float, float]
"""Red, green and blue, 0 to 1."""

_SMALLEST_PALETTE = 64
_STEPS = 12
_LIGHTNESS = (35.0, 90.0)
"""Range in which colours are seen on black, and on white."""
_WHITE = np.array([0.95047, 1.0, 1.08883])
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def class_colours(names: Iterable[str]) -> dict[str, Colour]:
    """Chooses a colour for each class.

    The name decides on a place in a palette; where two names meet, the one later in the alphabet takes the next free
    place. So a set of names always gets the same colours, no two alike, and a class mostly keeps its colour from set
    to set.

    Args:
        names: Class names; order and repetition do not matter.

    Returns:
        Name to colour, in alphabetical order.
    """
    unique = sorted(set(names))
    size = _SMALLEST_PALETTE
    while size < len(unique):
        size *= 2
    palette = _palette(size)
    size = len(palette)
    colours: dict[str, Colour] = {}
    taken: set[int] = set()
    for name in unique:
        place = int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:8], "big") % size
        while place in taken and len(taken) < size:
            place = (place + 1) % size
        taken.add(place)
        colours[name] = palette[place]
    return colours


@lru_cache(maxsize=4)
def _palette(size: int) -> tuple[Colour, ...]:
    """Takes, again and again, the colour that is farthest from all those taken before, in CIELAB."""
    levels = np.linspace(0, 1, _STEPS)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _lab(colours)
    visible = (lab[:, 0] >= _LIGHTNESS[0]) & (lab[:, 0] <= _LIGHTNESS[1])
    colours, lab = colours[visible], lab[visible]
    chosen = [int(np.argmax(np.hypot(lab[:, 1], lab[:, 2])))]
    distance = np.full(len(lab), np.inf)
    while len(chosen) < min(size, len(lab)):
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(distance)))
    return tuple((float(r), float(g), float(b)) for r, g, b in colours[chosen])


def _lab(colours: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """SRGB to CIELAB under D65 (IEC 61966-2-1, CIE 15)."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    ratio = linear @ _TO_XYZ.T / _WHITE
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
