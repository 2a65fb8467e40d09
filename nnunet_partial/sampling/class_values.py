"""Which label values stand for a class when a patch is to be centred on it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nnunet_partial.labels import PRESENT, UNKNOWN, PartialLabels

__all__ = ["class_values"]


def class_values(labels: PartialLabels) -> npt.NDArray[np.bool_]:
    """Whether voxels of a value are taken for voxels of a class: (S, V, C).

    They are where the class is present at the value. A value that marks a structure, but for which no class is
    sure, is taken for every class that it could be: a source of kidneys without sides takes part in the drawing of
    both kidneys. Where some class is sure, the others are not taken: the liver of a source that does not label
    tumours is drawn for the liver, and not for the tumour that may lie in it.

    All of this holds axis by axis: a value that marks a structure on one axis says nothing of the classes of another
    axis on which it could be background.

    Args:
        labels: The label model.
    """
    space = labels.space
    axes = list(space.class_axis.values())
    backgrounds = [space.atoms.index(space.background_of(axis)) for axis in axes]
    structure = ~labels.possible[:, :, backgrounds]
    present = labels.states == PRESENT
    same_axis = np.array([[a == b for b in axes] for a in axes], np.int64).reshape(len(axes), len(axes))
    some_class_sure = present.astype(np.int64) @ same_axis > 0
    return np.asarray(present | (structure & ~some_class_sure & (labels.states == UNKNOWN)), bool)
