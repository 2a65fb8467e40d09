"""What a voxel outside of the image counts as."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nnunet_partial.labels import PartialLabels

__all__ = ["outside_values"]


def outside_values(labels: PartialLabels) -> npt.NDArray[np.int64]:
    """The label value that -1 becomes in the cases of each annotation set: (S,).

    nnU-Net writes -1 outside of the nonzero region of an image, and where a patch reaches beyond the image or is
    rotated out of it. Stock nnU-Net makes 0 of it, and so does this, but for sets with another value that could be
    everything, such as nnU-Net's ignore label: where such cases leave regions out, 0 says that somebody looked, and
    nobody looked outside of the image.

    Args:
        labels: The label model.
    """
    everything = labels.space.everything
    vague = [[value for value, atoms in s.possible.items() if atoms == everything] for s in labels.sets.values()]
    return np.array([min(values, default=0) for values in vague], np.int64)
