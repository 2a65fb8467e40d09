"""Predicts the images of a folder: shared with other processes, restarted where it stopped, errors case by case."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.text import Text

from nnunet_partial.atomic import atomic_folder, write_json
from nnunet_partial.errors import PartialError, ProblemsError
from nnunet_partial.inference.claims import claimed
from nnunet_partial.inference.model.modality_rules import (
    NORMALISED,
    chosen_modalities,
    model_rules,
    normalised_image,
)
from nnunet_partial.inference.model.plan import PredictionPlan
from nnunet_partial.inference.predictor import Predictor
from nnunet_partial.inference.reading.case_files import cases_of_folder
from nnunet_partial.inference.reading.image_reader import Image, read_image
from nnunet_partial.inference.reading.prefetch import Fetched, Prefetcher
from nnunet_partial.inference.writing.label_writer import (
    output_ending,
    write_class_files,
    write_labels,
    write_probabilities,
)
from nnunet_partial.inference.writing.segmentation_nrrd import layers_of_masks, write_segmentation_nrrd

if TYPE_CHECKING:
    from nnunet_partial.normalisation import Rule

__all__ = ["OUTPUTS", "RECORD", "Job", "Output", "Predict", "predict_cases", "predict_folder"]

RECORD = "prediction.json"
"""In the output folder: how the predictions were made."""

Predict = Callable[[Image, str], None]
Output = Literal["labels", "classes", "seg.nrrd"]
OUTPUTS: tuple[Output, ...] = ("labels", "classes", "seg.nrrd")
"""'labels': one label map a case, CASE.ending. 'classes': a folder a case with one mask a class, which may overlap.
'seg.nrrd': 3D Slicer's CASE.seg.nrrd, names and colours included, overlaps in layers."""


@dataclass(frozen=True)
class Job:
    """What is to be predicted.

    Attributes:
        images: Folder of images, or one image.
        output: Output folder.
        kind: What is written for a case.
        probabilities: Also write the probability of each class, in 8 bits, to CASE_probabilities/CLASS.ending.
        parts: Number of parts that the cases are dealt out to.
        part: This one, from 0.
        resumes: Skip cases whose output exists.
        modalities: Modality of all images, or case to modality, where the model normalises by modality; 'normalised'
            for images of `nnUNetv2_partial_normalize`.
    """

    images: Path
    output: Path
    kind: Output = "labels"
    probabilities: bool = False
    parts: int = 1
    part: int = 0
    resumes: bool = False
    modalities: str | Mapping[str, str] | None = None

    def check(self) -> None:
        """Raises a PartialError where parts do not fit together."""
        if self.parts < 1 or not 0 <= self.part < self.parts:
            raise PartialError(
                f"-part_id: expected 0 to {max(self.parts, 1) - 1} for -num_parts {self.parts}, found {self.part}"
            )

    def target(self, case: str, file_ending: str) -> Path:
        """What stands for a finished case."""
        return (
            self.output / {"labels": f"{case}{file_ending}", "classes": case, "seg.nrrd": f"{case}.seg.nrrd"}[self.kind]
        )

    def probability_folder(self, case: str) -> Path:
        """Where the probabilities of a case go."""
        return self.output / f"{case}_probabilities"

    def outputs(self, case: str, file_ending: str) -> list[Path]:
        """All that must be there for a case to count as finished."""
        return [self.target(case, file_ending), *([self.probability_folder(case)] if self.probabilities else [])]

    @property
    def modality_once_read(self) -> str | None:
        """Modality of images that were read: these are normalised where the model normalises by modality."""
        return None if self.modalities is None else NORMALISED


def predict_folder(
    job: Job, plan: PredictionPlan, load: Callable[[], Predictor], console: Console, record: dict[str, object]
) -> list[str]:
    """Predicts all cases of a job with one model; see `predict_cases`.

    Args:
        job: What.
        plan: Of the model.
        load: Gives the predictor; called once, and only if there is something to do.
        console: For progress.
        record: How the prediction was made, kept as prediction.json in the output folder.

    Returns:
        The cases that this process predicted.

    Raises:
        PartialError: As `predict_cases`.
    """

    def ready() -> Predict:
        predictor = load()
        console.print(Text(predictor.backend.description))
        return functools.partial(_predict, job=job, predictor=predictor)

    return predict_cases(job, plan, ready, console, record)


def predict_cases(
    job: Job, plan: PredictionPlan, ready: Callable[[], Predict], console: Console, record: dict[str, object]
) -> list[str]:
    """Predicts all cases of a job. The next image is read while one is predicted, and the first one during `ready`.

    Args:
        job: What.
        plan: What images must be like.
        ready: Gives what predicts an image, its modality normalised, and writes the outputs of its case; called once,
            and only if there is something to do.
        console: For progress.
        record: How the prediction was made, kept as prediction.json in the output folder.

    Returns:
        The cases that this process predicted.

    Raises:
        PartialError: The folder of images is empty, modalities do not fit the model, or the output cannot be written.
        ProblemsError: Cases failed, or their files are not complete; the others are done.
    """
    job.check()
    found = cases_of_folder(job.images, plan.file_ending, len(plan.channel_names))
    rules = model_rules(plan.dataset_json)
    modalities = chosen_modalities(rules, job.images, found.files, job.modalities)
    mine = dict(list(found.files.items())[job.part :: job.parts])
    problems = list(found.problems[job.part :: job.parts])
    _prepare_output(job, plan, record)
    began = time.time()
    waiting = [case for case in mine if not (job.resumes and _is_done(job, case, plan))]
    console.print(Text(_summary(len(found.files), len(mine), len(waiting), len(problems), job)))
    total = len(waiting) + len(problems)
    predicted: list[str] = []

    def read(case: str) -> Image:
        return _read(mine[case], plan, rules, modalities[case])

    if waiting:
        with Prefetcher(waiting, read) as images:
            predict = ready()
            for number, fetched in enumerate(images, start=1):
                start = time.perf_counter()
                try:
                    is_mine = _predict_unclaimed(fetched, job, plan, predict, began)
                except Exception as error:  # of a case, whatever the libraries raise: the others are done all the same
                    problems.append(f"{fetched.item}: {_described(error)}")
                    outcome = "failed"
                else:
                    predicted += [fetched.item] * is_mine
                    outcome = f"{time.perf_counter() - start:.1f} s" if is_mine else "another process has it"
                fetched.discard()
                console.print(Text(f"{number}/{len(waiting)} {fetched.item}: {outcome}"))
    if problems:
        raise ProblemsError(f"{len(problems)} of {total} cases could not be predicted", problems)
    return predicted


def _predict_unclaimed(
    fetched: Fetched[str, Image], job: Job, plan: PredictionPlan, predict: Predict, began: float
) -> bool:
    """Predicts a case; says False where that is or was another process's."""
    case = fetched.item
    with claimed(job.output, case) as is_mine:
        if not is_mine or _is_done(job, case, plan, after=began):
            return False
        predict(fetched.take(), case)
        return True


def _described(error: Exception) -> str:
    """What a user is told; of errors that nobody has worded for users, the traceback goes to standard error, too."""
    if isinstance(error, (PartialError, OSError)):
        return str(error)
    if not isinstance(error, MemoryError):
        traceback.print_exception(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _summary(found: int, mine: int, waiting: int, problems: int, job: Job) -> str:
    part = f", {mine} in part {job.part} of {job.parts}" if job.parts > 1 else ""
    done = f", {mine - waiting} done before" if waiting < mine else ""
    unfit = f", {problems} that cannot be" if problems else ""
    return f"{found} cases{part}{done}, {waiting} to predict{unfit}"


def _prepare_output(job: Job, plan: PredictionPlan, record: dict[str, object]) -> None:
    try:
        job.output.mkdir(parents=True, exist_ok=True)
        # what nnU-Net's and our evaluation look for beside predictions
        write_json(job.output / "dataset.json", plan.dataset_json)
        write_json(job.output / RECORD, record)
    except OSError as error:
        raise PartialError(f"{job.output}: the output folder cannot be written ({error.strerror})") from error


def _is_done(job: Job, case: str, plan: PredictionPlan, after: float | None = None) -> bool:
    """Whether the outputs of a case are there; written since a time, if one is given."""
    return any(
        all(path.exists() and (after is None or path.stat().st_mtime >= after) for path in job.outputs(case, ending))
        for ending in (plan.file_ending, ".nii.gz")  # of a DICOM series
    )


def _read(files: Sequence[Path], plan: PredictionPlan, rules: Mapping[str, Rule], modality: str | None) -> Image:
    """Reads an image and normalises it by its modality, where the model has rules."""
    image = read_image(files, plan.reader, channels=len(plan.channel_names), dimensions=len(plan.patch_size))
    if modality in rules:
        from nnunet_partial.normalisation import refuse_normalised

        for file in (file for file in files if file.is_file()):  # a DICOM series has no such mark
            refuse_normalised(file, f"give the original image, or say --modality {NORMALISED}")
    return replace(image, data=normalised_image(image.data, modality, rules))


def _predict(image: Image, case: str, job: Job, predictor: Predictor) -> None:
    ending = output_ending(image, predictor.plan.file_ending)
    target = job.target(case, ending)
    wanted = image.data, image.spacing, job.modality_once_read
    if job.probabilities:
        prediction = predictor.predicted(*wanted)
        with atomic_folder(job.probability_folder(case)) as folder:
            write_probabilities(prediction.probabilities(), image, folder, ending)
        if job.kind == "labels":
            write_labels(prediction.labels(), image, target)
            return
        masks = prediction.masks()
    elif job.kind == "labels":
        write_labels(predictor(*wanted), image, target)
        return
    else:
        masks = predictor.masks(*wanted)
    if job.kind == "classes":
        with atomic_folder(target) as folder:
            write_class_files(masks, image, folder, ending)
    else:
        layers, segments = layers_of_masks(masks)
        write_segmentation_nrrd(layers, segments, image, target)
