"""Left and right: which classes have a side, and along which image axis mirroring would swap them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Sides", "preprocessed_axes", "sided_names"]

_SIDE_WORD = re.compile(r"(?:^|[^a-z])(?:left|right|l|r)(?:$|[^a-z0-9])")
_CAMEL_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True)
class Sides:
    """Classes with a side, and the image axes along which left and right lie.

    Attributes:
        classes: Names of classes that mirroring would confuse.
        axes: Array axes in nnU-Net's order for raw images, (z, y, x) = (0, 1, 2), along which left and right lie.
    """

    classes: tuple[str, ...] = ()
    axes: tuple[int, ...] = ()


def sided_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names with the word left, right, l or r in them: 'kidney_left', 'RightLung', 'lung R', not 'liver'."""
    return tuple(name for name in names if _SIDE_WORD.search(_CAMEL_CASE.sub("_", name).lower()))


def preprocessed_axes(raw_axes: Iterable[int], transpose_forward: Sequence[int], dimensions: int) -> tuple[int, ...]:
    """Translates raw image axes to spatial axes of a training patch.

    Args:
        raw_axes: Array axes in nnU-Net's (z, y, x) order.
        transpose_forward: The plan's axis permutation: preprocessed axis j is raw axis `transpose_forward[j]`.
        dimensions: 2 or 3; 2D patches lack the first preprocessed axis.

    Returns:
        Axes of the patch, ascending; an axis that a 2D patch does not have is left out.
    """
    axes = sorted(list(transpose_forward).index(axis) - (3 - dimensions) for axis in raw_axes)
    return tuple(axis for axis in axes if axis >= 0)
