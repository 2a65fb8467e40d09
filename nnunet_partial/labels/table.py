"""The table of possible atoms, and all that follows from it: states, annotated classes, foreground values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnunet_partial.errors import LabelError
from nnunet_partial.labels.space import LabelSpace

__all__ = [
    "ABSENT",
    "PRESENT",
    "UNKNOWN",
    "AnnotationSet",
    "annotated_classes",
    "class_states",
    "foreground_values",
    "possible_atoms",
]

PRESENT, ABSENT, UNKNOWN = 1, 0, -1


@dataclass(frozen=True)
class AnnotationSet:
    """What the label values of some cases say.

    Attributes:
        name: Its name; cases refer to it.
        source: The dataset the cases came from.
        modality: 'CT', 'MR', ...
        possible: Label value to the atoms a voxel of that value could be. On every axis at least one.
    """

    name: str
    source: str
    modality: str
    possible: Mapping[int, frozenset[str]]

    def check(self, space: LabelSpace) -> None:
        """Raises LabelError where the set does not fit the label space."""
        if 0 not in self.possible:
            raise LabelError(f"annotation set '{self.name}' does not say what value 0 could be")
        for value, atoms in self.possible.items():
            where = f"annotation set '{self.name}', value {value}"
            if value < 0:
                raise LabelError(f"{where}: label values start at 0")
            unknown = sorted(atoms - space.everything)
            if unknown:
                raise LabelError(f"{where}: unknown atoms {unknown}; known are {sorted(space.everything)}")
            for axis, members in space.axes.items():
                if not atoms & set(members):
                    raise LabelError(f"{where}: no atom of axis '{axis}' is possible; every voxel must be something")


def possible_atoms(space: LabelSpace, sets: Sequence[AnnotationSet]) -> npt.NDArray[np.bool_]:
    """The table: (S, V, A), which atoms a voxel of a value could be, set by set.

    V is one more than the largest value of any set; a value that a set does not list says nothing there.
    """
    values = 1 + max((value for s in sets for value in s.possible), default=0)
    table = np.ones((len(sets), values, len(space.atoms)), bool)
    for row, annotation_set in zip(table, sets, strict=True):
        for value, atoms in annotation_set.possible.items():
            row[value] = [atom in atoms for atom in space.atoms]
    return table


def class_states(possible: npt.NDArray[np.bool_], space: LabelSpace) -> npt.NDArray[np.int8]:
    """States of the classes for sigmoid heads: (S, V, C) of 1 present, 0 absent, -1 unknown.

    A class is present where every possible atom (on its axis) belongs to it, absent where none does. That a voxel
    of one class makes every other class of the axis absent (implicit labels, Jenke et al.) follows.
    """
    on_axis = possible[:, :, None, :] & space.axis_matrix
    inside = (on_axis & space.class_matrix).any(-1)
    outside = (on_axis & ~space.class_matrix).any(-1)
    states = np.full(inside.shape, UNKNOWN, np.int8)
    states[inside & ~outside] = PRESENT
    states[~inside] = ABSENT
    return states


def annotated_classes(possible: npt.NDArray[np.bool_], space: LabelSpace) -> npt.NDArray[np.bool_]:
    """Which classes each annotation set annotates: (S, C).

    A class is annotated where somebody looked for it: some value that marks no structure says 'absent', and
    either some value says 'present', or value 0 says 'absent' and no value leaves it open (declared absent: a true
    negative). Voxels that could be anything (nobody looked) count for neither. A merged-kidney protocol annotates
    neither side; a liver-only dataset does not annotate the spleen, though its liver voxels are known to be no spleen,
    nor does one of a structure that is no class, but known to be neither.
    """
    states = class_states(possible, space)
    on_axis = space.axis_matrix
    looked_at = np.asarray(~(possible[:, :, None, :] | ~on_axis).all(-1))
    backgrounds = np.array(
        [[atom == space.background_of(space.class_axis[name]) for atom in space.atoms] for name in space.classes],
        bool,
    ).reshape(len(space.classes), len(space.atoms))
    maybe_background = (possible[:, :, None, :] & backgrounds).any(-1)
    # a voxel of some structure is background on every other axis, whether or not anybody looked for more there
    maybe_background &= ~foreground_values(possible, space)[:, :, None]
    says_absent = (looked_at & maybe_background & (states == ABSENT)).any(1)
    says_present = (states == PRESENT).any(1)
    open_somewhere = (looked_at & (states == UNKNOWN)).any(1)
    declared_absent = looked_at[:, 0] & (states[:, 0] == ABSENT) & ~open_somewhere
    return np.asarray(says_absent & (says_present | declared_absent), bool)


def foreground_values(possible: npt.NDArray[np.bool_], space: LabelSpace) -> npt.NDArray[np.bool_]:
    """Values that mark a structure: (S, V), true where on some axis background is not possible."""
    columns = [space.atoms.index(space.background_of(axis)) for axis in space.axes]
    return np.asarray((~possible[:, :, columns]).any(-1), bool)
