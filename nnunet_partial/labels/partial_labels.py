"""`PartialLabels`: everything a partly labelled dataset declares, with the arrays derived from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import permutations

import numpy as np
import numpy.typing as npt

from nnunet_partial.errors import LabelError
from nnunet_partial.labels.sides import Sides
from nnunet_partial.labels.space import LabelSpace
from nnunet_partial.labels.table import (
    PRESENT,
    UNKNOWN,
    AnnotationSet,
    annotated_classes,
    class_states,
    foreground_values,
    possible_atoms,
)
from nnunet_partial.normalisation import Rule

__all__ = ["PartialLabels"]


@dataclass(frozen=True)
class PartialLabels:
    """The label model of one dataset.

    Attributes:
        space: Atoms, axes and classes.
        sets: Annotation sets by name.
        cases: Case identifier to the name of its annotation set. A case without an entry is an error.
        patients: Case identifier to patient, where known; other cases are their own patient.
        sides: Classes with a side and the image axes it lies along.
        normalisation: Modality to the rule that its images were normalised by; empty where that is left to nnU-Net.
    """

    space: LabelSpace
    sets: Mapping[str, AnnotationSet]
    cases: Mapping[str, str]
    patients: Mapping[str, str] = field(default_factory=dict)
    sides: Sides = field(default_factory=Sides)
    normalisation: Mapping[str, Rule] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for annotation_set in self.sets.values():
            annotation_set.check(self.space)
        for case, name in self.cases.items():
            if name not in self.sets:
                raise LabelError(
                    f"case '{case}' names annotation set '{name}', which is not one of {sorted(self.sets)}"
                )
        unknown = sorted(set(self.sides.classes) - set(self.space.classes))
        if unknown:
            raise LabelError(f"sides: {unknown} are no classes; classes are {list(self.space.classes)}")
        if any(axis not in (0, 1, 2) for axis in self.sides.axes):
            raise LabelError(f"sides: image axes are 0, 1 or 2 (z, y, x), found {list(self.sides.axes)}")
        without_rule = sorted({s.modality for s in self.sets.values()} - set(self.normalisation))
        if self.normalisation and without_rule:
            raise LabelError(f"normalisation: no rule for {without_rule}; rules are for {sorted(self.normalisation)}")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes in channel order."""
        return tuple(self.space.classes)

    @cached_property
    def _row(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.sets)}

    @cached_property
    def possible(self) -> npt.NDArray[np.bool_]:
        """(S, V, A): the possible atoms of every value of every set."""
        return possible_atoms(self.space, list(self.sets.values()))

    @cached_property
    def states(self) -> npt.NDArray[np.int8]:
        """(S, V, C): 1 present, 0 absent, -1 unknown."""
        return class_states(self.possible, self.space)

    @cached_property
    def annotated(self) -> npt.NDArray[np.bool_]:
        """(S, C): the set annotates the class."""
        return annotated_classes(self.possible, self.space)

    @cached_property
    def foreground(self) -> npt.NDArray[np.bool_]:
        """(S, V): the value marks a structure."""
        return foreground_values(self.possible, self.space)

    def set_of(self, case: str) -> AnnotationSet:
        """The annotation set of a case.

        Raises:
            LabelError: The case has none; what was annotated is declared, never guessed.
        """
        if case not in self.cases:
            raise LabelError(
                f"case '{case}' has no annotation set; add it to partial_labels.cases in dataset.json "
                f"(sets: {sorted(self.sets)})"
            )
        return self.sets[self.cases[case]]

    def row_of(self, case: str) -> int:
        """Row of a case's annotation set in the tables."""
        return self._row[self.set_of(case).name]

    def source_of(self, case: str) -> str:
        """The source dataset of a case."""
        return self.set_of(case).source

    def patient_of(self, case: str) -> str:
        """The patient of a case; the case itself where unknown."""
        return self.patients.get(case, case)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the source datasets, in the order of the sets."""
        return tuple(dict.fromkeys(s.source for s in self.sets.values()))

    def is_annotated(self, case: str) -> bool:
        """Whether some class is annotated in the case, so that a prediction can be scored."""
        return bool(self.annotated[self.row_of(case)].any())

    def is_informative(self, case: str) -> bool:
        """Whether anything is known of some class in the case, so that there is something to learn.

        Merged kidneys annotate neither side, but tell where no kidney is.
        """
        return bool((self.states[self.row_of(case)] != UNKNOWN).any())

    def problems(self) -> list[str]:
        """Why a network could not be trained from these labels: classes never seen, or never told apart."""
        used = [self._row[name] for name in dict.fromkeys(self.cases.values())]
        states = self.states[used].reshape(-1, len(self.class_names))
        found = []
        columns: dict[bytes, str] = {}
        for index, (name, column) in enumerate(zip(self.class_names, states.T, strict=True)):
            if not (column == PRESENT).any():
                found.append(
                    f"class '{name}' is never present: no source has a label that lies inside "
                    f"{sorted(self.space.classes[name])}; remove the class or map a label to it"
                )
                continue
            if not self.annotated[used, index].any():
                found.append(
                    f"class '{name}' is annotated by no source: labels lie inside it, but no source labels all of "
                    f"{sorted(self.space.classes[name])}, so nothing says where it ends; remove the class, or declare "
                    "'absent' what a source cannot contain"
                )
            twin = columns.setdefault(column.tobytes(), name)
            if twin != name:
                found.append(
                    f"classes '{twin}' and '{name}' cannot be told apart: every label says the same of both; "
                    "remove one of them"
                )
        return found

    def notes(self, value_names: Mapping[int, str]) -> list[str]:
        """What is allowed, but often meant otherwise: a label that could also be what another label of its set marks.

        Args:
            value_names: Value to its name.
        """
        found = []
        for name in dict.fromkeys(self.cases.values()):
            marked = {v: atoms for v, atoms in self.sets[name].possible.items() if self.foreground[self._row[name], v]}
            for wide, narrow in permutations(marked, 2):
                if marked[narrow] < marked[wide]:
                    label, part = value_names.get(wide, str(wide)), value_names.get(narrow, str(narrow))
                    found.append(
                        f"annotation set '{name}': '{label}' could also be '{part}', which has a label of its own; "
                        f"so '{part}' stays unknown inside '{label}'. If it is never labelled '{label}' there, give "
                        "that label only the other atoms"
                    )
        return found
