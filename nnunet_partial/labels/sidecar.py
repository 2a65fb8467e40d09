"""The `partial_labels` block of `dataset.json`: the only reader and writer of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_partial.errors import LabelError
from nnunet_partial.labels.partial_labels import PartialLabels
from nnunet_partial.labels.sides import Sides
from nnunet_partial.labels.space import LabelSpace
from nnunet_partial.labels.table import AnnotationSet
from nnunet_partial.normalisation import Fingerprint, Rule, rule_from_json, rule_to_json

__all__ = ["BLOCK", "FORMAT", "from_json", "has_partial_labels", "load_dataset_json", "partial_labels_of", "to_json"]

BLOCK = "partial_labels"
FORMAT = 1
_KEYS = {"format", "axes", "classes", "annotation_sets", "cases", "patients", "sides", "normalisation"}


def load_dataset_json(path: Path) -> dict[str, Any]:
    """Reads a dataset.json, or the one inside a folder.

    Raises:
        LabelError: It is missing or no JSON object.
    """
    file = path / "dataset.json" if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LabelError(f"{file}: no such file; expected the dataset.json of an nnU-Net dataset") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LabelError(f"{file}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise LabelError(f"{file}: expected a JSON object, found {type(content).__name__}")
    return content


def has_partial_labels(dataset_json: Mapping[str, Any]) -> bool:
    """Whether a dataset.json has our block."""
    return BLOCK in dataset_json


def partial_labels_of(dataset_json: Mapping[str, Any], where: str = "dataset.json") -> PartialLabels:
    """The label model of a dataset.

    Args:
        dataset_json: Content of a dataset.json.
        where: File name for error messages.

    Raises:
        LabelError: The block is missing, of an unknown format, or contradicts itself.
    """
    if BLOCK not in dataset_json:
        raise LabelError(
            f"{where}: no '{BLOCK}' block, so nothing says what was annotated; make the dataset with "
            "nnUNetv2_partial_merge, or train with a stock trainer"
        )
    try:
        return from_json(dataset_json[BLOCK])
    except LabelError as error:
        raise LabelError(f"{where}, {BLOCK}: {error}") from error


def to_json(labels: PartialLabels) -> dict[str, Any]:
    """The block as JSON. Atoms are written as a list or as {"not": [...]}, whichever is shorter."""
    space = labels.space
    block: dict[str, Any] = {
        "format": FORMAT,
        "axes": {axis: list(atoms) for axis, atoms in space.axes.items()},
        "classes": {name: [a for a in space.atoms if a in atoms] for name, atoms in space.classes.items()},
        "annotation_sets": {
            s.name: {
                "source": s.source,
                "modality": s.modality,
                "possible": {str(v): _atoms_to_json(atoms, space) for v, atoms in sorted(s.possible.items())},
            }
            for s in labels.sets.values()
        },
        "cases": dict(labels.cases),
    }
    if labels.patients:
        block["patients"] = dict(labels.patients)
    block["sides"] = {"classes": list(labels.sides.classes), "axes": list(labels.sides.axes)}
    if labels.normalisation:
        block["normalisation"] = {modality: rule_to_json(rule) for modality, rule in labels.normalisation.items()}
    return block


def from_json(block: Any) -> PartialLabels:
    """Reads the block back; the inverse of `to_json`.

    Raises:
        LabelError: With the key at fault.
    """
    block = _mapping(block, BLOCK)
    if block.get("format") != FORMAT:
        raise LabelError(
            f"format {block.get('format')!r} is not supported, expected {FORMAT}; "
            "use the version of nnunet_partial that wrote it, or merge again"
        )
    unknown = sorted(set(block) - _KEYS)
    if unknown:
        raise LabelError(f"unknown keys {unknown}; known are {sorted(_KEYS)}")
    space = LabelSpace(
        {axis: tuple(_strings(atoms, f"axes.{axis}")) for axis, atoms in _mapping(block.get("axes"), "axes").items()},
        {
            name: frozenset(_strings(atoms, f"classes.{name}"))
            for name, atoms in _mapping(block.get("classes"), "classes").items()
        },
    )
    sets = {
        name: _set_from_json(name, entry, space)
        for name, entry in _mapping(block.get("annotation_sets"), "annotation_sets").items()
    }
    sides = _mapping(block.get("sides", {}), "sides")
    side_axes = sides.get("axes", [])
    if not isinstance(side_axes, list) or not all(isinstance(axis, int) for axis in side_axes):
        raise LabelError(f"sides.axes: expected a list of image axes, found {side_axes!r}")
    return PartialLabels(
        space=space,
        sets=sets,
        cases=_string_mapping(block.get("cases"), "cases"),
        patients=_string_mapping(block.get("patients", {}), "patients"),
        sides=Sides(tuple(_strings(sides.get("classes", []), "sides.classes")), tuple(side_axes)),
        normalisation={
            modality: _rule_from_json(entry, f"normalisation.{modality}")
            for modality, entry in _mapping(block.get("normalisation", {}), "normalisation").items()
        },
    )


def _rule_from_json(content: Any, key: str) -> Rule:
    try:
        rule = rule_from_json(content)
    except ValueError as error:
        raise LabelError(f"{key}: {error}, found {content!r}") from error
    if isinstance(rule, Fingerprint):
        raise LabelError(f"{key}: expected the numbers of the fingerprint, found none; merge again")
    return rule


def _set_from_json(name: str, entry: Any, space: LabelSpace) -> AnnotationSet:
    key = f"annotation_sets.{name}"
    entry = _mapping(entry, key)
    for field in ("source", "modality", "possible"):
        if field not in entry:
            raise LabelError(f"{key}: '{field}' is missing")
    possible = {}
    for value, atoms in _mapping(entry["possible"], f"{key}.possible").items():
        if not value.isdecimal():
            raise LabelError(f"{key}.possible: expected a label value, found '{value}'")
        possible[int(value)] = _atoms_from_json(atoms, space, f"{key}.possible.{value}")
    return AnnotationSet(name, str(entry["source"]), str(entry["modality"]), possible)


def _atoms_to_json(atoms: frozenset[str], space: LabelSpace) -> Any:
    excluded = [a for a in space.atoms if a not in atoms]
    open_axes = {axis for axis, members in space.axes.items() if atoms.issuperset(members)}
    listed = [a for a in space.atoms if a in atoms and space.axis_of[a] not in open_axes]
    return {"not": excluded} if len(excluded) <= len(listed) or not listed else listed


def _atoms_from_json(content: Any, space: LabelSpace, key: str) -> frozenset[str]:
    if isinstance(content, dict):
        if set(content) != {"not"}:
            raise LabelError(f'{key}: expected a list of atoms or {{"not": [...]}}, found keys {sorted(content)}')
        named = _strings(content["not"], key)
        _known(named, space, key)
        return space.everything - set(named)
    named = _strings(content, key)
    _known(named, space, key)
    named_axes = {space.axis_of[a] for a in named}
    return frozenset(a for a in space.atoms if a in named or space.axis_of[a] not in named_axes)


def _known(atoms: list[str], space: LabelSpace, key: str) -> None:
    unknown = sorted(set(atoms) - space.everything)
    if unknown:
        raise LabelError(f"{key}: unknown atoms {unknown}; known are {list(space.atoms)}")


def _mapping(content: Any, key: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise LabelError(f"{key}: expected an object, found {type(content).__name__}")
    return content


def _string_mapping(content: Any, key: str) -> dict[str, str]:
    mapping = _mapping(content, key)
    for name, value in mapping.items():
        if not isinstance(value, str):
            raise LabelError(f"{key}.{name}: expected a name, found {value!r}")
    return mapping


def _strings(content: Any, key: str) -> list[str]:
    if not isinstance(content, list) or not all(isinstance(item, str) for item in content):
        raise LabelError(f"{key}: expected a list of names, found {content!r}")
    return content
