"""One label map of the outputs of one model a class (Jenke et al., IJCARS 2024, section 2.1)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_partial.labels import LabelSpace

__all__ = ["THRESHOLD", "Probabilities", "combine_one_model_a_class"]

THRESHOLD = 0.5
"""A class is found where its probability is above."""

Probabilities = npt.NDArray[np.floating[Any]]
_Voxels = npt.NDArray[np.intp]


def combine_one_model_a_class(probabilities: Iterable[Probabilities], space: LabelSpace) -> npt.NDArray[Any]:
    """One label map of the outputs of one model a class.

    Jenke et al. 2024, section 2.1, take the class of the highest sigmoid output, and background where that is not
    above one half. Here classes may overlap, so only classes that exclude each other (no common atom, same axis)
    compete: a class is given where its probability is above one half and no class that excludes it has a higher one;
    of equal ones the first wins. Where all classes of an axis exclude each other this is the paper's rule.

    The given classes are painted in their order, later over earlier, as in every label map of sigmoid heads here;
    `region_labels` tells which values make up a class. So a tumour whose liver was not given is read as liver, too.

    Args:
        probabilities: (C, *S), or one array (*S) after the other, in the order of the classes. Only one array is
            held whole; of the others only the voxels above one half are kept.
        space: The label space.

    Returns:
        (*S) uint8 or, from 255 classes on, uint16: 0 background, c + 1 for class c.

    Raises:
        ValueError: There is not one array a class, or their shapes differ.
    """
    shapes: set[tuple[int, ...]] = set()
    above: list[_Voxels] = []
    values: list[Probabilities] = []
    for array in probabilities:
        shapes.add(array.shape)
        flat = array.ravel()
        above.append(np.flatnonzero(flat > THRESHOLD))
        values.append(flat[above[-1]])
        del array, flat  # the next one takes as much memory
    if len(above) != len(space.classes) or len(shapes) != 1:
        raise ValueError(f"expected {len(space.classes)} arrays of one shape, found {len(above)} of {sorted(shapes)}")
    (shape,) = shapes
    painted = np.zeros(math.prod(shape), np.uint8 if len(space.classes) < 255 else np.uint16)
    rivals = space.exclusive | np.eye(len(above), dtype=bool)
    for index, voxels in enumerate(_given(above, values, painted.size, rivals)):
        painted[voxels] = index + 1
    return painted.reshape(shape)


def _given(
    above: list[_Voxels], values: list[Probabilities], size: int, rivals: npt.NDArray[np.bool_]
) -> list[_Voxels]:
    """The voxels where each class is given.

    Args:
        above: Flat indices of the voxels above one half, of each class.
        values: Its probabilities there.
        size: Voxels of the volume.
        rivals: (C, C): class d is class c itself or excludes it.
    """
    given = list(above)
    # classes with the same rivals share one search for the strongest: with exclusive classes one does for all
    for members in np.unique(rivals, axis=0):
        highest = np.full(size, THRESHOLD, np.result_type(np.float32, *values))
        strongest = np.zeros(size, np.uint16)
        for index in np.flatnonzero(members):
            better = values[index] > highest[above[index]]
            voxels = above[index][better]
            highest[voxels] = values[index][better]
            strongest[voxels] = index + 1
        for index in np.flatnonzero((rivals == members).all(1)):
            given[index] = above[index][strongest[above[index]] == index + 1]
    return given
