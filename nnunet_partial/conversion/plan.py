"""Planning a conversion: which cases become what, and whether all their files are there. No volume is read."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from nnunet_partial import __version__
from nnunet_partial.conversion.case import OCCURRING, Case, LeftOut, Masks
from nnunet_partial.conversion.converter import IGNORE, PNG, Annotated, Converter
from nnunet_partial.conversion.source_files import FileState, source_files, state_of
from nnunet_partial.errors import LabelError, PartialError, ProblemsError

__all__ = ["IGNORE_CODE", "Options", "Plan", "PlannedCase", "plan_conversion", "set_name"]

IGNORE_CODE = 65535
"""Stands for 'ignore' until it is known which values overlaps take."""

_CASE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_LONGEST_SET_NAME = 60
_SHOWN = 40
_NO_LABELS = "has no labels (--unlabelled converts it)"


@dataclass(frozen=True)
class Options:
    """What a user can choose.

    Attributes:
        orientation: 'as-is' keeps the axes of the images, 'RAS' turns images and labels to right, anterior, superior.
        link: Make symbolic links to images that need no change, instead of copies.
        labels: Labels to convert; None for all. The others become background that says nothing of them.
        exclude: Cases to leave out.
        unlabelled: Also convert training cases without labels; their label maps hold 'ignore' only.
        overlaps: Voxels of several masks get a value of their own, or become 'ignore'.
        size: Width and height in pixels that pictures are resized to; None leaves them.
    """

    orientation: Literal["as-is", "RAS"] = "as-is"
    link: bool = False
    labels: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    unlabelled: bool = False
    overlaps: Literal["own", "ignore"] = "own"
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class PlannedCase:
    """A case to be converted.

    Attributes:
        case: The case; of masks, only the chosen ones that are there.
        annotated: What was annotated, in the order of the labels; None where the label map tells.
        absent: Structures known not to occur.
        set_name: Its annotation set; None where the label map tells.
        fingerprint: Changes whenever the case would come out differently.
    """

    case: Case
    annotated: tuple[str, ...] | None
    absent: tuple[str, ...]
    set_name: str | None
    fingerprint: str = ""

    @property
    def part(self) -> Literal["Tr", "Ts"]:
        """nnU-Net's ending of the folders it goes to."""
        return "Ts" if self.case.split == "test" else "Tr"


@dataclass(frozen=True)
class Plan:
    """All that a conversion will do.

    Attributes:
        converter: The converter.
        root: Top folder of the files.
        options: What the user chose.
        names: Labels that are converted; the first has value 1.
        cases: The cases.
        left_out: Cases that are not converted, with the reason.
        notes: What the user should know before starting.
    """

    converter: Converter
    root: Path
    options: Options
    names: tuple[str, ...]
    cases: tuple[PlannedCase, ...]
    left_out: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def lookup(self) -> dict[int, int]:
        """Label value in the files to the new value, or to `IGNORE_CODE`."""
        codes = {IGNORE: IGNORE_CODE, **{name: code for code, name in enumerate(self.names, start=1)}}
        return {0: 0, **{value: codes.get(name or "", 0) for value, name in self.converter.values.items()}}

    def fingerprint(self) -> str:
        """Changes whenever the conversion would write something else."""
        cases = [(p.case.id, p.fingerprint, p.case.split, p.case.patient, p.set_name, p.case.note) for p in self.cases]
        converter = self.converter
        table = [converter.name, converter.modality, converter.channel_names, converter.classes, converter.structures]
        table += [converter.sets, converter.absent, converter.licence, converter.citation, converter.url]
        return digest([table, self.names, cases, sorted(self.left_out.items())])


def digest(content: object) -> str:
    """SHA-256 of anything that JSON or `str` can write."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def set_name(annotated: Sequence[str], names: Sequence[str]) -> str:
    """The name of an annotation set that no converter named: 'all', 'none', or its labels."""
    if not annotated:
        return "none"
    if tuple(annotated) == tuple(names):
        return "all"
    joined = "+".join(annotated)
    return joined if len(joined) <= _LONGEST_SET_NAME else f"{len(annotated)}_labels_{digest(joined)[:8]}"


def plan_conversion(converter: Converter, download: Path, options: Options | None = None) -> Plan:
    """Plans a conversion.

    Args:
        converter: The converter.
        download: Top folder of the download, or the folder above it.
        options: What the user chose.

    Returns:
        The plan.

    Raises:
        PartialError: The files are not laid out as expected, some are missing, or the options make no sense; all
            that is missing is named at once.
    """
    options = options or Options()
    if not download.is_dir():
        raise PartialError(f"{download}: no such folder; expected the unpacked download of {converter.name}")
    root = converter.top_folder(download)
    names = _chosen(converter, options)
    if options.size is not None and converter.file_ending != PNG:
        raise PartialError(f"{converter.name} holds volumes; only pictures can be resized")
    entries = list(converter.cases(root))
    cases = [entry for entry in entries if isinstance(entry, Case)]
    left_out = {entry.id: entry.reason for entry in entries if isinstance(entry, LeftOut)}
    _check_names([entry.id for entry in entries], converter)
    unknown = sorted(set(options.exclude) - {entry.id for entry in entries})
    if unknown:
        raise PartialError(f"--exclude: {unknown} are no cases of this download; see --dry-run for their names")
    left_out.update({case.id: "left out by --exclude" for case in cases if case.id in options.exclude})
    planned = [_planned(case, converter, names) for case in cases if case.id not in left_out]
    if not options.unlabelled:
        left_out.update({p.case.id: _NO_LABELS for p in planned if p.part == "Tr" and p.case.label is None})
        planned = [p for p in planned if p.case.id not in left_out]
    planned = _with_files(planned, root, converter, options, names)
    _check_splits(planned, converter)
    if not any(p.part == "Tr" for p in planned):
        reasons = "".join(f"; {count} {reason}" for reason, count in Counter(left_out.values()).items())
        raise PartialError(f"{root}: no training case of {converter.name} is left to convert{reasons}")
    notes = _notes(converter, cases, options)
    return Plan(converter, root, options, names, tuple(planned), left_out, tuple(notes))


def _chosen(converter: Converter, options: Options) -> tuple[str, ...]:
    if options.labels is None:
        return converter.label_names
    unknown = sorted(set(options.labels) - set(converter.label_names))
    if unknown or not options.labels:
        raise LabelError(
            f"--labels: {unknown or 'nothing'} cannot be chosen; labels of {converter.name} are "
            f"{list(converter.label_names)}"
        )
    return tuple(name for name in converter.label_names if name in options.labels)


def _check_names(names: Iterable[str], converter: Converter) -> None:
    counts = Counter(names)
    problems = [f"case '{name}' is found {count} times" for name, count in counts.items() if count > 1]
    problems += [
        f"case '{name}': expected letters, digits, '-', '_' and '.' in the name"
        for name in counts
        if not _CASE_NAME.fullmatch(name)
    ]
    if problems:
        raise ProblemsError(f"{converter.name}: names of cases", problems)


def _planned(case: Case, converter: Converter, names: tuple[str, ...]) -> PlannedCase:
    """Settles what was annotated in a case."""
    where = f"{converter.name}, case '{case.id}'"
    if len(case.channels) != (1 if converter.file_ending == PNG else len(converter.channel_names)):
        raise LabelError(f"{where}: {len(case.channels)} images for the channels {list(converter.channel_names)}")
    if isinstance(case.label, Masks):
        case = _with_chosen_masks(case, case.label, names, where, converter)
    declared = _declared(case, converter, where)
    absent = converter.absent + declared.absent
    if case.annotated == OCCURRING and case.label is not None:
        return PlannedCase(case, None, absent, None)
    annotated = tuple(name for name in names if declared.labels is None or name in declared.labels)
    if isinstance(case.label, Masks):
        without = sorted(set(annotated) - set(case.label.files))
        if without:
            raise LabelError(f"{where}: {without} are annotated, but have no mask")
        if case.label.missing == "unannotated":
            annotated = tuple(name for name in annotated if case.label.files[name].exists())
    if not annotated:
        return PlannedCase(replace(case, label=None), (), absent, set_name((), names))
    named = isinstance(case.annotated, str)
    return PlannedCase(case, annotated, absent, str(case.annotated) if named else set_name(annotated, names))


def _declared(case: Case, converter: Converter, where: str) -> Annotated:
    """What the converter says was annotated, before labels are chosen."""
    if case.label is None:
        return Annotated(())
    if case.annotated is None and isinstance(case.label, Masks):
        return Annotated(tuple(case.label.files))
    if case.annotated is None or case.annotated == OCCURRING:
        return Annotated()
    if isinstance(case.annotated, str):
        if case.annotated not in converter.sets:
            raise LabelError(f"{where}: '{case.annotated}' is no annotation set; there are {sorted(converter.sets)}")
        return converter.sets[case.annotated]
    unknown = sorted(set(case.annotated) - set(converter.label_names))
    if unknown:
        raise LabelError(f"{where}: {unknown} are annotated, but labels are {list(converter.label_names)}")
    return Annotated(case.annotated)


def _with_chosen_masks(case: Case, masks: Masks, names: tuple[str, ...], where: str, converter: Converter) -> Case:
    unknown = sorted(set(masks.files) - set(converter.label_names))
    if unknown:
        raise LabelError(f"{where}: masks of {unknown}, which are no labels; labels are {list(converter.label_names)}")
    return replace(case, label=replace(masks, files={name: masks.files[name] for name in names if name in masks.files}))


def _with_files(
    planned: Iterable[PlannedCase], root: Path, converter: Converter, options: Options, names: tuple[str, ...]
) -> list[PlannedCase]:
    """Checks that all files are there, and gives each case the fingerprint of its files and of what is done to them."""
    how: list[object] = [__version__, converter.values, converter.checks, converter.file_ending, names]
    how += [options.orientation, options.link, options.overlaps, options.size]
    found, problems = [], []
    for one in planned:
        states: list[FileState] = []
        for path, required in source_files(one.case):
            try:
                states += state_of(path)
            except FileNotFoundError:
                if required:
                    problems.append(f"case '{one.case.id}': {_below(path, root)} is missing")
            except OSError as error:
                problems.append(f"case '{one.case.id}': {_below(path, root)} cannot be read ({error.strerror})")
        content = [*how, one.case.image, one.case.label, one.annotated, states]
        found.append(replace(one, fingerprint=digest(content)))
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise ProblemsError(
            f"{root}: the download of {converter.name} is not complete; download what is missing, or leave cases out "
            "with --exclude",
            problems[:_SHOWN] + more,
        )
    return found


def _below(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path


def _check_splits(planned: Iterable[PlannedCase], converter: Converter) -> None:
    parts: dict[str, set[str | int]] = {}
    for one in planned:
        split = one.case.split
        if not (split in ("train", "val", "test") or (isinstance(split, int) and split >= 0)):
            raise LabelError(f"{converter.name}, case '{one.case.id}': unknown split {split!r}")
        parts.setdefault(one.case.patient or f"case {one.case.id}", set()).add(split)
    problems = [
        f"patient '{patient}' stands in {sorted(map(str, splits))}"
        for patient, splits in parts.items()
        if len(splits) > 1
    ]
    if problems:
        raise ProblemsError(f"{converter.name}: patients on both sides of the official split", problems)


def _notes(converter: Converter, cases: Iterable[Case], options: Options) -> list[str]:
    kinds = Counter(
        "test" if case.split == "test" else "train" if case.label is not None else "unlabelled" for case in cases
    )
    words = {"train": "labelled", "unlabelled": "unlabelled", "test": "test"}
    notes = [
        f"{kinds[kind]} {words[kind]} cases found, the full download has {count}"
        for kind, count in converter.expected.items()
        if kinds[kind] != count and (kinds[kind] or kind == "train")
    ]
    if options.link and (options.orientation == "RAS" or options.size):
        notes.append("images that are turned or resized cannot be linked")
    return notes
