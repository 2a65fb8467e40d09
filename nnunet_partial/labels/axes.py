"""Other label spaces of the same data: protocols kept apart (MultiTalent, Ulrich et al. 2023), classes left out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from nnunet_partial.errors import LabelError
from nnunet_partial.labels.partial_labels import PartialLabels
from nnunet_partial.labels.sides import Sides, sided_names
from nnunet_partial.labels.space import LabelSpace, axis_background, supersets_first
from nnunet_partial.labels.table import PRESENT, AnnotationSet

__all__ = ["keep_apart", "one_axis_per_source", "with_classes"]

Atoms = frozenset[str]


def keep_apart(labels: PartialLabels, source: str, classes: Collection[str] | None = None) -> PartialLabels:
    """Gives a source its own copy of classes whose protocol differs from that of the other sources.

    The source's atoms of these classes are copied to an axis named after the source. On that axis the other
    sources say nothing; on the shared axes the source says nothing any more of the classes kept apart. A class
    `liver` of source `btcv` becomes `btcv.liver`; the shared class goes where no other source annotates it.
    Called again, it moves further classes to the same axis. What follows from the classes that stay shared stays
    known: left kidneys kept apart still follow from shared kidneys and right kidneys.

    Args:
        labels: The label model.
        source: The source.
        classes: Classes to keep apart; None for all that the source annotates.

    Returns:
        The new label model; label values keep their meaning as numbers, so label maps stay as they are.

    Raises:
        LabelError: There is no such source, or it does not annotate one of the classes.
    """
    own_sets = [s for s in labels.sets.values() if s.source == source]
    if not own_sets:
        raise LabelError(f"no annotation set has the source '{source}'; sources are {list(labels.sources)}")
    structures = _structures(labels, own_sets)
    labelled = _labelled(labels, own_sets, structures)
    chosen = set(labelled) if classes is None else set(classes)
    if chosen - set(labelled):
        raise LabelError(
            f"source '{source}' keeps apart {sorted(chosen - set(labelled))}, which it does not label; "
            f"it labels {labelled}"
        )

    space = labels.space
    kept = frozenset[str]().union(*(space.classes[n] for n in chosen))
    merged = [s for s in structures if not any(s <= space.classes[n] for n in labelled)]
    if classes is None:
        kept = kept.union(*structures)
    claims = [space.classes[n] for n in labelled if n not in chosen] + [s for s in merged if not s & kept]
    own_atoms = tuple(a for a in space.atoms if a in kept and any(a in s for s in structures))
    if not own_atoms:
        return labels
    copies = {a: f"{source}.{a}" for a in own_atoms}
    move = _Move(source, copies, space.axes.get(source, (axis_background(source),)), claims, whole=classes is None)
    sets = {name: move.translated(annotation_set, space) for name, annotation_set in labels.sets.items()}
    own_classes = {
        f"{source}.{n}": frozenset(copies[a] for a in space.classes[n] if a in copies)
        for n in space.classes
        if n in chosen
    }
    if classes is None:
        own_classes.update({f"{source}.{_name(s)}": frozenset(copies[a] for a in s) for s in merged})
    all_classes = supersets_first({**space.classes, **_distinct(own_classes)})
    axes = {**space.axes, source: (*move.own_axis, *copies.values())}
    return _without_unseen(labels, LabelSpace(axes, all_classes), sets)


def one_axis_per_source(labels: PartialLabels) -> PartialLabels:
    """MultiTalent's label space: every source keeps all its classes apart, and nothing is shared.

    `C(k) ∩ C(j) = ∅ for k ≠ j` (Ulrich et al. 2023, section 2.1): the same organ of two sources is two classes.
    """
    result = labels
    for source in labels.sources:
        if _structures(result, [s for s in result.sets.values() if s.source == source]):
            result = keep_apart(result, source)
    shared = [n for n, axis in result.space.class_axis.items() if axis not in labels.sources]
    return _without_classes(result, shared) if len(shared) < len(result.class_names) else result


def with_classes(labels: PartialLabels, names: Collection[str]) -> PartialLabels:
    """The same label model with some of its classes only; atoms and label values stay as they are.

    Raises:
        LabelError: There is no class of one of the names.
    """
    unknown = sorted(set(names) - set(labels.class_names))
    if unknown:
        raise LabelError(f"there are no classes {unknown}; classes are {list(labels.class_names)}")
    return _without_classes(labels, [n for n in labels.class_names if n not in names])


def _structures(labels: PartialLabels, sets: list[AnnotationSet]) -> list[Atoms]:
    """Distinct atom sets, axis by axis, of the values that mark a structure; not those on the source's own axis."""
    found: dict[Atoms, None] = {}
    for annotation_set in sets:
        for atoms in annotation_set.possible.values():
            for axis, members in labels.space.axes.items():
                on_axis = atoms & set(members)
                if axis != annotation_set.source and labels.space.background_of(axis) not in on_axis:
                    found[on_axis] = None
    return list(found)


def _labelled(labels: PartialLabels, sets: list[AnnotationSet], structures: list[Atoms]) -> list[str]:
    """Classes that the sets annotate and have a label for."""
    rows = [list(labels.sets).index(s.name) for s in sets]
    return [
        name
        for column, (name, atoms) in enumerate(labels.space.classes.items())
        if labels.annotated[rows, column].any() and any(s <= atoms for s in structures)
    ]


@dataclass(frozen=True)
class _Move:
    """Atoms of a source on their way to its own axis.

    Attributes:
        source: The source.
        copies: Atom to its name on the own axis.
        own_axis: What lies on the own axis already, its background first.
        claims: Atom sets ('the voxel is in this set') that the source is still trusted to tell on the shared axes.
        whole: All classes of the source move.
    """

    source: str
    copies: dict[str, str]
    own_axis: tuple[str, ...]
    claims: list[Atoms]
    whole: bool

    def translated(self, annotation_set: AnnotationSet, space: LabelSpace) -> AnnotationSet:
        """What the values of an annotation set say now."""
        if annotation_set.source != self.source:
            elsewhere = frozenset((*self.own_axis, *self.copies.values()))
            return replace(annotation_set, possible={v: p | elsewhere for v, p in annotation_set.possible.items()})
        never = space.everything.difference(*annotation_set.possible.values())
        claims = self.claims if self.whole or not never else [*self.claims, never]
        axes = tuple(dict.fromkeys(space.axis_of[atom] for atom in self.copies))
        possible = {
            v: _coarsened(space, p - set(self.own_axis), axes, claims) | self._copied(space, p, axes)
            for v, p in annotation_set.possible.items()
        }
        return replace(annotation_set, possible=possible)

    def _copied(self, space: LabelSpace, possible: Atoms, axes: tuple[str, ...]) -> Atoms:
        """The same on the own axis, where whatever does not move is background."""
        background, *already_apart = self.own_axis
        before = possible & set(already_apart)
        if already_apart and background not in possible:
            return before
        on_axes = [possible & set(space.axes[axis]) for axis in axes]
        # a label map holds one label a voxel: where it names a structure, its other axes have none of the source's
        marked = [p for p, axis in zip(on_axes, axes, strict=True) if space.background_of(axis) not in p]
        atoms = frozenset[str]().union(*(marked or on_axes))
        fresh = {self.copies[a] for a in atoms if a in self.copies}
        return before | fresh | ({background} if atoms - self.copies.keys() else frozenset())


def _coarsened(space: LabelSpace, possible: Atoms, axes: tuple[str, ...], claims: list[Atoms]) -> Atoms:
    """What remains known on the axes where only these claims are trusted.

    Atoms that lie in the same claims cannot be told apart: where one is possible, all are.
    """
    result = set(possible)
    for axis in axes:
        members = space.axes[axis]
        signature = {atom: tuple(atom in claim for claim in claims) for atom in members}
        possible_signatures = {signature[atom] for atom in members if atom in possible}
        result.update(atom for atom in members if signature[atom] in possible_signatures)
    return frozenset(result)


def _name(atoms: Atoms) -> str:
    return "+".join(sorted(atoms))


def _distinct(classes: dict[str, Atoms]) -> dict[str, Atoms]:
    """Of classes that name the same atoms keeps the last, narrowest: a source need not label all of the wider."""
    kept: dict[Atoms, str] = {atoms: name for name, atoms in classes.items()}
    return {name: atoms for name, atoms in classes.items() if kept[atoms] == name}


def _without_unseen(labels: PartialLabels, space: LabelSpace, sets: dict[str, AnnotationSet]) -> PartialLabels:
    """Drops the shared classes that the change left without a source."""
    changed = replace(labels, space=space, sets=sets, sides=Sides())
    unseen = []
    for column, name in enumerate(labels.class_names):
        now = changed.class_names.index(name)
        lost = labels.annotated[:, column].any() and not changed.annotated[:, now].any()
        if lost or not (changed.states[..., now] == PRESENT).any():
            unseen.append(name)
    return _with_sides(_without_classes(changed, unseen), labels.sides)


def _without_classes(labels: PartialLabels, names: Collection[str]) -> PartialLabels:
    kept = {n: atoms for n, atoms in labels.space.classes.items() if n not in names}
    sides = Sides(tuple(n for n in labels.sides.classes if n in kept), labels.sides.axes)
    return replace(labels, space=LabelSpace(labels.space.axes, kept), sides=sides)


def _with_sides(labels: PartialLabels, before: Sides) -> PartialLabels:
    """Carries sides over to the copies: a copy has a side if its original had one, or by its name."""
    named = set(sided_names(labels.class_names))
    sided = tuple(
        n
        for n in labels.class_names
        if n in before.classes or n.split(".", 1)[-1] in before.classes or (before.classes and n in named)
    )
    return replace(labels, sides=Sides(sided, before.axes))
