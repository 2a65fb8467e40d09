"""Converting one case: reading it whole, checking that image and labels fit, and writing it."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_partial.atomic import atomic_path, write_json
from nnunet_partial.conversion.case import ImageSource
from nnunet_partial.conversion.checks import Check
from nnunet_partial.conversion.converter import PNG
from nnunet_partial.conversion.image_writing import resized_labels, resized_picture, write_image
from nnunet_partial.conversion.intensities import doubt_of_hounsfield
from nnunet_partial.conversion.label_reading import Codes, keep_names, read_codes
from nnunet_partial.conversion.placement import place, turned_to_ras
from nnunet_partial.conversion.plan import IGNORE_CODE, Options, PlannedCase
from nnunet_partial.conversion.reading import Volume, read_image
from nnunet_partial.conversion.sides import split_sides
from nnunet_partial.conversion.source_files import SourceRecord
from nnunet_partial.errors import LabelError, PartialError, VolumeError
from nnunet_partial.volumes import Geometry, geometry_difference, value_counts, write_label_map

__all__ = ["CaseTask", "OutputError", "convert_case", "record_path", "staged_path", "writing"]

_FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}


class OutputError(Exception):
    """The new dataset cannot be written: no space, no permission. No other case would fare better."""


@dataclass(frozen=True)
class CaseTask:
    """What a worker needs to convert a case.

    Attributes:
        planned: The case.
        root: Top folder of the download.
        folder: The dataset that is being built.
        names: Labels that are written; the first has value 1.
        read: These, then others that are only looked at.
        lookup: Value in the files to the position in `read`, counted from 1.
        colours: Channels that a picture must have; 0 for volumes.
        checks: What the image must vouch for.
        modality: Of the images.
        channel_names: nnU-Net's; of images that are called CT, intensities are looked at.
        file_ending: Ending of the new files.
        options: What the user chose.
    """

    planned: PlannedCase
    root: Path
    folder: Path
    names: tuple[str, ...]
    read: tuple[str, ...]
    lookup: dict[int, int]
    colours: int
    checks: tuple[Check, ...]
    modality: str
    channel_names: tuple[str, ...]
    file_ending: str
    options: Options

    def output(self, kind: str, name: str) -> Path:
        """Where a file of the case goes."""
        return self.folder / f"{kind}{self.planned.part}" / f"{name}{self.file_ending}"


def record_path(folder: Path, case: str) -> Path:
    """The record of a finished case, written after everything else of it."""
    return folder / "records" / f"{case}.json"


def staged_path(folder: Path, case: str, file_ending: str) -> Path:
    """A label map with overlaps or ignored voxels, until their final values are known."""
    return folder / "staged" / f"{case}{file_ending}"


def convert_case(task: CaseTask) -> dict[str, Any]:
    """Converts a case, unless that was done already.

    Returns:
        Its record: sources with their SHA-256, what happened to the images, which labels occur.

    Raises:
        PartialError: Something is wrong with its files.
        OutputError: The new dataset cannot be written.
    """
    case = task.planned.case
    done = _finished(task)
    if done is not None:
        return done
    with writing(task.folder):  # an old record must not vouch for files that are replaced now
        record_path(task.folder, case.id).unlink(missing_ok=True)
    sources = SourceRecord(task.root)
    try:
        first = read_image(case.channels[0], sources, task.file_ending)
        _check_colours(first, task.colours)
        codes, placement, sides = _codes(task, first, sources)
        images, doubts = [_write_image(task, 0, first)], [_doubt(task, 0, first)]
        geometry = first.geometry
        del first  # one channel in memory at a time
        for channel, source in enumerate(case.channels[1:], start=1):
            written, doubt = _write_further_channel(task, channel, source, geometry, sources)
            images.append(written)
            doubts.append(doubt)
        labels = _write_codes(task, codes)
    except PartialError as error:
        raise type(error)(f"case '{case.id}': {error}") from error
    record = {"case": case.id, "fingerprint": task.planned.fingerprint, "images": images, **labels}
    record |= {"placement": placement, "sides": sides, "intensities": "; ".join(filter(None, doubts))}
    record["sources"] = sources.as_json()
    with writing(record_path(task.folder, case.id)):
        write_json(record_path(task.folder, case.id), record)
    return record


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turns errors of writing into ours: `OutputError` where nothing can be written any more."""
    try:
        yield
    except (OSError, VolumeError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if isinstance(cause, OSError) and cause.errno in _FATAL:
            raise OutputError(f"{target}: cannot be written ({cause.strerror})") from error
        if isinstance(error, OSError):
            raise VolumeError(f"{target}: cannot be written ({error.strerror or error})") from error
        raise


def _finished(task: CaseTask) -> dict[str, Any] | None:
    case = task.planned.case
    try:
        record = dict(json.loads(record_path(task.folder, case.id).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
    outputs = [task.output("images", f"{case.id}_{channel:04d}") for channel in range(len(case.channels))]
    if record.get("staged"):
        outputs.append(staged_path(task.folder, case.id, task.file_ending))
    elif record.get("labels") is not None:
        outputs.append(task.output("labels", case.id))
    finished = record.get("fingerprint") == task.planned.fingerprint and all(path.exists() for path in outputs)
    return record if finished else None


def _check_colours(image: Volume, colours: int) -> None:
    if not colours:
        return
    found = image.array.shape[-1] if image.array.ndim > 2 else 1
    if found != colours:
        raise VolumeError(f"{image.path}: expected a picture of {colours} colour channels, found {found}")


def _write_further_channel(
    task: CaseTask, channel: int, source: ImageSource, geometry: Geometry, sources: SourceRecord
) -> tuple[str, str]:
    image = read_image(source, sources, task.file_ending)
    difference = geometry_difference(geometry, image.geometry)
    if difference:
        difference = difference.replace("the label map", "this one").replace("label spacing", "here")
        raise VolumeError(f"{image.path}: does not lie on the first channel of the case: {difference}")
    return _write_image(task, channel, image), _doubt(task, channel, image)


def _doubt(task: CaseTask, channel: int, image: Volume) -> str:
    """What speaks against the intensities of a CT; '' where nothing does."""
    is_ct = task.file_ending != PNG and task.channel_names[channel] == "CT"
    return doubt_of_hounsfield(image.array) if is_ct else ""


def _codes(task: CaseTask, image: Volume, sources: SourceRecord) -> tuple[Codes | None, str, dict[str, str]]:
    """The labels of the case as they are written, what was done to place them, and to split sides."""
    planned, label = task.planned, task.planned.case.label
    if label is None and planned.part == "Ts":
        return None, "", {}
    placement, sides = "", {}
    if label is None:
        unknown = np.full(image.geometry.shape, IGNORE_CODE, np.uint16)
        codes = Codes(unknown, image.geometry, task.names, image.path)
    else:
        codes = read_codes(label, task.lookup, task.read, sources)
        placement = place(codes, label, image, task.checks)
        if task.options.split_sides:
            sides = split_sides(codes, image, task.modality)
        keep_names(codes, task.names, ignore_overlaps=task.options.overlaps == "ignore")
    if task.options.orientation == "RAS" and image.geometry.physical:
        codes.array, _ = turned_to_ras(codes.array, image.geometry)
    if task.options.size is not None:
        structures = [codes.values_of(name) for name in codes.names]
        codes.array = resized_labels(codes.array, task.options.size, structures)
    codes.counts = value_counts(codes.array)
    _check_annotated(codes, planned)
    return codes, placement, sides


def _check_annotated(codes: Codes, planned: PlannedCase) -> None:
    """A label that was not annotated cannot occur."""
    if planned.annotated is None:
        return
    strange = [name for name in _occurring(codes) if name not in planned.annotated]
    if strange:
        raise LabelError(
            f"{codes.path}: {strange} occur, but the annotation set '{planned.set_name}' has only "
            f"{list(planned.annotated)}"
        )


def _occurring(codes: Codes) -> list[str]:
    return [name for name in codes.names if any(value in codes.counts for value in codes.values_of(name))]


def _write_image(task: CaseTask, channel: int, image: Volume) -> str:
    """Writes, copies or links an image; returns which."""
    target = task.output("images", f"{task.planned.case.id}_{channel:04d}")
    array, geometry, unchanged = image.array, image.geometry, image.usable
    if task.options.orientation == "RAS" and geometry.physical:
        turned, geometry = turned_to_ras(array, geometry)
        unchanged &= np.array_equal(geometry.affine, image.geometry.affine)
        array = turned
    if task.options.size is not None and array.shape[:2] != task.options.size:
        array, unchanged = resized_picture(array, task.options.size), False
    with writing(target), atomic_path(target) as temporary:
        if not unchanged:
            write_image(temporary, array, geometry)
            return "converted"
        if task.options.link:
            temporary.symlink_to(image.path.resolve())
            return "linked"
        shutil.copyfile(image.path, temporary)
        return "copied"


def _write_codes(task: CaseTask, codes: Codes | None) -> dict[str, Any]:
    """Writes the label map; returns its part of the record."""
    if codes is None:
        return {"labels": None, "occurring": [], "overlaps": {}, "ignore": 0, "staged": False}
    case = task.planned.case.id
    counts = codes.counts
    staged = max(counts, default=0) > len(codes.names)
    target = staged_path(task.folder, case, task.file_ending) if staged else task.output("labels", case)
    with writing(target):
        write_label_map(target, codes.array, task.output("images", f"{case}_0000"))
    return {
        "labels": {name: counts.get(value, 0) for value, name in enumerate(codes.names, start=1)},
        "occurring": _occurring(codes),
        "overlaps": {
            str(value): {"structures": list(parts), "voxels": counts[value]}
            for value, parts in codes.overlaps.items()
            if value in counts
        },
        "ignore": counts.get(IGNORE_CODE, 0),
        "staged": staged,
    }
