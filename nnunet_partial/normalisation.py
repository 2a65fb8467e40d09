"""Intensities of CT and MR in one dataset: each modality has a declared rule, applied image by image.

nnU-Net normalises a channel in one way for a whole dataset, and finds preprocessors in its own package only. So the
images are normalised before nnU-Net sees them, and their channel is called `noNorm`, which nnU-Net leaves as it is.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nnunet_partial.errors import PartialError, ProblemsError, VolumeError
from nnunet_partial.parallel import for_each_case
from nnunet_partial.volumes import (
    INTENSITY_ENDINGS,
    channel_files,
    read_description,
    read_intensities,
    write_intensities,
)

__all__ = [
    "CHANNEL_NAME",
    "Clip",
    "Fingerprint",
    "Percentiles",
    "Rule",
    "ZScore",
    "fingerprint_clip",
    "histogram",
    "modalities_of_cases",
    "normalise_file",
    "normalise_folder",
    "refuse_normalised",
    "rule_from_json",
    "rule_to_json",
]

CHANNEL_NAME = "noNorm"
"""nnU-Net's name of a channel whose intensities it leaves as they are."""

Image = npt.NDArray[Any]
Histogram = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]
"""Values, ascending, and how many voxels have each."""

_MARK = "nnunet_partial normalised"
_BINS = 1 << 14
_PART = 1 << 20
_FORMS = "expected fingerprint, zscore, {clip: [low, high]} or {percentiles: [low, high]}"


@dataclass(frozen=True)
class Clip:
    """Cuts intensities off at fixed numbers, then scales them to 0..1, or to (x - mean) / sd.

    Without mean and sd, CT air becomes 0, and nnU-Net crops the scan to the body. With them this is nnU-Net's
    CTNormalization.

    Attributes:
        low, high: Intensities are cut off here, in the unit of the images (HU).
        mean, sd: Subtracted, and divided by; both or neither.
    """

    low: float
    high: float
    mean: float | None = None
    sd: float | None = None

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError("clip: expected two numbers, the lower one first")
        if (self.mean is None) != (self.sd is None) or (self.sd is not None and not self.sd > 0):
            raise ValueError("clip: expected both mean and sd or neither, and an sd above 0")

    def apply(self, image: Image) -> npt.NDArray[np.float32]:
        """The normalised image; (*S) in and out."""
        subtract = self.low if self.mean is None else self.mean
        divide = self.high - self.low if self.sd is None else self.sd
        return _mapped(image, lambda part: (part.clip(self.low, self.high) - subtract) / divide)


@dataclass(frozen=True)
class Percentiles:
    """Cuts an image off at two percentiles of its voxels above 0, and scales it to 0..1.

    What lies at the lower percentile or below it, air and negative values among them, becomes 0. An image without
    contrast above 0 becomes 0 everywhere.

    Attributes:
        low, high: Percentiles, 0 to 100.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 100:
            raise ValueError("percentiles: expected two numbers of 0 to 100, the lower one first")

    def apply(self, image: Image) -> npt.NDArray[np.float32]:
        """The normalised image; (*S) in and out."""
        positive = image[image > 0]
        if positive.size == 0:
            return np.zeros(image.shape, np.float32)
        low, high = (float(v) for v in np.percentile(positive, [self.low, self.high], overwrite_input=True))
        return Clip(low, high).apply(image) if low < high else np.zeros(image.shape, np.float32)


@dataclass(frozen=True)
class ZScore:
    """Subtracts the mean of an image's nonzero region and divides by its standard deviation.

    The region is that of nnU-Net's crop: the voxels that are not 0, and holes among them. Outside of it voxels stay
    0, so that nnU-Net crops as it would have; this is nnU-Net's ZScoreNormalization with a mask, of each channel by
    itself. nnU-Net uses the mask only where cropping takes away more than a quarter of most scans; we always do.
    A region without contrast becomes 0. 2D images have no holes, because nnU-Net makes them volumes of one slice.
    """

    def apply(self, image: Image) -> npt.NDArray[np.float32]:
        """The normalised image; (*S) in and out."""
        region = ndimage.binary_fill_holes(np.atleast_3d(image != 0)).reshape(image.shape)
        voxels = image[region]
        voxels.sort()  # so that sums come out the same for each order of the axes
        if voxels.size == 0 or voxels.min() == voxels.max():
            return np.zeros(image.shape, np.float32)
        mean = float(voxels.mean(dtype=np.float64))
        sd = math.sqrt(sum(float(np.square(part - mean).sum()) for part in _parts(voxels)) / voxels.size)
        normalised = _mapped(image, lambda part: (part - mean) / sd)
        normalised[~region] = 0
        return normalised


@dataclass(frozen=True)
class Fingerprint:
    """A `Clip` whose numbers follow from the foreground of all images of a modality, see `fingerprint_clip`."""


Rule = Clip | Percentiles | ZScore
"""What can be applied to an image."""


def _mapped(image: Image, function: Callable[[npt.NDArray[np.float64]], Image]) -> npt.NDArray[np.float32]:
    """Applies a function in float64, slice by slice: a whole volume would be eight bytes a voxel."""
    result = np.empty(image.shape, np.float32, order="F")
    for index in range(image.shape[-1]):
        result[..., index] = function(image[..., index].astype(np.float64))
    return result


def _parts(voxels: Image) -> Iterator[npt.NDArray[np.float64]]:
    for start in range(0, voxels.size, _PART):
        yield voxels[start : start + _PART].astype(np.float64)


def rule_from_json(content: Any) -> Rule | Fingerprint:
    """Reads a rule as the merge file and dataset.json write it.

    Args:
        content: 'fingerprint', 'zscore', {'percentiles': [low, high]} or {'clip': [low, high]}, the last one also
            with 'mean' and 'sd'.

    Raises:
        ValueError: It is something else; says what was expected.
    """
    if content == "fingerprint":
        return Fingerprint()
    if content == "zscore":
        return ZScore()
    if not isinstance(content, dict):
        raise ValueError(_FORMS)
    if set(content) == {"percentiles"}:
        return Percentiles(*_numbers(content["percentiles"], "percentiles"))
    if set(content) == {"clip"}:
        return Clip(*_numbers(content["clip"], "clip"))
    if set(content) == {"clip", "mean", "sd"}:
        return Clip(*_numbers(content["clip"], "clip"), *_numbers([content["mean"], content["sd"]], "mean and sd"))
    raise ValueError(_FORMS)


def _numbers(content: Any, key: str) -> list[float]:
    if (
        not isinstance(content, (list, tuple))
        or len(content) != 2
        or not all(isinstance(n, (int, float)) and not isinstance(n, bool) and math.isfinite(n) for n in content)
    ):
        raise ValueError(f"{key}: expected two numbers")
    return [float(number) for number in content]


def rule_to_json(rule: Rule | Fingerprint) -> str | dict[str, Any]:
    """The inverse of `rule_from_json`."""
    if isinstance(rule, Clip):
        numbers = {} if rule.mean is None else {"mean": rule.mean, "sd": rule.sd}
        return {"clip": [rule.low, rule.high], **numbers}
    if isinstance(rule, Percentiles):
        return {"percentiles": [rule.low, rule.high]}
    return "zscore" if isinstance(rule, ZScore) else "fingerprint"


def histogram(voxels: Image) -> Histogram:
    """Counts the values of some voxels.

    Args:
        voxels: Any shape. Integers are counted as they are; others are rounded to a power of two between 1/32768 and
            1/16384 of their range, which keeps whole numbers as they are, too, in a range below 32768.

    Returns:
        Values, ascending, and counts: at most 32769 of them where values are no integers.
    """
    if voxels.dtype.kind == "f" and voxels.size:
        span = float(voxels.max()) - float(voxels.min())
        if span > 0:
            step = 2.0 ** math.floor(math.log2(span / _BINS))
            voxels = np.round(voxels.astype(np.float64) / step) * step
    values, counts = np.unique(voxels, return_counts=True)
    return values.astype(np.float64), counts.astype(np.int64)


def fingerprint_clip(histograms: Sequence[Histogram]) -> Clip:
    """The rule `fingerprint`: clip at the 0.5 and 99.5 percentile, subtract the mean, divide by the standard deviation.

    As nnU-Net's CTNormalization, but over all foreground voxels, where nnU-Net takes a sample of as many voxels of
    each case. Exact where all intensities are integers; else the percentiles are right to a 32768th of the
    intensity range of a case.

    Args:
        histograms: Of the foreground voxels, one or more a case.

    Returns:
        The rule with its numbers.

    Raises:
        ValueError: There are no voxels, or no contrast between them.
    """
    values = np.concatenate([np.zeros(0), *(h[0] for h in histograms)])
    weights = np.concatenate([np.zeros(0, np.int64), *(h[1] for h in histograms)])
    values, places = np.unique(values, return_inverse=True)
    counts = np.zeros(values.size, np.int64)
    np.add.at(counts, places, weights)
    total = int(counts.sum())
    if total == 0:
        raise ValueError("no foreground voxels")
    mean = float((values * counts).sum() / total)
    sd = math.sqrt(float((np.square(values - mean) * counts).sum() / total))
    low, high = (_percentile(values, counts, percent) for percent in (0.5, 99.5))
    if not low < high:
        raise ValueError(f"nearly all foreground voxels have the intensity {low:g}")
    return Clip(low, high, mean, sd)


def _percentile(values: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], percent: float) -> float:
    """Linear between neighbours in rank, as numpy.percentile."""
    last = np.cumsum(counts) - 1
    rank = percent / 100 * float(last[-1])
    below, above = (values[np.searchsorted(last, r)] for r in (math.floor(rank), math.ceil(rank)))
    return float(below + (above - below) * (rank - math.floor(rank)))


def refuse_normalised(path: Path, advice: str = "give the original image") -> None:
    """Refuses an image that carries the mark of a normalised one.

    Raises:
        VolumeError: It does, or cannot be read; ends with the advice.
    """
    if read_description(path).startswith(_MARK):
        raise VolumeError(f"{path}: is normalised already, and would be normalised twice; {advice}")


def _mark(rule: Rule) -> str:
    digest = hashlib.sha256(json.dumps(rule_to_json(rule)).encode()).hexdigest()
    return f"{_MARK} {digest[:12]}"


def normalise_file(source: Path, target: Path, rule: Rule) -> None:
    """Writes a normalised copy of an image: float32, with the geometry of the source, and marked as normalised.

    Args:
        source: The original image.
        target: Where the copy goes; in the format of the source.
        rule: The rule of its modality.

    Raises:
        VolumeError: The image cannot be read or written, holds no finite numbers, or is normalised already.
    """
    refuse_normalised(source)
    # in single precision, as nnU-Net's readers give them: what is normalised after reading comes out the same
    image = read_intensities(source).astype(np.float32, copy=False)
    write_intensities(target, rule.apply(image), source, _mark(rule))


@dataclass(frozen=True)
class _Task:
    source: Path
    target: Path
    rule: Rule
    overwrite: bool


def _normalise(task: _Task) -> bool:
    if task.target.exists() and not task.overwrite:
        if read_description(task.target) == _mark(task.rule):
            return False
        raise VolumeError(
            f"{task.target}: exists, but was not normalised by the rule {json.dumps(rule_to_json(task.rule))}; choose "
            "another folder, or replace it with --overwrite"
        )
    normalise_file(task.source, task.target, task.rule)
    return True


def normalise_folder(
    images: Path,
    output: Path,
    rules: Mapping[str, Rule],
    modalities: str | Mapping[str, str],
    *,
    file_ending: str,
    processes: int = 1,
    overwrite: bool = False,
) -> tuple[int, int]:
    """Normalises a folder of images for prediction; images that are there already are not made again.

    Args:
        images: Folder of CASE_0000.ending.
        output: Folder for the normalised images, under the same names.
        rules: Modality to rule, as the model's dataset.json has them.
        modalities: Modality of all cases, or case to modality.
        file_ending: File ending of the model's images.
        processes: Worker processes.
        overwrite: Make all images again.

    Returns:
        Images written, and images that were there already.

    Raises:
        PartialError: There are no rules, no images, or no rule for some case.
        ProblemsError: Single images could not be normalised; the others are done.
    """
    if not rules:
        raise PartialError("this model needs no normalisation: give the images to nnUNetv2_predict as they are")
    if output.resolve() == images.resolve():
        raise PartialError(f"{output}: the normalised images would replace the originals; choose another folder")
    if file_ending not in INTENSITY_ENDINGS:
        raise PartialError(f"file ending {file_ending}: expected one of {list(INTENSITY_ENDINGS)}")
    of_image = _rules_of_images(images, rules, modalities, file_ending)
    tasks = [_Task(path, output / path.name, rule, overwrite) for path, rule in of_image.items()]
    # temporary files of a run that was killed; nnU-Net would take them for images
    for leftover in output.glob(".*"):
        if re.sub(r"^\.\d+\.", "", leftover.name) in {task.target.name for task in tasks}:
            leftover.unlink()
    written, problems = for_each_case(_normalise, tasks, processes=processes, description="normalising")
    if problems:
        raise ProblemsError(f"{output}: {len(tasks) - len(problems)} of {len(tasks)} images are done", problems)
    return sum(map(bool, written)), len(tasks) - sum(map(bool, written))


def _rules_of_images(
    images: Path, rules: Mapping[str, Rule], modalities: str | Mapping[str, str], file_ending: str
) -> dict[Path, Rule]:
    cases = channel_files(images, file_ending)
    if not cases:
        raise PartialError(f"{images}: no images found; expected files CASE_0000{file_ending}")
    of_case = modalities_of_cases(images, cases, modalities, rules)
    return {path: rules[of_case[case]] for case, files in cases.items() for path in files.values()}


def modalities_of_cases(
    images: Path, cases: Collection[str], modalities: str | Mapping[str, str], known: Collection[str]
) -> dict[str, str]:
    """The modality of each case of a folder.

    Args:
        images: The folder, for messages.
        cases: Its cases.
        modalities: Modality of all cases, or case to modality; other cases may be listed, too.
        known: What a modality may be.

    Raises:
        PartialError: A case has none, or none that is known.
    """
    of_case = dict.fromkeys(cases, modalities) if isinstance(modalities, str) else modalities
    unlisted = sorted(case for case in cases if case not in of_case)
    if unlisted:
        raise PartialError(f"{images}: no modality is given for the cases {unlisted}; add them to the CSV file")
    found = {case: of_case[case] for case in cases}
    unknown = sorted(set(found.values()) - set(known))
    if unknown:
        raise PartialError(f"the model has no rule for the modality {unknown}; expected some of {sorted(known)}")
    return found
