"""What the label values of one source mean: its entry in the merge file, turned into possible atoms."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import product
from pathlib import Path

from nnunet_partial.errors import LabelError
from nnunet_partial.labels.merge_file import (
    Exclusion,
    Meaning,
    SetEntry,
    SlicesRow,
    SourceEntry,
    read_csv,
    read_csv_mapping,
)
from nnunet_partial.labels.partial_labels import PartialLabels
from nnunet_partial.labels.raw_dataset import RawCase, RawDataset
from nnunet_partial.labels.sidecar import partial_labels_of
from nnunet_partial.labels.space import LabelSpace

__all__ = ["Protocol", "resolve_names"]

Atoms = frozenset[str]


@dataclass
class Protocol:
    """The labels of one source in terms of atoms.

    Args:
        name: Source name in the merge file.
        entry: Its entry.
        dataset: The raw dataset.
        space: The common label space.
        folder: Folder of the merge file; CSV files are looked for there, then in that of the dataset.
    """

    name: str
    entry: SourceEntry
    dataset: RawDataset
    space: LabelSpace
    folder: Path
    named: dict[int, Atoms | None] = field(init=False)
    """Value to the atoms it names; None for values that say nothing of their own (taken as value 0)."""
    full: dict[int, Atoms] = field(init=False)
    """Value to all atoms possible there, on every axis."""

    def __post_init__(self) -> None:
        self.named, self.full = {}, {}
        values = self._source_values
        for key, meaning in self.entry.labels.items():
            where = f"source '{self.name}', label '{key}'"
            value = self._value_of(key)
            if value == 0:
                raise LabelError(f"{where}: value 0 follows from the annotated labels; it takes no meaning of its own")
            if value in self.full:
                raise LabelError(f"{where}: value {value} has a meaning already")
            self.full[value], self.named[value] = self._atoms(meaning, where)
        ignore = self.dataset.label_values.get("ignore")
        if isinstance(ignore, int) and ignore not in self.full:
            self.full[ignore], self.named[ignore] = self.space.everything, frozenset()
        unlisted = {v: n for v, n in values.items() if v not in self.full and v != 0}
        if self.is_unlabelled:
            return
        if unlisted and self.entry.unlisted == "error":
            raise LabelError(
                f"source '{self.name}': labels {sorted(unlisted.values())} of {self.dataset.folder.name} have no "
                "meaning in the merge file; list them, or set 'unlisted: background' (none of the labels listed) or "
                "'unlisted: unknown'"
            )
        if self.entry.unlisted == "background" and "partial_labels" in self.dataset.json:
            self._check_background(unlisted)
        for value in unlisted:
            if self.entry.unlisted == "unknown":
                self.full[value], self.named[value] = self.space.everything, frozenset()
            else:
                self.named[value] = None

    def _check_background(self, unlisted: Mapping[int, str]) -> None:
        """What the dataset itself says to share tissue with a listed label is not 'none of the labels listed'."""
        own = self._own_labels
        axes = [set(members) for members in own.space.axes.values()]
        shared: dict[int, int] = {}
        for annotation_set in own.sets.values():
            # what could be anything on an axis says nothing there
            told = {
                value: frozenset[str]().union(*(atoms & axis for axis in axes if not axis <= atoms))
                for value, atoms in annotation_set.possible.items()
            }
            for value, listed in product(unlisted, self.named):
                if self.named[listed] and told.get(value, frozenset()) & told.get(listed, frozenset()):
                    shared.setdefault(value, listed)
        if shared:
            pairs = [f"'{unlisted[v]}' that of '{self._source_values[shared[v]]}'" for v in unlisted if v in shared]
            raise LabelError(
                f"source '{self.name}', unlisted: labels of {self.dataset.folder.name} are no background, as they "
                f"could be the tissue of labels that are listed: {', '.join(pairs)}; list them, too, "
                "as classes of yours or with the meaning {not: [...]}, or set 'unlisted: unknown'"
            )

    @property
    def is_unlabelled(self) -> bool:
        """The source annotates nothing; its label files, if any, are not read."""
        return not self.entry.labels

    def needs_label_map(self, set_name: str) -> bool:
        """Whether a case of the annotation set must have a label file."""
        return not self.is_unlabelled and bool(self.set_entries[set_name].labels)

    @cached_property
    def set_entries(self) -> dict[str, SetEntry]:
        """Annotation sets of the source by their name in the merged dataset."""
        if self.entry.annotated is None:
            return {self.name: SetEntry(absent=[])}
        return {f"{self.name}.{key}": entry for key, entry in self._declared_sets.items()}

    def possible(self, set_name: str) -> dict[int, Atoms]:
        """Source value to possible atoms in one annotation set; values that must not occur there are left out."""
        entry = self.set_entries[set_name]
        where = f"source '{self.name}', annotation set '{set_name}'"
        annotated = self._annotated_values(entry, where)
        full, named = dict(self.full), dict(self.named)
        if isinstance(entry.labels, dict):
            for key, meaning in entry.labels.items():
                full[self._value_of(key)], named[self._value_of(key)] = self._atoms(meaning, f"{where}, label '{key}'")
        self._leave_to_labels_on_top(full, named, annotated)
        structures = frozenset[str]().union(*(named[v] or frozenset() for v in annotated))
        rest = self.space.everything - structures
        absent = resolve_names(self.entry.absent + entry.absent, self.space, f"{where}, absent")
        result: dict[int, Atoms] = {0: rest - absent}
        for value, atoms_named in named.items():
            if atoms_named is None:
                result[value] = rest - absent
            elif value in annotated or (not atoms_named and (annotated or full[value] == self.space.everything)):
                # what a label excludes is known where somebody drew labels; what could be anything may be anywhere
                result[value] = full[value] - absent
        for value, atoms in result.items():
            for axis, members in self.space.axes.items():
                if not atoms & set(members):
                    raise LabelError(
                        f"{where}: value {value} could be nothing at all on axis '{axis}'; "
                        "'absent' and the meaning of the label, less what lies 'on_top' of it, contradict each other"
                    )
        return result

    def set_of_case(self, case: str) -> str:
        """The annotation set of a case, by the patterns of 'cases' or the dataset's own `partial_labels`.

        Raises:
            LabelError: No pattern fits, or several with different sets.
        """
        names = list(self.set_entries)
        if self.entry.annotated == "dataset":
            return f"{self.name}.{self._own_labels.set_of(case).name}"
        patterns = self._case_patterns
        if self.entry.cases is None:
            if len(names) == 1:
                return names[0]
            raise LabelError(
                f"source '{self.name}': several annotation sets {names}, but 'cases' does not say which case has which"
            )
        if case in patterns:
            return self._qualified(patterns[case])
        fitting = {self._qualified(s) for pattern, s in patterns.items() if fnmatchcase(case, pattern)}
        if len(fitting) != 1:
            found = f"fits several: {sorted(fitting)}" if fitting else "fits no entry of 'cases'"
            raise LabelError(f"source '{self.name}': case '{case}' has no annotation set ({found})")
        return fitting.pop()

    @cached_property
    def cases(self) -> dict[str, RawCase]:
        """Cases of the raw dataset without the excluded ones."""
        cases = self.dataset.cases
        for pattern in self.entry.exclude:
            if not any(fnmatchcase(c, pattern) for c in cases):
                raise LabelError(
                    f"source '{self.name}', exclude: '{pattern}' fits no case of {self.dataset.folder.name}"
                )
        return {c: raw for c, raw in cases.items() if not any(fnmatchcase(c, p) for p in self.entry.exclude)}

    def slices(self) -> dict[str, list[SlicesRow]]:
        """Case to the slice ranges that were annotated, for cases listed in the slices file."""
        if self.entry.slices is None:
            return {}
        path = self._csv(self.entry.slices)
        rows: dict[str, list[SlicesRow]] = {}
        for number, content in enumerate(read_csv(path, tuple(SlicesRow.model_fields)), start=2):
            try:
                row = SlicesRow.model_validate(content)
            except ValueError as error:
                raise LabelError(
                    f"{path}, line {number}: expected case, axis x, y or z, first and last slice (0 or more), set; "
                    f"found {content}"
                ) from error
            if row.case not in self.cases:
                raise LabelError(f"{path}, line {number}: '{row.case}' is no case of {self.dataset.folder.name}")
            if row.last < row.first:
                raise LabelError(f"{path}, line {number}: last slice {row.last} lies before the first, {row.first}")
            row = row.model_copy(update={"set": self._qualified(row.set)})
            for other in rows.get(row.case, []):
                if (
                    other.axis == row.axis
                    and other.set != row.set
                    and max(row.first, other.first) <= min(row.last, other.last)
                ):
                    raise LabelError(
                        f"{path}, line {number}: case '{row.case}' has slices {row.first} to {row.last} of two "
                        f"annotation sets, '{other.set}' and '{row.set}'; declare one set with the labels of both"
                    )
            rows.setdefault(row.case, []).append(row)
        return rows

    def patients(self) -> dict[str, str]:
        """Case to patient, where the merge file says so.

        Identifiers from a list or a CSV hold across sources; those cut out of case names by a regular expression
        are prefixed with the source.
        """
        declared = self.entry.patients
        if declared is None:
            return {}
        if isinstance(declared, dict) or declared.endswith(".csv"):
            listed = (
                declared if isinstance(declared, dict) else read_csv_mapping(self._csv(declared), "case", "patient")
            )
            return {case: patient for case, patient in listed.items() if case in self.cases}
        try:
            pattern = re.compile(declared)
        except re.error as error:
            raise LabelError(
                f"source '{self.name}', patients: '{declared}' is no regular expression ({error})"
            ) from error
        if pattern.groups != 1:
            raise LabelError(f"source '{self.name}', patients: '{declared}' needs one group, e.g. '^(patient\\d+)_'")
        found = {case: pattern.search(case) for case in self.cases}
        missing = [case for case, match in found.items() if match is None or match[1] is None]
        if missing:
            raise LabelError(f"source '{self.name}', patients: '{declared}' does not fit case '{missing[0]}'")
        return {case: f"{self.name}_{match[1]}" for case, match in found.items() if match is not None}

    @cached_property
    def _own_labels(self) -> PartialLabels:
        return partial_labels_of(self.dataset.json, str(self.dataset.folder / "dataset.json"))

    @cached_property
    def _declared_sets(self) -> dict[str, SetEntry]:
        """Annotation sets by the name that the merge file, or the dataset itself, gives them."""
        if self.entry.annotated != "dataset":
            return self.entry.annotated or {}
        if self.entry.cases is not None:
            raise LabelError(f"source '{self.name}': 'annotated: dataset' tells the set of each case; remove 'cases'")
        own = self._own_labels
        return {
            name: SetEntry(
                labels=[
                    value
                    for value, atoms in annotation_set.possible.items()
                    if value in self.full and atoms != own.space.everything
                ]
            )
            for name, annotation_set in own.sets.items()
        }

    def _leave_to_labels_on_top(
        self, full: dict[int, Atoms], named: dict[int, Atoms | None], annotated: set[int]
    ) -> None:
        """Takes from the labels of a set what those mark that were drawn over them."""
        on_top = {self._value_of(key) for key in self.entry.on_top}
        for top in on_top & annotated:
            for value, atoms in named.items():
                if value not in on_top and atoms:  # a label that names nothing could still be anything
                    full[value] = full[value] - (named[top] or frozenset())

    def _csv(self, name: str) -> Path:
        """A file beside the merge file, or else in the dataset."""
        for folder in (self.folder, self.dataset.folder):
            if (folder / name).is_file():
                return folder / name
        raise LabelError(
            f"source '{self.name}': {self.folder / name}: no such file, and none of that name in "
            f"{self.dataset.folder}; expected a CSV"
        )

    @cached_property
    def _source_values(self) -> dict[int, str]:
        values: dict[int, str] = {}
        for name, value in self.dataset.label_values.items():
            for v in value if isinstance(value, tuple) else (value,):
                values.setdefault(v, name)
        return values

    def _value_of(self, key: str | int) -> int:
        if isinstance(key, int) or (key.isdecimal() and key not in self.dataset.label_values):
            if int(key) not in self._source_values:
                raise LabelError(
                    f"source '{self.name}': {self.dataset.folder.name} has no label value {key}; "
                    f"its values are {sorted(self._source_values)}"
                )
            return int(key)
        value = self.dataset.label_values.get(key)
        if value is None:
            raise LabelError(
                f"source '{self.name}': {self.dataset.folder.name} has no label '{key}'; "
                f"its labels are {[n for n in self.dataset.label_values if n != 'background']}"
            )
        if isinstance(value, tuple):
            raise LabelError(
                f"source '{self.name}': '{key}' is a region of the values {list(value)}; "
                "give the meaning of each value (a number) instead"
            )
        return value

    def _atoms(self, meaning: Meaning, where: str) -> tuple[Atoms, Atoms]:
        """All atoms possible at a label, and those that it names."""
        if isinstance(meaning, Exclusion):
            return self.space.everything - resolve_names(meaning.excluded, self.space, where), frozenset()
        if meaning == "unknown":
            return self.space.everything, frozenset()
        atoms = resolve_names([meaning] if isinstance(meaning, str) else meaning, self.space, where)
        if not atoms:
            raise LabelError(f"{where}: an empty list means nothing; name atoms or classes, or write 'unknown'")
        axes = {self.space.axis_of[a] for a in atoms}
        elsewhere = frozenset(a for a in self.space.atoms if self.space.axis_of[a] not in axes)
        return atoms | elsewhere, atoms

    def _annotated_values(self, entry: SetEntry, where: str) -> set[int]:
        if entry.labels == "all":
            return {v for v, named in self.named.items() if named is not None}
        values = {self._value_of(label) for label in entry.labels}
        unlisted = sorted(v for v in values if v not in self.full)
        if unlisted:
            raise LabelError(f"{where}: value {unlisted[0]} is annotated, but has no meaning under 'labels'")
        return values

    @cached_property
    def _case_patterns(self) -> dict[str, str]:
        cases = self.entry.cases
        if isinstance(cases, str):
            return read_csv_mapping(self._csv(cases), "case", "set")
        return cases or {}

    def _qualified(self, set_name: str) -> str:
        declared = list(self._declared_sets) if self.entry.annotated is not None else [self.name]
        if set_name not in declared:
            raise LabelError(f"source '{self.name}': '{set_name}' is no annotation set; it has {declared}")
        return self.name if self.entry.annotated is None else f"{self.name}.{set_name}"


def resolve_names(names: Iterable[str], space: LabelSpace, where: str) -> Atoms:
    """Atoms and classes by name, as one set of atoms.

    Raises:
        LabelError: A name is neither, or a background.
    """
    atoms: set[str] = set()
    for name in names:
        if name in space.classes:
            atoms |= space.classes[name]
        elif name in space.axis_of and name not in {space.background_of(a) for a in space.axes}:
            atoms.add(name)
        else:
            raise LabelError(
                f"{where}: '{name}' is neither a class nor an atom; classes are {list(space.classes)}, "
                f"atoms {[a for a in space.atoms if a not in space.classes]}"
            )
    return frozenset(atoms)
