"""Predicts the images of a folder: shared with other processes, restarted where it stopped, errors case by case."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.text import Text

from nnunet_partial.atomic import atomic_folder, write_json
from nnunet_partial.errors import PartialError, ProblemsError
from nnunet_partial.inference.case_outputs import CaseOutputs
from nnunet_partial.inference.claims import claimed, has_locks, reserved
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
from nnunet_partial.inference.reading.prefetch import Prefetcher
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
        resumes: Skip cases whose output exists when the process starts.
        modalities: Modality of all images, or case to modality, where the model normalises by modality; 'normalised'
            for images of `nnUNetv2_partial_normalize`.
        dataset_json: Written beside predictions, to say what label maps mean; None for the model's.
    """

    images: Path
    output: Path
    kind: Output = "labels"
    probabilities: bool = False
    parts: int = 1
    part: int = 0
    resumes: bool = False
    modalities: str | Mapping[str, str] | None = None
    dataset_json: Mapping[str, Any] | None = None

    def check(self) -> None:
        """Raises a PartialError where parts do not fit together."""
        if self.parts < 1 or not 0 <= self.part < self.parts:
            raise PartialError(
                f"-part_id: expected 0 to {max(self.parts, 1) - 1} for -num_parts {self.parts}, found {self.part}"
            )
        if self.images.is_dir() and self.images.resolve() == self.output.resolve():
            raise PartialError(
                f"-o {self.output}: is the folder of the images, where the next prediction would take label maps for "
                "images; choose another folder"
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

    Several processes may work on one job. A case goes to one of them; what another process finished is left alone
    where the job resumes, or if that was after this process listed the outputs, at its start. Other outputs are made
    anew.

    Args:
        job: What.
        plan: What images must be like.
        ready: Gives what predicts an image, its modality normalised, and writes the outputs of its case; called once,
            and only if there is something to do.
        console: For progress.
        record: How the prediction was made, kept as prediction.json in the output folder. Its 'settings', a
            dictionary, are what a job that resumes must have in common with the one before.

    Returns:
        The cases that this process predicted.

    Raises:
        PartialError: The folder of images is empty or cannot be read, modalities do not fit the model, the output
            cannot be written or would replace an image, or it holds predictions with other settings and the job
            resumes.
        ProblemsError: Cases failed, or their files are not complete; the others are done.
    """
    job.check()
    found = cases_of_folder(job.images, plan.file_ending, len(plan.channel_names), output=job.output)
    rules = model_rules(plan.dataset_json)
    modalities = chosen_modalities(rules, job.images, found.files, job.modalities)
    mine = dict(list(found.files.items())[job.part :: job.parts])
    problems = list(found.problems[job.part :: job.parts])
    _check_images_stay(job, found.files, plan)
    if job.resumes:
        _check_record(job.output / RECORD, record)
    _prepare_output(job, plan, record)
    outputs = CaseOutputs(mine, lambda case: _alternatives(job, case, plan))
    waiting = [case for case in mine if not (job.resumes and outputs.is_done(case))]
    for folder in found.left_out:
        console.print(Text(f"left out: {folder}"))
    console.print(Text(_summary(len(found.files), len(mine), len(waiting), len(problems), job)))
    total = len(waiting) + len(problems)
    predicted: list[str] = []
    if waiting:
        work = _Work(job.output, outputs, lambda case: _read(mine[case], plan, rules, modalities[case]), console)
        predicted = work.predict(waiting, ready, problems)
    if problems:
        raise ProblemsError(f"{len(problems)} of {total} cases could not be predicted", problems)
    return predicted


@dataclass(frozen=True)
class _Work:
    """The cases of one process, of which others may share some."""

    output: Path
    outputs: CaseOutputs
    read: Callable[[str], Image]
    console: Console

    def predict(self, waiting: Sequence[str], ready: Callable[[], Predict], problems: list[str]) -> list[str]:
        """Predicts cases; returns those that this process predicted, and adds what is wrong with others."""
        predicted: list[str] = []
        with Prefetcher(waiting, self.read, self._reserve) as images:
            predict = ready()
            for number, (case, image) in enumerate(self._turns(images), start=1):
                start = time.perf_counter()
                try:
                    is_mine = self._predict_unclaimed(case, image, predict)
                except Exception as error:  # of a case, whatever the libraries raise: the others are done all the same
                    problems.append(f"{case}: {_described(error)}")
                    outcome = "failed"
                else:
                    predicted += [case] * is_mine
                    outcome = f"{time.perf_counter() - start:.1f} s" if is_mine else "another process has it"
                self.console.print(Text(f"{number}/{len(waiting)} {case}: {outcome}"))
        return predicted

    def _turns(self, images: Prefetcher[str, Image]) -> Iterator[tuple[str, Callable[[], Image]]]:
        """The cases, each with its image: those of others last, if these were reserved only, or failed."""
        for fetched in images:
            yield fetched.item, fetched.take
        for case in images.passed_over:
            yield case, functools.partial(self.read, case)

    @contextlib.contextmanager
    def _reserve(self, case: str) -> Iterator[bool]:
        """Keeps other processes from reading a case as well; says False where it is or was theirs."""
        with reserved(self.output, case) as is_mine:
            yield is_mine and not self.outputs.is_new(case)

    def _predict_unclaimed(self, case: str, image: Callable[[], Image], predict: Predict) -> bool:
        """Predicts a case; says False where that is or was another process's."""
        with claimed(self.output, case) as is_mine:
            if not is_mine or self.outputs.is_new(case):
                return False
            if has_locks(self.output):
                self.outputs.remove_leftovers(case)
            predict(image(), case)
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
        write_json(job.output / "dataset.json", job.dataset_json or plan.dataset_json)
        write_json(job.output / RECORD, record)
    except OSError as error:
        raise PartialError(f"{job.output}: the output folder cannot be written ({error.strerror})") from error


def _alternatives(job: Job, case: str, plan: PredictionPlan) -> list[list[Path]]:
    """What must be there for a case to count as finished: with the model's ending, or with that of a DICOM series."""
    return [job.outputs(case, ending) for ending in dict.fromkeys((plan.file_ending, ".nii.gz"))]


def _check_images_stay(job: Job, files: Mapping[str, Sequence[Path]], plan: PredictionPlan) -> None:
    """Refuses outputs that would take the place of an image, as `-i a.nii.gz -o .` would have it."""
    here = job.output.resolve()
    beside = {path.parent for paths in files.values() for path in paths}
    if all(folder.resolve() != here for folder in beside):
        return
    images = {path.resolve() for paths in files.values() for path in paths}
    for case in files:
        for path in itertools.chain(*_alternatives(job, case, plan)):
            if path.resolve() in images:
                raise PartialError(f"{path}: a prediction would replace this image; give another folder with -o")


def _check_record(path: Path, record: Mapping[str, object]) -> None:
    """Refuses to go on in an output folder that was made otherwise: what lies there would be taken for finished."""
    wanted = record.get("settings")
    if not isinstance(wanted, dict) or not path.is_file():
        return
    otherwise = "give another folder with -o, or predict all cases again, without --continue_prediction"
    try:
        before = json.loads(path.read_text("utf-8"))
        known = before["settings"]
        differing = [key for key, value in json.loads(json.dumps(wanted)).items() if known.get(key) != value]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise PartialError(
            f"{path}: expected how the predictions in this folder were made, found none of it; {otherwise}"
        ) from error
    if differing:
        key = differing[0]
        raise PartialError(
            f"{path}: the folder holds predictions with '{key}' {known.get(key)}, now it is {wanted[key]}; {otherwise}"
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
