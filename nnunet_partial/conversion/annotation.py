"""The label model of a converted dataset: its final label values, and what each of them could be in which case."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_partial.conversion.converter import IGNORE, Converter
from nnunet_partial.conversion.label_reading import Overlap
from nnunet_partial.conversion.plan import IGNORE_CODE, Plan, PlannedCase, set_name, with_sides
from nnunet_partial.conversion.structures import PAIRED_ORGANS
from nnunet_partial.errors import LabelError
from nnunet_partial.labels.partial_labels import PartialLabels
from nnunet_partial.labels.sides import Sides, sided_names
from nnunet_partial.labels.space import BACKGROUND, DEFAULT_AXIS, LabelSpace, supersets_first
from nnunet_partial.labels.table import AnnotationSet

__all__ = ["Values", "label_model", "settle_values"]

_LEFT_RIGHT = 2
"""The axis, of (z, y, x), along which left and right lie after nnU-Net's reorienting reader; of pictures, x."""


@dataclass(frozen=True)
class Values:
    """The label values of a dataset.

    Attributes:
        names: Labels; the first has value 1.
        overlaps: Structures that share voxels; their values follow.
        has_ignore: Whether the last value is nnU-Net's 'ignore'.
    """

    names: tuple[str, ...]
    overlaps: tuple[Overlap, ...]
    has_ignore: bool

    @property
    def by_name(self) -> dict[str, int]:
        """nnU-Net's `labels`."""
        last = [IGNORE] if self.has_ignore else []
        overlaps = ["+".join(overlap) for overlap in self.overlaps]
        return {name: value for value, name in enumerate([BACKGROUND, *self.names, *overlaps, *last])}

    @property
    def ignore(self) -> int | None:
        """The value of 'ignore'."""
        return len(self.names) + len(self.overlaps) + 1 if self.has_ignore else None

    def final(self, record: Mapping[str, Any]) -> dict[int, int]:
        """Value in the staged label map of a case to the value in the dataset."""
        lookup = {value: value for value in range(len(self.names) + 1)}
        first = len(self.names) + 1
        for value, overlap in record["overlaps"].items():
            lookup[int(value)] = first + self.overlaps.index(tuple(overlap["structures"]))
        if self.ignore is not None:
            lookup[IGNORE_CODE] = self.ignore
        return lookup


def settle_values(names: tuple[str, ...], records: Iterable[Mapping[str, Any]]) -> Values:
    """Numbers the overlaps that occur in any case, the same way whatever the order of the cases."""
    records = list(records)
    found = {tuple(overlap["structures"]) for record in records for overlap in record["overlaps"].values()}
    order = sorted(found, key=lambda overlap: (len(overlap), [names.index(name) for name in overlap]))
    return Values(names, tuple(order), any(record["ignore"] for record in records))


def label_model(
    plan: Plan, values: Values, cases: Sequence[PlannedCase], records: Sequence[Mapping[str, Any]]
) -> PartialLabels:
    """The label model of some of the cases.

    A label could be any of the tissues of its structure. Where several masks share voxels, these could be what the
    structures have in common, or else any of their tissues. Value 0 could be anything but what was annotated.

    Args:
        plan: The conversion.
        values: Final label values.
        cases: Cases that have a label map.
        records: Their records.

    Raises:
        LabelError: The converter's table contradicts itself.
    """
    converter = plan.converter
    settled = [_settled(case, record, plan) for case, record in zip(cases, records, strict=True)]
    absent = {structure for case in settled for structure in case.absent}
    atoms = dict.fromkeys(
        [BACKGROUND, *(t for name in (*values.names, *sorted(absent)) for t in sorted(converter.tissues(name)))]
    )
    space = LabelSpace({DEFAULT_AXIS: tuple(atoms)}, _classes(plan))
    sets: dict[str, AnnotationSet] = {}
    made: dict[tuple[Any, ...], AnnotationSet] = {}
    for case in settled:
        key = (case.set_name, case.annotated, case.absent)
        if key not in made:
            made[key] = _annotation_set(case, converter, values, space.everything)
        if sets.setdefault(str(case.set_name), made[key]) != made[key]:
            raise LabelError(
                f"converter '{converter.name}': two annotation sets are called '{case.set_name}'; rename one"
            )
    model = PartialLabels(
        space,
        sets,
        {case.case.id: str(case.set_name) for case in settled},
        {case.case.id: case.case.patient for case in settled if case.case.patient is not None},
    )
    return _with_annotated_classes(model)


def _settled(planned: PlannedCase, record: Mapping[str, Any], plan: Plan) -> PlannedCase:
    """The case with its annotation set, which the label map may have told only now."""
    if planned.annotated is not None:
        return planned
    occurring = {plan.sided.get(name, name) for name in record["occurring"]}
    names = tuple(name for name in plan.names if name not in plan.sided)
    annotated = tuple(name for name in names if name in occurring)
    return PlannedCase(planned.case, with_sides(annotated, plan.sided), planned.absent, set_name(annotated, names))


def _classes(plan: Plan) -> dict[str, frozenset[str]]:
    """The converter's classes whose tissues are labelled; each label that lies in none of them is one, too.

    Where sides are split, the left and the right one of a class are classes as well.
    """
    converter = plan.converter
    labelled = frozenset[str]().union(*(converter.tissues(name) for name in plan.names))
    found = {name: converter.tissues(name) for name in converter.classes if converter.tissues(name) <= labelled}
    for name in plan.names:
        if not any(converter.tissues(name) <= tissues for tissues in found.values()):
            found[name] = converter.tissues(name)
    split = frozenset[str]().union(*(converter.tissues(name) for name in plan.sided))
    for organ in PAIRED_ORGANS:
        for name, pair in organ.structures.items():
            if name in found and found[name] <= split:
                found |= {side: converter.tissues(side) for side in pair}
    return supersets_first(found)


def _annotation_set(
    planned: PlannedCase, converter: Converter, values: Values, everything: frozenset[str]
) -> AnnotationSet:
    annotated = planned.annotated or ()
    by_name = {name: value for value, name in enumerate(values.names, start=1)}
    tissues = {name: converter.tissues(name) for name in annotated}
    possible = {0: everything - frozenset[str]().union(*tissues.values())}
    possible |= {by_name[name]: tissues[name] for name in annotated}
    for value, overlap in enumerate(values.overlaps, start=len(values.names) + 1):
        if set(overlap) <= set(annotated):
            parts = [tissues[name] for name in overlap]
            possible[value] = frozenset.intersection(*parts) or frozenset.union(*parts)
    absent = frozenset[str]().union(*(converter.tissues(name) for name in planned.absent))
    possible = {value: atoms - absent for value, atoms in possible.items()}
    for value, atoms in possible.items():
        if not atoms:
            raise LabelError(f"converter '{converter.name}': value {value} could be nothing but what is 'absent'")
    if values.ignore is not None:
        possible[values.ignore] = everything
    return AnnotationSet(str(planned.set_name), converter.name, converter.modality, possible)


def _with_annotated_classes(model: PartialLabels) -> PartialLabels:
    """Leaves out classes that no case annotates, e.g. where only part of a dataset was downloaded."""
    annotated = np.any(model.annotated, axis=0)
    classes = {
        name: atoms for (name, atoms), known in zip(model.space.classes.items(), annotated, strict=True) if known
    }
    if not classes:
        raise LabelError("no class is annotated in any case, so there is nothing to learn; convert labelled cases, too")
    space = LabelSpace(model.space.axes, classes)
    sided = sided_names(classes)
    return PartialLabels(space, model.sets, model.cases, model.patients, Sides(sided, (_LEFT_RIGHT,) if sided else ()))
