"""Atoms, axes and classes: the names of what a voxel can be, and of what the network shall find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nnunet_partial.errors import LabelError

__all__ = ["BACKGROUND", "DEFAULT_AXIS", "LabelSpace", "axis_background", "supersets_first"]

BACKGROUND = "background"
_RESERVED = (BACKGROUND, "ignore")  # nnU-Net gives these label names a meaning of its own
DEFAULT_AXIS = "anatomy"


def axis_background(axis: str) -> str:
    """Name of an axis's background atom: 'background' on the default axis, 'AXIS.background' elsewhere."""
    return BACKGROUND if axis == DEFAULT_AXIS else f"{axis}.{BACKGROUND}"


def supersets_first(classes: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """Orders classes so that none stands before a class that contains it; otherwise the order is kept.

    nnU-Net paints region classes in their order into one label map, later over earlier, so an organ must come
    before the tumour inside it.
    """
    remaining = dict(classes)
    ordered: dict[str, frozenset[str]] = {}
    while remaining:
        for name, atoms in remaining.items():
            if not any(atoms < other for other in remaining.values()):
                ordered[name] = remaining.pop(name)
                break
    return ordered


@dataclass(frozen=True)
class LabelSpace:
    """What a voxel can be (atoms on axes) and what is asked for (classes).

    On every axis each voxel is exactly one atom; the first atom of an axis is its background. Classes are sets of
    atoms of one axis and may overlap. One axis is the usual case; further axes hold structures whose protocols
    must not be mixed (MultiTalent: one axis a source).

    Attributes:
        axes: Axis name to its atoms, background first. Atom names are unique over all axes.
        classes: Class name to its atoms, in the order of the network's output channels, supersets first.
    """

    axes: Mapping[str, tuple[str, ...]]
    classes: Mapping[str, frozenset[str]]

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for axis, atoms in self.axes.items():
            if not atoms:
                raise LabelError(f"axis '{axis}' has no atoms; it needs at least its background")
            for atom in atoms:
                if atom in seen:
                    raise LabelError(f"atom '{atom}' stands on axis '{seen[atom]}' and again on '{axis}'")
                seen[atom] = axis
        for name, atoms_of_class in self.classes.items():
            self._check_class(name, atoms_of_class, seen)
        self._check_order()

    def _check_class(self, name: str, atoms: frozenset[str], axis_of: Mapping[str, str]) -> None:
        if name in _RESERVED:
            raise LabelError(f"a class cannot be called '{name}': nnU-Net uses that name itself")
        if not atoms:
            raise LabelError(f"class '{name}' has no atoms")
        unknown = sorted(atoms - axis_of.keys())
        if unknown:
            raise LabelError(f"class '{name}' names unknown atoms {unknown}; known are {sorted(axis_of)}")
        axes = sorted({axis_of[atom] for atom in atoms})
        if len(axes) > 1:
            raise LabelError(f"class '{name}' mixes atoms of the axes {axes}; a class lies on one axis")
        if self.axes[axes[0]][0] in atoms:
            raise LabelError(f"class '{name}' contains the background of axis '{axes[0]}'")

    def _check_order(self) -> None:
        names = list(self.classes)
        for position, name in enumerate(names):
            for later in names[position + 1 :]:
                if self.classes[name] == self.classes[later]:
                    raise LabelError(
                        f"classes '{name}' and '{later}' cannot be told apart: both are {sorted(self.classes[name])}"
                    )
                if self.classes[name] < self.classes[later]:
                    raise LabelError(f"class '{later}' contains '{name}' and must stand before it")

    @cached_property
    def atoms(self) -> tuple[str, ...]:
        """All atoms, axis by axis: the columns of the possible-atoms table."""
        return tuple(atom for atoms in self.axes.values() for atom in atoms)

    @cached_property
    def axis_of(self) -> dict[str, str]:
        """Atom name to axis name."""
        return {atom: axis for axis, atoms in self.axes.items() for atom in atoms}

    @cached_property
    def class_axis(self) -> dict[str, str]:
        """Class name to axis name."""
        return {name: self.axis_of[next(iter(atoms))] for name, atoms in self.classes.items()}

    @cached_property
    def everything(self) -> frozenset[str]:
        """All atoms: what a voxel nobody looked at could be."""
        return frozenset(self.atoms)

    @cached_property
    def class_matrix(self) -> npt.NDArray[np.bool_]:
        """(C, A): atom belongs to class."""
        return np.array([[a in members for a in self.atoms] for members in self.classes.values()], bool).reshape(
            len(self.classes), len(self.atoms)
        )

    @cached_property
    def axis_matrix(self) -> npt.NDArray[np.bool_]:
        """(C, A): atom lies on the axis of the class."""
        return np.array(
            [[self.axis_of[a] == self.class_axis[c] for a in self.atoms] for c in self.classes], bool
        ).reshape(len(self.classes), len(self.atoms))

    @cached_property
    def exclusive(self) -> npt.NDArray[np.bool_]:
        """(C, C): the classes lie on one axis and have no atom in common, so that no voxel is both."""
        axes = np.array(list(self.class_axis.values()))
        overlap = (self.class_matrix[:, None] & self.class_matrix).any(-1)
        return np.asarray((axes[:, None] == axes) & ~overlap)

    def background_of(self, axis: str) -> str:
        """The background atom of an axis."""
        return self.axes[axis][0]
