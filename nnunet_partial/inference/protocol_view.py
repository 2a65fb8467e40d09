"""A model's label map as the annotators of one source would have drawn it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.label_view import LabelView
from nnunet_partial.inference.model.declared_classes import declared_classes
from nnunet_partial.inference.model.plan import Decoding
from nnunet_partial.labels import AnnotationSet, LabelSpace
from nnunet_partial.labels.sidecar import has_partial_labels, partial_labels_of

__all__ = ["protocol_view"]

Atoms = frozenset[str]
_SHOWN = 10


def protocol_view(dataset_json: Mapping[str, Any], decoding: Decoding, name: str) -> LabelView:
    """Translates a model's channels to the label values of an annotation set.

    What a channel paints is one of some atoms: those of its class but for classes inside it, which are painted over it;
    or its atom, of a softmax. The protocol's value is the most precise one that could be all of them. Structures that
    the protocol does not know become its 0. A class that is nothing but the classes inside it (kidneys: a left and a
    right one) does not count where the protocol tells these apart.

    Args:
        dataset_json: Of the model, with its block `partial_labels`.
        decoding: Of the model.
        name: An annotation set, or a source with only one.

    Raises:
        PartialError: The model knows no such protocol, has no channel for it, tells less apart than it does, or has
            labels of its own.
    """
    if not has_partial_labels(dataset_json):
        raise PartialError(
            "--protocol: the model's dataset.json has no 'partial_labels'; only models of merged datasets do"
        )
    labels = partial_labels_of(dataset_json, "the model's dataset.json")
    are_classes = decoding.regions and decoding.names == tuple(labels.space.classes)
    if not are_classes and declared_classes(dataset_json, decoding) is None:
        raise PartialError(
            "--protocol: expected the model's labels to be the classes or atoms of its 'partial_labels', found "
            f"{', '.join(decoding.names[:_SHOWN])}{', ...' * (len(decoding.names) > _SHOWN)}; train with a trainer of "
            "nnunet_partial"
        )
    found = _annotation_set(labels.sets, name)
    told = {axis for axis, atoms in labels.space.axes.items() if not _says_nothing_of(found, frozenset(atoms))}
    channels, values = [], []
    for channel, (painted, own, atoms) in enumerate(_painted(labels.space, decoding)):
        axis = labels.space.axis_of[next(iter(atoms))]
        if axis not in told:
            continue
        value = _value(found, own or atoms, frozenset(labels.space.axes[axis]))
        if value is not None:
            channels.append(channel)
            values.append(value)
        elif own:
            raise _told_apart(found, painted, own, frozenset(labels.space.axes[axis]))
    if not channels:
        raise PartialError(f"--protocol {name}: it annotates nothing that the model has a channel for")
    return LabelView(tuple(channels), decoding.of_channels(channels, values, max(found.possible)))


def _annotation_set(sets: Mapping[str, AnnotationSet], name: str) -> AnnotationSet:
    if name in sets:
        return sets[name]
    of_source = [entry for entry in sets.values() if entry.source == name]
    if len(of_source) == 1:
        return of_source[0]
    known = ", ".join(sorted(entry.name for entry in of_source) or sorted(sets))
    raise PartialError(f"--protocol {name}: expected one of {known}")


def _says_nothing_of(found: AnnotationSet, atoms: Atoms) -> bool:
    return all(atoms <= possible for possible in found.possible.values())


def _painted(space: LabelSpace, decoding: Decoding) -> Iterator[tuple[str, Atoms, Atoms]]:
    """What each channel paints: its name, the atoms that no class inside it has, and all of its atoms."""
    if not decoding.regions:
        for atom in space.atoms:
            yield atom, frozenset({atom}), frozenset({atom})
        return
    for name, atoms in space.classes.items():
        inside = [other for other in space.classes.values() if other < atoms]
        yield name, atoms.difference(*inside), atoms


def _value(found: AnnotationSet, atoms: Atoms, axis: Atoms) -> int | None:
    """The most precise value that could be all of some atoms; None where there is none."""
    fitting = {
        value: len(possible & axis)
        for value, possible in found.possible.items()
        if atoms <= possible and not axis <= possible
    }
    return min(fitting, key=lambda value: (fitting[value], value)) if fitting else None


def _told_apart(found: AnnotationSet, painted: str, atoms: Atoms, axis: Atoms) -> PartialError:
    meant = [value for value, possible in sorted(found.possible.items()) if atoms & possible and not axis <= possible]
    return PartialError(
        f"--protocol {found.name}: '{painted}' of the model could be any of its values "
        f"{', '.join(map(str, meant))}; the model does not tell them apart. Give the numbers "
        "yourself with --label_values, or score the model's own labels: nnUNetv2_partial_evaluate compares what this "
        "source annotates without a protocol"
    )
