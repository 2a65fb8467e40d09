"""`Converter`: all that is known of a public dataset, as one table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from nnunet_partial.conversion.case import Case, LeftOut
from nnunet_partial.conversion.checks import Check
from nnunet_partial.conversion.structures import STRUCTURES, tissues
from nnunet_partial.errors import LabelError

__all__ = ["IGNORE", "PNG", "Annotated", "Converter"]

IGNORE = "ignore"
"""Label name for voxels of which nothing is known, as in nnU-Net."""

PNG = ".png"
_NIFTI = ".nii.gz"
_DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_LABEL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_RESERVED = {"background", "unknown", "all", "none"}


@dataclass(frozen=True)
class Annotated:
    """What was annotated in some of the cases.

    Attributes:
        labels: Label names; None for all.
        absent: Structures that occur in none of these cases, though they have no label.
    """

    labels: tuple[str, ...] | None = None
    absent: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Converter:
    """A public dataset: where it comes from, what its labels mean, and how its cases are found.

    Attributes:
        name: Name of the dataset, which the command takes: letters, digits, '-' and '_'.
        dataset_id: Default number of the new dataset, 1 to 999.
        modality: 'CT', 'MR', 'PET+CT', ...
        labels: Label value in the files to the name of its structure (see `structures`); the new dataset numbers the
            names from 1, in this order. None takes the value for background, 'ignore' for unknown. Where files are
            masks of one structure each, the names in their order.
        cases: Finds the cases below the top folder of the download; reads no images.
        layout: Patterns of the files that are used, for `--describe`.
        licence: Licence, in words that say how sure they are.
        citation: What to cite.
        url: Where the dataset is.
        channels: nnU-Net's channel names; the modality by default. nnU-Net chooses the normalisation by them.
        classes: What a network shall find: names of structures; each label by default.
        structures: Structures of this dataset besides those of `STRUCTURES`, or differing from them: name to parts.
        sets: Annotation sets that cases name as `annotated`.
        absent: Structures that occur in none of the cases, though they have no label: healthy volunteers' tumours.
        checks: Run on every case, with its image; what they look at is read even where it is not converted.
        top: Folders that the archive unpacks to; the user may give the folder above.
        expected: How many cases a full download has: 'train' (labelled), 'unlabelled' and 'test'.
        file_ending: '.nii.gz', or '.png' for pictures.
        notes: What a user should know; for `--describe`.
    """

    name: str
    dataset_id: int
    modality: str
    labels: Mapping[int, str | None] | Sequence[str]
    cases: Callable[[Path], Iterable[Case | LeftOut]]
    layout: tuple[str, ...]
    licence: str
    citation: str
    url: str
    channels: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    structures: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sets: Mapping[str, Annotated] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    top: tuple[str, ...] = ()
    expected: Mapping[str, int] = field(default_factory=dict)
    file_ending: str = _NIFTI
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise LabelError(f"converter '{self.name}': {problem}")

    @cached_property
    def values(self) -> dict[int, str | None]:
        """Label value in the files to structure."""
        if isinstance(self.labels, Mapping):
            return dict(self.labels)
        return dict(enumerate(self.labels, start=1))

    @cached_property
    def label_names(self) -> tuple[str, ...]:
        """Structures that have a label, in the order of the new values 1, 2, ..."""
        return tuple(dict.fromkeys(name for name in self.values.values() if name not in (None, IGNORE)))

    @property
    def channel_names(self) -> tuple[str, ...]:
        """nnU-Net's channel names."""
        return self.channels or (self.modality,)

    def tissues(self, name: str) -> frozenset[str]:
        """The tissues that a structure consists of."""
        return frozenset(tissues(name, {**STRUCTURES, **self.structures}))

    def top_folder(self, download: Path) -> Path:
        """The top folder of the files, where the user gave it or the folder above it."""
        return next((download / name for name in self.top if (download / name).is_dir()), download)

    def _problems(self) -> Iterator[str]:
        if not _DATASET_NAME.fullmatch(self.name):
            yield "the name must consist of letters, digits, '-' and '_'"
        if not 1 <= self.dataset_id <= 999:
            yield f"dataset_id: expected 1 to 999, found {self.dataset_id}"
        if self.file_ending not in (_NIFTI, PNG):
            yield f"file_ending: expected '{_NIFTI}' or '{PNG}', found {self.file_ending!r}"
        strange = sorted(set(self.expected) - {"train", "unlabelled", "test"})
        if strange:
            yield f"expected: {strange} are unknown; known are 'train', 'unlabelled' and 'test'"
        yield from self._problems_of_labels()

    def _problems_of_labels(self) -> Iterator[str]:
        if not self.label_names:
            yield "'labels' names no structure"
        if 0 in self.values:
            yield "value 0 is what no label marks; it takes no name"
        for name in (*self.label_names, *self.sets):
            if not _LABEL_NAME.fullmatch(name) or name in _RESERVED:
                yield f"'{name}' cannot be a name: expected letters, digits and '_', and none of {sorted(_RESERVED)}"
        labelled = frozenset[str]().union(*(self.tissues(name) for name in self.label_names))
        for name in self.classes:
            if not self.tissues(name) <= labelled:
                yield f"class '{name}': no label marks {sorted(self.tissues(name) - labelled)}"
        listed = {name: entry.labels or () for name, entry in self.sets.items()}
        listed["checks"] = tuple(label for check in self.checks for label in check.labels)
        for place, names in listed.items():
            strange = sorted(set(names) - set(self.label_names))
            if strange:
                yield f"{place}: {strange} have no label; labels are {list(self.label_names)}"
