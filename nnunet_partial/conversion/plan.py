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
from nnunet_partial.conversion.structures import PAIRED_ORGANS
from nnunet_partial.errors import LabelError, PartialError, ProblemsError

__all__ = ["IGNORE_CODE", "Options", "Plan", "PlannedCase", "plan_conversion", "set_name", "with_sides"]

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
        split_sides: Tell left and right apart where organs of both sides have one label; see `sides`.
    """

    orientation: Literal["as-is", "RAS"] = "as-is"
    link: bool = False
    labels: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    unlabelled: bool = False
    overlaps: Literal["own", "ignore"] = "own"
    size: tuple[int, int] | None = None
    split_sides: bool = False


@dataclass(frozen=True)
class PlannedCase:
    """A case to be converted.

    Attributes:
        case: The case; of masks, only the chosen ones, and those that are looked at.
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
        sided: Those of them that no file has, as they come of splitting, to the label that they come of.
        cases: The cases.
        left_out: Cases that are not converted, with the reason.
        notes: What the user should know before starting.
    """

    converter: Converter
    root: Path
    options: Options
    names: tuple[str, ...]
    sided: Mapping[str, str]
    cases: tuple[PlannedCase, ...]
    left_out: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def read(self) -> tuple[str, ...]:
        """Labels that are read: those that are converted, then others that are looked at."""
        return (*self.names, *_looked_at(self.converter, self.names, self.sided))

    @property
    def lookup(self) -> dict[int, int]:
        """Label value in the files to the position in `read`, counted from 1, or to `IGNORE_CODE`."""
        codes = {IGNORE: IGNORE_CODE, **{name: code for code, name in enumerate(self.read, start=1)}}
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
    sided = _sided_labels(converter, names) if options.split_sides else {}
    if options.split_sides and not sided:
        raise PartialError(f"--split-sides: {converter.name} has no label that joins left and right: {list(names)}")
    if options.size is not None and converter.file_ending != PNG:
        raise PartialError(f"{converter.name} holds volumes; only pictures can be resized")
    entries = list(converter.cases(root))
    cases = [entry for entry in entries if isinstance(entry, Case)]
    removed = [entry for entry in entries if isinstance(entry, LeftOut)]
    left_out = {entry.id: entry.reason for entry in removed}
    _check_names([entry.id for entry in entries], converter)
    unknown = sorted(set(options.exclude) - {entry.id for entry in entries})
    if unknown:
        raise PartialError(f"--exclude: {unknown} are no cases of this download; see --dry-run for their names")
    left_out.update({case.id: "left out by --exclude" for case in cases if case.id in options.exclude})
    planned = [_planned(case, converter, names, sided) for case in cases if case.id not in left_out]
    if not options.unlabelled:
        left_out.update({p.case.id: _NO_LABELS for p in planned if p.part == "Tr" and p.case.label is None})
        planned = [p for p in planned if p.case.id not in left_out]
    names = (*names, *sided)
    planned = _with_files(planned, root, converter, options, names)
    _check_splits(planned, converter)
    if not any(p.part == "Tr" for p in planned):
        reasons = "".join(f"; {count} {reason}" for reason, count in Counter(left_out.values()).items())
        raise PartialError(f"{root}: no training case of {converter.name} is left to convert{reasons}")
    notes = _notes(converter, cases, removed, options)
    return Plan(converter, root, options, names, sided, tuple(planned), left_out, tuple(notes))


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


def _sided_labels(converter: Converter, names: Sequence[str]) -> dict[str, str]:
    """Labels that splitting adds: the left and the right one, to the label of both.

    Args:
        converter: The converter; one of its labels, chosen or not, must be the organ itself, which tells the side.
        names: Labels that are converted.
    """
    found = {}
    for organ in PAIRED_ORGANS:
        if not any(name in organ.whole for name in converter.label_names):
            continue
        for name, pair in organ.structures.items():
            left, right = map(converter.tissues, pair)
            is_both = not left & right and left | right == converter.tissues(name)
            if name in names and is_both and not set(pair) & set(converter.label_names):
                found.update(dict.fromkeys(pair, name))
    return found


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


def _planned(case: Case, converter: Converter, names: tuple[str, ...], sided: Mapping[str, str]) -> PlannedCase:
    """Settles what was annotated in a case."""
    where = f"{converter.name}, case '{case.id}'"
    if len(case.channels) != (1 if converter.file_ending == PNG else len(converter.channel_names)):
        raise LabelError(f"{where}: {len(case.channels)} images for the channels {list(converter.channel_names)}")
    if isinstance(case.label, Masks):
        case = _with_chosen_masks(case, case.label, names, _looked_at(converter, names, sided), converter)
    declared = _declared(case, converter, where)
    absent = converter.absent + declared.absent
    if case.annotated == OCCURRING and case.label is not None:
        return PlannedCase(case, None, absent, None)
    annotated = tuple(name for name in names if declared.labels is None or name in declared.labels)
    if isinstance(case.label, Masks):
        without = sorted(set(annotated) - set(case.label.files))
        if without:
            raise LabelError(
                f"{where}: {without} are annotated, but have no mask; is it another release? Choose with --labels what "
                "it has"
            )
        if case.label.missing == "unannotated":
            annotated = tuple(name for name in annotated if case.label.files[name].exists())
    if not annotated:
        return PlannedCase(replace(case, label=None), (), absent, set_name((), names))
    name = case.annotated if isinstance(case.annotated, str) else set_name(annotated, names)
    return PlannedCase(case, with_sides(annotated, sided), absent, name)


def with_sides(annotated: Iterable[str], sided: Mapping[str, str]) -> tuple[str, ...]:
    """What was annotated, with the labels that come of splitting it."""
    annotated = tuple(annotated)
    return (*annotated, *(name for name, both in sided.items() if both in annotated))


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


def _with_chosen_masks(
    case: Case, masks: Masks, names: tuple[str, ...], looked_at: tuple[str, ...], converter: Converter
) -> Case:
    unknown = sorted(set(masks.files) - set(converter.label_names))
    if unknown:
        raise LabelError(
            f"{converter.name}, case '{case.id}': masks of {unknown}, which are no labels; labels are "
            f"{list(converter.label_names)}"
        )
    files = {name: masks.files[name] for name in names if name in masks.files}
    for name in looked_at:  # a check without all of its structures is not made
        if name in masks.files and masks.files[name].exists():
            files[name] = masks.files[name]
    return replace(case, label=replace(masks, files=files))


def _looked_at(converter: Converter, names: Sequence[str], sided: Mapping[str, str]) -> tuple[str, ...]:
    """Labels that are not converted, but that checks look at, or that tell the side of others."""
    needed = [label for check in converter.checks for label in check.labels]
    for organ in PAIRED_ORGANS:
        if not organ.structures.keys().isdisjoint(sided.values()):
            needed += [name for name in organ.structures if name in converter.label_names]
    return tuple(name for name in dict.fromkeys(needed) if name not in names)


def _with_files(
    planned: Iterable[PlannedCase], root: Path, converter: Converter, options: Options, names: tuple[str, ...]
) -> list[PlannedCase]:
    """Checks that all files are there, and gives each case the fingerprint of its files and of what is done to them."""
    how: list[object] = [__version__, converter.values, converter.checks, converter.file_ending, names]
    how += [options.orientation, options.link, options.overlaps, options.size, options.split_sides]
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


def _notes(converter: Converter, cases: Iterable[Case], removed: Iterable[LeftOut], options: Options) -> list[str]:
    kinds = Counter(
        "test" if case.split == "test" else "train" if case.label is not None else "unlabelled" for case in cases
    )
    # 'expected' counts those that a download holds; whether withdrawn ones are among them differs
    gone: Counter[str] = Counter(case.split for case in removed)
    words = {"train": "labelled", "unlabelled": "unlabelled", "test": "test"}
    notes = []
    for kind, count in converter.expected.items():
        if (kinds[kind] or kind == "train") and not kinds[kind] <= count <= kinds[kind] + gone[kind]:
            more = f" and {gone[kind]} left out" if gone[kind] else ""
            notes.append(f"{kinds[kind]} {words[kind]} cases found{more}, the full download has {count}")
    if options.link and (options.orientation == "RAS" or options.size):
        notes.append("images that are turned or resized cannot be linked")
    return notes
