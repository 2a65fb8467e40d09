"""What a folder of references annotates, and which label values of a folder of predictions are which class."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_partial.errors import LabelError, VolumeError
from nnunet_partial.labels.partial_labels import PartialLabels
from nnunet_partial.labels.sidecar import has_partial_labels, load_dataset_json, partial_labels_of
from nnunet_partial.labels.space import BACKGROUND, DEFAULT_AXIS, LabelSpace, supersets_first
from nnunet_partial.labels.table import AnnotationSet

__all__ = ["Reference", "plain_labels", "prediction_keys", "prediction_values", "read_reference", "values_of_classes"]

IGNORE = "ignore"


@dataclass(frozen=True)
class Reference:
    """Reference label maps and what they annotate.

    Attributes:
        labels: The label model. For a plain nnU-Net dataset, one annotation set that annotates every class.
        files: Case to its label map, sorted by case.
        file_ending: Ending of the label maps, with its dot.
        dataset_json: The dataset.json that says so.
        content: What stands in it.
    """

    labels: PartialLabels
    files: dict[str, Path]
    file_ending: str
    dataset_json: Path
    content: dict[str, Any]

    @property
    def is_plain(self) -> bool:
        """Whether this is a plain nnU-Net dataset, without a `partial_labels` block."""
        return not has_partial_labels(self.content)


def read_reference(folder: Path, dataset_json: Path | None = None) -> Reference:
    """Finds the references of a folder and reads what they annotate.

    Args:
        folder: Label maps CASE.ending, e.g. labelsTr of a raw dataset.
        dataset_json: The dataset.json that describes them; by default the one in the folder, else beside it.

    Returns:
        The reference.

    Raises:
        LabelError: There is no usable dataset.json.
        VolumeError: There are no label maps.
    """
    if not folder.is_dir():
        raise VolumeError(f"{folder}: no such folder; expected the label maps of the reference")
    if dataset_json is None:
        candidates = [folder / "dataset.json", folder.resolve().parent / "dataset.json"]
        found = [path for path in candidates if path.is_file()]
        if not found:
            raise LabelError(
                f"{folder}: no dataset.json in it or beside it, so nothing says what was annotated; "
                "give it with -djfile"
            )
        dataset_json = found[0]
    elif dataset_json.is_dir():
        dataset_json = dataset_json / "dataset.json"
    content = load_dataset_json(dataset_json)
    if "file_ending" not in content:
        raise LabelError(f"{dataset_json}: the key 'file_ending' is missing; expected e.g. \".nii.gz\"")
    ending = str(content["file_ending"])
    files = label_maps(folder, ending)
    if not files:
        raise VolumeError(f"{folder}: no label maps; expected files CASE{ending}")
    if has_partial_labels(content):
        labels = partial_labels_of(content, str(dataset_json))
    else:
        name = str(content.get("name") or dataset_json.resolve().parent.name)
        labels = plain_labels(content, files, name, str(dataset_json))
    return Reference(labels, files, ending, dataset_json, content)


def label_maps(folder: Path, ending: str) -> dict[str, Path]:
    """The label maps of a folder: case to file, sorted by case."""
    found = [p for p in folder.iterdir() if p.name.endswith(ending) and not p.name.startswith(".")]
    return {path.name[: -len(ending)]: path for path in sorted(found, key=lambda p: p.name[: -len(ending)])}


def plain_labels(
    dataset_json: Mapping[str, Any], cases: Collection[str], name: str, where: str = "dataset.json"
) -> PartialLabels:
    """A label model for a plain nnU-Net dataset: each label or region is a class, annotated in every case.

    Args:
        dataset_json: Content of a dataset.json without a `partial_labels` block.
        cases: Its cases.
        name: Its name, which becomes the source.
        where: File name for error messages.

    Returns:
        The label model. Each label value is an atom; voxels of nnU-Net's 'ignore' label could be anything.

    Raises:
        LabelError: The labels contradict themselves.
    """
    labels = _labels(dataset_json, where)
    regions = prediction_values(dataset_json, where)
    values = sorted(set().union(*regions.values()))
    atom_of = {value: f"value {value}" for value in values}
    try:
        space = LabelSpace(
            {DEFAULT_AXIS: (BACKGROUND, *atom_of.values())},
            supersets_first({n: frozenset(atom_of[v] for v in members) for n, members in regions.items()}),
        )
    except LabelError as error:
        raise LabelError(f"{where}, labels: {error}") from error
    possible = {0: frozenset({BACKGROUND}), **{value: frozenset({atom}) for value, atom in atom_of.items()}}
    if IGNORE in labels:
        possible[_whole_number(labels[IGNORE], IGNORE, where)] = space.everything
    channels = dataset_json.get("channel_names") or {"0": ""}
    annotation_set = AnnotationSet(name, name, str(next(iter(channels.values()))), possible)
    return PartialLabels(space, {name: annotation_set}, dict.fromkeys(cases, name))


def prediction_values(dataset_json: Mapping[str, Any], where: str = "dataset.json") -> dict[str, frozenset[int]]:
    """Which label values make up each class of a predicted label map.

    Args:
        dataset_json: Content of the dataset.json that nnUNetv2_predict copies beside its predictions; labels are
            numbers ("spleen": 3) or regions ("liver": [1, 2]).
        where: File name for error messages.

    Returns:
        Class name to label values, in the order of the file; without background and 'ignore'. Where the labels are
        the atoms of our block (softmax heads), also its classes.

    Raises:
        LabelError: The labels are missing or no numbers, or a class contains the background value 0.
    """
    values = {}
    for name, entry in _labels(dataset_json, where).items():
        if name in (BACKGROUND, IGNORE):
            continue
        members = entry if isinstance(entry, (list, tuple)) else [entry]
        region = frozenset(_whole_number(value, name, where) for value in members)
        if not region or 0 in region:
            raise LabelError(f"{where}, labels.{name}: expected label values above 0, found {entry}")
        values[str(name)] = region
    if not has_partial_labels(dataset_json):
        return values
    space = partial_labels_of(dataset_json, where).space
    if set(values) != set(space.atoms) - {space.background_of(axis) for axis in space.axes}:
        return values
    # softmax heads: the labels are atoms, and a class may bear the name of one of its atoms
    return {**values, **{n: frozenset().union(*(values[a] for a in atoms)) for n, atoms in space.classes.items()}}


def prediction_keys(dataset_json: Mapping[str, Any], where: str = "dataset.json") -> dict[str, str]:
    """nnU-Net's keys of the classes in summary.json: '3' for a label, '(1, 2)' for a region."""
    labels = _labels(dataset_json, where)
    keys = {}
    for name, values in prediction_values(dataset_json, where).items():
        entry = labels.get(name, ())
        members = tuple(entry) if isinstance(entry, (list, tuple)) else (entry,)
        if set(members) != values:
            members = tuple(sorted(values))
        keys[name] = str(members[0] if len(members) == 1 else members)
    return keys


def values_of_classes(space: LabelSpace, values: Mapping[str, frozenset[int]]) -> dict[str, frozenset[int]]:
    """Matches the classes of a reference with predicted labels.

    A class is found by its name, else put together where all of its atoms are predicted by name: a softmax network
    predicts atoms, and a model of left and right kidney can be scored where both are one class.

    Args:
        space: Label space of the reference.
        values: Label values of the predictions by name.

    Returns:
        Class name to label values; classes that are not predicted are missing.
    """
    matched = {}
    for name, atoms in space.classes.items():
        if name in values:
            matched[name] = values[name]
        elif all(atom in values for atom in atoms):
            matched[name] = frozenset().union(*(values[atom] for atom in atoms))
    return matched


def _labels(dataset_json: Mapping[str, Any], where: str) -> dict[str, Any]:
    labels = dataset_json.get("labels")
    if not isinstance(labels, dict):
        raise LabelError(f"{where}: expected 'labels' to map names to label values, found {labels!r}")
    return labels


def _whole_number(value: Any, name: str, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise LabelError(f"{where}, labels.{name}: expected a label value (a whole number, 0 or more), found {value!r}")
    return value
