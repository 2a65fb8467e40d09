"""Planning a merge: what every value of every source becomes, before a single volume is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_partial.errors import LabelError, ProblemsError
from nnunet_partial.labels.axes import keep_apart
from nnunet_partial.labels.merge_file import MergeFile, SlicesRow
from nnunet_partial.labels.partial_labels import PartialLabels
from nnunet_partial.labels.protocol import Protocol
from nnunet_partial.labels.raw_dataset import RawCase, RawDataset, find_dataset_folder
from nnunet_partial.labels.sidecar import to_json
from nnunet_partial.labels.sides import Sides, sided_names
from nnunet_partial.labels.space import BACKGROUND, DEFAULT_AXIS, LabelSpace, axis_background, supersets_first
from nnunet_partial.labels.splits import Split
from nnunet_partial.labels.table import AnnotationSet
from nnunet_partial.normalisation import CHANNEL_NAME, Rule, rule_to_json
from nnunet_partial.volumes import INTENSITY_ENDINGS

__all__ = ["MergeCase", "MergePlan", "SliceRange", "plan_merge"]

Atoms = frozenset[str]
UNKNOWN_VALUE = "unknown"


@dataclass(frozen=True)
class SliceRange:
    """On slices first..last of an array axis (x, y, z = 0, 1, 2) this lookup applies."""

    axis: int
    first: int
    last: int
    lookup: dict[int, int]


@dataclass(frozen=True)
class MergeCase:
    """One case to be merged.

    Attributes:
        name: Its name in the merged dataset, SOURCE_CASE.
        raw: Its files; `label` is None where nothing is annotated.
        lookup: Source value to merged value; other values are errors. Not used where `ranges` is given.
        ranges: Slices that were annotated; None where the whole volume was.
    """

    name: str
    raw: RawCase
    lookup: dict[int, int]
    ranges: tuple[SliceRange, ...] | None = None


@dataclass(frozen=True)
class MergePlan:
    """All that a merge will write, save the voxels.

    Attributes:
        file: The merge file.
        labels: The label model of the merged dataset.
        value_names: Names of the merged label values, by value.
        cases: The cases.
        channel_names: nnU-Net's channel names.
        file_ending: Common file ending of all sources.
        reader: nnU-Net's `overwrite_image_reader_writer`, where the sources name one.
        axes_given: Image axes of the sides were declared, and need not be found from the images.
    """

    file: MergeFile
    labels: PartialLabels
    value_names: tuple[str, ...]
    cases: tuple[MergeCase, ...]
    channel_names: dict[str, str]
    file_ending: str
    reader: str | None
    axes_given: bool

    def fingerprint(self, splits: Sequence[Split] = ()) -> str:
        """Changes whenever the merge would write something else: the plan, or a source file by size or time.

        Args:
            splits: Its folds, where they do not follow from the plan.
        """
        cases = list(self.case_fingerprints().items())
        content = [to_json(self.labels), self.value_names, self.channel_names, self.file.model_dump(), cases, *splits]
        return _digest(content)

    def rule_of(self, case: str) -> Rule | None:
        """The rule that a case's images are normalised by; None where they stay as they are, or numbers are missing."""
        return self.labels.normalisation.get(self.labels.set_of(case).modality)

    def notes(self) -> list[str]:
        """What is allowed, but often meant otherwise, in the labels and in the modalities."""
        found = self.labels.notes(dict(enumerate(self.value_names)))
        modalities = list(dict.fromkeys(s.modality for s in self.labels.sets.values()))
        if len(modalities) > 1 and self.file.normalisation is None:
            names = list(dict.fromkeys(self.channel_names.values()))
            found.append(
                f"the sources have the modalities {modalities}, but nnU-Net normalises the intensities of all images "
                f"in one way, which it chooses by the channel name {names}; say under 'normalisation' in the merge "
                "file how each modality is normalised, e.g. 'normalisation: {CT: fingerprint, MR: zscore}'"
            )
        return found

    def case_fingerprints(self) -> dict[str, str]:
        """Case to a text that changes whenever the merge would write something else for this case."""
        found = {}
        for case in self.cases:
            rule = self.rule_of(case.name)
            files = [*case.raw.images, *([case.raw.label] if case.raw.label else [])]
            stats = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) if f.exists() else str(f) for f in files]
            how = [sorted(case.lookup.items()), str(case.ranges), self.file_ending, rule and rule_to_json(rule)]
            found[case.name] = _digest([*how, stats])
        return found


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def plan_merge(file: MergeFile, folder: Path) -> MergePlan:
    """Plans a merge.

    Args:
        file: The merge file.
        folder: Its folder; relative paths in it start there.

    Returns:
        The plan.

    Raises:
        LabelError: Names, values or sets do not fit together.
        ProblemsError: Some classes cannot be learned from these sources.
    """
    space = _space(file)
    protocols = [
        Protocol(name, entry, RawDataset(find_dataset_folder(entry.dataset, folder)), space, folder)
        for name, entry in file.sources.items()
    ]
    _check_alike(protocols, file)
    _check_modalities(protocols, file)
    tables = {name: p.possible(name) for p in protocols for name in p.set_entries}
    values = _MergedValues(space, tables)
    sets: dict[str, AnnotationSet] = {}
    cases: list[MergeCase] = []
    case_sets: dict[str, str] = {}
    patients: dict[str, str] = {}
    for protocol in protocols:
        known_patients = protocol.patients()
        for case, annotation_set in _cases(protocol, values, tables):
            sets[annotation_set.name] = annotation_set
            case_sets[case.name] = annotation_set.name
            cases.append(case)
            if case.raw.name in known_patients:
                patients[case.name] = known_patients[case.raw.name]
    labels = PartialLabels(space, sets, case_sets, patients)
    for protocol in protocols:
        if protocol.entry.keep_apart:
            chosen = None if protocol.entry.keep_apart == "all" else protocol.entry.keep_apart
            labels = keep_apart(labels, protocol.name, chosen)
    problems = labels.problems()
    if problems:
        raise ProblemsError(f"merge file '{file.name}'", problems)
    first = protocols[0].dataset
    return MergePlan(
        file=file,
        labels=replace(labels, sides=_declared_sides(file, labels)),
        value_names=values.names,
        cases=tuple(cases),
        channel_names={
            str(k): CHANNEL_NAME if file.normalisation else v
            for k, v in (file.channel_names or first.channel_names).items()
        },
        file_ending=first.file_ending,
        reader=first.json.get("overwrite_image_reader_writer"),
        axes_given=file.sides.axes is not None,
    )


def _cases(
    protocol: Protocol, values: _MergedValues, tables: dict[str, dict[int, Atoms]]
) -> Iterator[tuple[MergeCase, AnnotationSet]]:
    """The cases of a source, each with its annotation set."""
    modality = protocol.entry.modality or next(iter(protocol.dataset.channel_names.values()))
    slices = protocol.slices()
    for raw in protocol.cases.values():
        name = f"{protocol.name}_{raw.name}"
        if raw.name in slices:
            used = [row.set for row in slices[raw.name]]
            case, annotation_set = values.sliced_case(name, raw, slices[raw.name], tables)
        else:
            used = [protocol.set_of_case(raw.name)]
            case, annotation_set = values.whole_case(name, raw, used[0], tables[used[0]])
        if raw.label is None and any(protocol.needs_label_map(s) for s in used):
            raise LabelError(
                f"source '{protocol.name}': case '{raw.name}' has no label file in "
                f"{protocol.dataset.folder / 'labelsTr'}; add it, exclude the case, or give it an annotation set "
                "without labels ('none: []')"
            )
        if protocol.is_unlabelled:
            case = replace(case, raw=replace(raw, label=None))
        yield case, replace(annotation_set, source=protocol.name, modality=modality)


def _space(file: MergeFile) -> LabelSpace:
    axes: dict[str, dict[str, None]] = {}
    classes: dict[str, frozenset[str]] = {}
    atom_axis: dict[str, str] = {}
    for name, entry in file.classes.items():
        axis = entry.axis or DEFAULT_AXIS
        atoms = entry.atoms or [name]
        members = axes.setdefault(axis, {axis_background(axis): None})
        if name == UNKNOWN_VALUE:
            raise LabelError(f"a class cannot be called '{name}': the word stands for what nobody looked at")
        for atom in atoms:
            if atom in (BACKGROUND, axis_background(axis), UNKNOWN_VALUE):
                raise LabelError(f"class '{name}': '{atom}' cannot be an atom of a class")
            if atom_axis.setdefault(atom, axis) != axis:
                raise LabelError(f"class '{name}': atom '{atom}' already lies on axis '{atom_axis[atom]}'")
            members[atom] = None
        classes[name] = frozenset(atoms)
    for name, members_of_class in classes.items():
        if name in atom_axis and members_of_class != {name}:
            raise LabelError(
                f"'{name}' is both a class of {sorted(members_of_class)} and an atom; "
                f"give the atom another name, e.g. '{name}_tissue'"
            )
    return LabelSpace({axis: tuple(atoms) for axis, atoms in axes.items()}, supersets_first(classes))


def _check_alike(protocols: list[Protocol], file: MergeFile) -> None:
    first = protocols[0]
    alike = {
        "file_ending": "convert the images to one format",
        "channel_names": "set 'channel_names' in the merge file if they mean the same",
        "overwrite_image_reader_writer": "a reader that reorients would turn some images only; set it alike",
    }
    if file.channel_names is not None or (file.normalisation and len(first.dataset.channel_names) == 1):
        del alike["channel_names"]
    for other in protocols[1:]:
        for key, advice in alike.items():
            ours, theirs = first.dataset.json.get(key), other.dataset.json.get(key)
            if ours != theirs:
                raise LabelError(
                    f"sources '{first.name}' and '{other.name}' differ in {key}: {ours} and {theirs}; {advice}"
                )
    channels = len(file.channel_names) if file.channel_names is not None else len(first.dataset.channel_names)
    for protocol in protocols:
        if len(protocol.dataset.channel_names) != channels:
            raise LabelError(
                f"source '{protocol.name}' has {len(protocol.dataset.channel_names)} channels, expected {channels}"
            )


def _check_modalities(protocols: list[Protocol], file: MergeFile) -> None:
    """Each modality needs a rule, and each rule a modality, where normalisation is declared."""
    if file.normalisation is None:
        return
    rules = list(file.normalisation)
    for protocol in protocols:
        if protocol.entry.modality is None:
            raise LabelError(
                f"source '{protocol.name}' has no 'modality', by which 'normalisation' chooses its rule; add one of "
                f"{rules}"
            )
        if protocol.entry.modality not in rules:
            raise LabelError(
                f"source '{protocol.name}': 'normalisation' has no rule for its modality '{protocol.entry.modality}', "
                f"only for {rules}"
            )
    unused = sorted(set(rules) - {protocol.entry.modality for protocol in protocols})
    if unused:
        raise LabelError(f"normalisation: no source has the modality {unused}; remove the rule, or mend its name")
    ending = protocols[0].dataset.file_ending
    if ending not in INTENSITY_ENDINGS:
        raise LabelError(
            f"normalisation: {ending} files cannot hold normalised images; convert the images to one of "
            f"{list(INTENSITY_ENDINGS)}"
        )


def _declared_sides(file: MergeFile, labels: PartialLabels) -> Sides:
    declared = file.sides.classes
    unknown = [n for n in declared or [] if n not in file.classes]
    if unknown:
        raise LabelError(f"sides.classes: {unknown} are no classes; classes are {list(file.classes)}")
    if declared is None:
        names = sided_names(labels.class_names)
    else:
        names = tuple(n for n in labels.class_names if n in declared or n.split(".", 1)[-1] in declared)
    return Sides(names, tuple(file.sides.axes or ()))


class _MergedValues:
    """One number for each distinct meaning: structures first, then 'none of ...' values, then 'unknown'."""

    def __init__(self, space: LabelSpace, tables: dict[str, dict[int, Atoms]]) -> None:
        self.space = space
        backgrounds = {space.background_of(axis) for axis in space.axes}
        structures = dict.fromkeys(
            atoms
            for table in tables.values()
            for value, atoms in table.items()
            if value != 0 and not backgrounds <= atoms
        )
        self._structures = {meaning: i + 1 for i, meaning in enumerate(structures)}
        # further values exist only where slices, 'not' or 'unknown' labels need them
        self._extra: dict[Atoms, int] = {}

    def value(self, meaning: Atoms) -> int:
        if meaning in self._structures:
            return self._structures[meaning]
        return self._extra.setdefault(meaning, len(self._structures) + 1 + len(self._extra))

    @property
    def names(self) -> tuple[str, ...]:
        named = [BACKGROUND]
        for meaning in [*self._structures, *self._extra]:
            name = self._name(meaning)
            named.append(name if name not in named else f"{name} ({len(named)})")
        return tuple(named)

    def whole_case(
        self, name: str, raw: RawCase, set_name: str, table: dict[int, Atoms]
    ) -> tuple[MergeCase, AnnotationSet]:
        lookup = self._lookup(table)
        possible = {0: table[0], **{lookup[v]: atoms for v, atoms in table.items() if lookup[v] != 0}}
        return MergeCase(name, raw, lookup), AnnotationSet(set_name, "", "", possible)

    def sliced_case(
        self, name: str, raw: RawCase, rows: list[SlicesRow], tables: dict[str, dict[int, Atoms]]
    ) -> tuple[MergeCase, AnnotationSet]:
        """Slices nobody annotated keep value 0, which could be anything; annotated slices get values of their own."""
        ranges = []
        possible: dict[int, Atoms] = {0: self.space.everything}
        for row in rows:
            table = tables[row.set]
            lookup = {v: self.value(atoms) if atoms != self.space.everything else 0 for v, atoms in table.items()}
            possible.update({lookup[v]: atoms for v, atoms in table.items()})
            ranges.append(SliceRange("xyz".index(row.axis), row.first, row.last, lookup))
        set_name = "+".join(dict.fromkeys(r.set for r in rows)) + ".slices"
        return MergeCase(name, raw, {}, tuple(ranges)), AnnotationSet(set_name, "", "", possible)

    def _lookup(self, table: dict[int, Atoms]) -> dict[int, int]:
        return {v: 0 if v == 0 or atoms == table[0] else self.value(atoms) for v, atoms in table.items()}

    def _name(self, meaning: Atoms) -> str:
        if meaning == self.space.everything:
            return UNKNOWN_VALUE
        open_axes = {axis for axis, members in self.space.axes.items() if meaning.issuperset(members)}
        named = [a for a in self.space.atoms if a in meaning and self.space.axis_of[a] not in open_axes]
        for class_name, atoms in self.space.classes.items():
            if atoms == set(named):
                return class_name
        excluded = [a for a in self.space.atoms if a not in meaning]
        if any(a in {self.space.background_of(x) for x in self.space.axes} for a in named):
            return "none of " + ", ".join(excluded)
        return " or ".join(named)
