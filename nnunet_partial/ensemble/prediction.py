"""Prediction with one model a class, combined into one label map a case.

All models of an ensemble share their plans, so an image is read and prepared once. Class after class it is then
predicted, its logits are interpolated, and of its probabilities only the voxels above one half are kept: beside the
networks, the number of classes hardly changes the memory. Nothing but results is written, so an interrupted case begins
again.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from nnunet_partial import __version__
from nnunet_partial.atomic import atomic_folder, write_json
from nnunet_partial.ensemble.combination import THRESHOLD, Probabilities, combine_one_model_a_class
from nnunet_partial.ensemble.models import Ensemble, class_folder
from nnunet_partial.errors import LabelError, PartialError, ProblemsError
from nnunet_partial.inference.folder_prediction import RECORD, Job, Predict, predict_cases
from nnunet_partial.inference.model.modality_rules import model_rules
from nnunet_partial.inference.model.model_folder import CHECKPOINT
from nnunet_partial.inference.model.nnunet_plans import read_decoding
from nnunet_partial.inference.model.plan import Decoding, PredictionPlan
from nnunet_partial.inference.predictor import Predictor, open_predictor, plan_of
from nnunet_partial.inference.preprocessing import Prepared, prepare
from nnunet_partial.inference.reading.image_reader import Image
from nnunet_partial.inference.writing.label_writer import file_safe, output_ending, write_labels, write_probabilities
from nnunet_partial.labels import load_dataset_json, with_classes, with_region_labels

__all__ = ["predict_ensemble"]

_KEPT_BYTES = 4 << 30
"""Size of all checkpoints together up to which all networks stay loaded; half of a checkpoint are weights."""
_HOW = ("device", "threads", "batch_size", "trust_checkpoint")
"""Options that say how something is predicted, not what."""


@dataclass(frozen=True)
class _Job(Job):
    """As `Job`, with the folder of each class that is also written on its own."""

    alone: Mapping[str, Path] = field(default_factory=dict)

    def outputs(self, case: str, file_ending: str) -> list[Path]:
        return [
            *super().outputs(case, file_ending),
            *(folder / f"{case}{file_ending}" for folder in self.alone.values()),
        ]


def predict_ensemble(
    ensemble: Ensemble,
    images: Path,
    output: Path,
    folds: Sequence[str],
    *,
    independent: bool = False,
    save_probabilities: bool = False,
    modalities: str | Mapping[str, str] | None = None,
    command: str | None = None,
    console: Console | None = None,
    **options: Any,
) -> list[str]:
    """Predicts images with one model a class, and combines the classes of each case; see `combine_one_model_a_class`.

    Called again after an interruption, it goes on with the cases that are not finished. Several processes may predict
    one folder; each case goes to one of them.

    Args:
        ensemble: The trained models.
        images: Folder of images, as for `nnUNetv2_partial_predict`.
        output: Folder for the label maps, for the dataset.json that says what their values mean, and for
            prediction.json, which says how they were made.
        folds: Folds to average over.
        independent: Also write what each model finds on its own, before classes compete: `independent/CLASS`, label
            maps of one class each.
        save_probabilities: Also write the probability of each class, 0 to 255, to CASE_probabilities/CLASS.ending.
        modalities: Modality of all images, or case to modality, where the models normalise by modality.
        command: The command line, for prediction.json.
        console: Where to print.
        **options: Of `open_predictor`: checkpoint, mode ('exact' or 'fast'), device, precision, step, mirroring,
            batch_size, threads, trust_checkpoint.

    Returns:
        The cases that this process predicted.

    Raises:
        PartialError: There are no images, a model is missing or has other plans than the rest, or the output holds
            other predictions.
        ProblemsError: Cases failed; the others are done.
    """
    console = console or Console()
    names = ensemble.labels.class_names
    models = _Models(ensemble, folds, options)
    plan = models.common_plan()
    if save_probabilities:
        _check_file_names(names)
    settings = _settings(ensemble, images, folds, modalities, options)
    _check_output(output, settings, plan.file_ending)
    alone = {name: output / "independent" / class_folder(name) for name in names if independent}
    job = _Job(images, output, probabilities=save_probabilities, resumes=True, modalities=modalities, alone=alone)

    def ready() -> Predict:
        console.print(Text(f"{len(names)} models, {models.load_each()}"))
        _describe_alone(alone, plan, ensemble)
        return functools.partial(_predict_case, job=job, plan=plan, models=models)

    record: dict[str, object] = {"command": command, "nnunet_partial": __version__, "ensemble": settings}
    return predict_cases(job, plan, ready, console, record)


def _describe_alone(alone: Mapping[str, Path], plan: PredictionPlan, ensemble: Ensemble) -> None:
    """Writes what the label values mean beside the label maps of each class on its own."""
    for name, folder in alone.items():
        content = with_region_labels(plan.dataset_json, with_classes(ensemble.labels, [name]))
        write_json(folder / "dataset.json", content)


def _settings(
    ensemble: Ensemble,
    images: Path,
    folds: Sequence[str],
    modalities: str | Mapping[str, str] | None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """What predictions of one folder have in common."""
    return {
        "dataset": ensemble.dataset,
        "model": ensemble.model,
        "folds": list(folds),
        "classes": list(ensemble.labels.class_names),
        "images": str(images.resolve()),
        "modalities": modalities,
        **{key: value for key, value in options.items() if key not in _HOW},
    }


class _Models:
    """The models of an ensemble: all of them loaded where they are small together, else one at a time.

    Loading takes a second or so, predicting a case with one model seconds on a GPU and minutes on a CPU.

    Args:
        ensemble: Says where they are.
        folds: Folds to average over.
        options: Of `open_predictor`.

    Raises:
        ProblemsError: One is missing.
    """

    def __init__(self, ensemble: Ensemble, folds: Sequence[str], options: Mapping[str, Any]) -> None:
        self.ensemble = ensemble
        self._options = {"checkpoint": CHECKPOINT, "trust_checkpoint": False, **options, "folds": folds}
        self._loaded: dict[str, Predictor] = {}
        files = _checkpoints(ensemble, folds, self._options["checkpoint"])
        self._keeps = sum(file.stat().st_size for file in files) <= _KEPT_BYTES

    def common_plan(self) -> PredictionPlan:
        """The plan of all models, with the labels of the ensemble. Each model mirrors along axes of its own.

        Raises:
            PartialError: A model cannot be read, is not one of its class alone, or has another plan.
        """
        merged = with_region_labels(self.ensemble.dataset_json, self.ensemble.labels)
        plans: list[PredictionPlan] = []
        for name in self.ensemble.labels.class_names:
            self.ensemble.check_model(name)
            folder = self.ensemble.model_folder(name)
            plan = plan_of(folder, *(self._options[key] for key in ("folds", "checkpoint", "trust_checkpoint")))
            if plan.decoding != Decoding(True, (1,), (name,), 1):
                raise PartialError(
                    f"{folder}: expected one output, the sigmoid of the class '{name}', found those of "
                    f"{', '.join(plan.decoding.names)}; train the models with sigmoid heads, e.g. -tr "
                    "PartialLabelTrainerImplicit"
                )
            rules_differ = model_rules(plan.dataset_json) != model_rules(merged)
            plans.append(replace(plan, decoding=read_decoding(merged), mirror_axes=(), dataset_json=merged))
            differing = [f.name for f in fields(plan) if getattr(plans[-1], f.name) != getattr(plans[0], f.name)]
            differing += ["normalisation by modality"] * rules_differ
            if differing:
                raise PartialError(
                    f"{folder}: expected a model with the plans of the other classes, found another {differing[0]}; "
                    "delete it and train it again"
                )
        return plans[0]

    def load_each(self) -> str:
        """Loads each model, so that a damaged one is found before anything is predicted; says what computes them."""
        return [self._predictor(name).backend.description for name in self.ensemble.labels.class_names][-1]

    def probability(self, name: str, prepared: Prepared) -> Probabilities:
        """Probabilities (z, y, x) of a class in the whole image."""
        ((_, probability),) = self._predictor(name).of_prepared(prepared).probabilities()
        return probability

    def _predictor(self, name: str) -> Predictor:
        if name not in self._loaded:
            if not self._keeps:
                self._loaded.clear()
            self._loaded[name] = open_predictor(self.ensemble.model_folder(name), **self._options)
        return self._loaded[name]


def _predict_case(image: Image, case: str, *, job: _Job, plan: PredictionPlan, models: _Models) -> None:
    space = models.ensemble.labels.space
    ending = output_ending(image, plan.file_ending)
    prepared = prepare(image.data, image.spacing, plan, job.modality_once_read)

    def class_by_class(folder: Path | None) -> Iterator[Probabilities]:
        for name in space.classes:
            probability = models.probability(name, prepared)
            if folder is not None:
                write_probabilities([(name, probability)], image, folder, ending)
            if name in job.alone:
                write_labels((probability > THRESHOLD).astype(np.uint8), image, job.alone[name] / f"{case}{ending}")
            yield probability
            del probability  # the next one takes as much memory

    with atomic_folder(job.probability_folder(case)) if job.probabilities else nullcontext() as folder:
        labels = combine_one_model_a_class(class_by_class(folder), space)
    write_labels(labels, image, job.target(case, ending))


def _checkpoints(ensemble: Ensemble, folds: Sequence[str], checkpoint: str) -> list[Path]:
    """The checkpoints of all models and folds, which all must be there."""
    found: list[Path] = []
    problems: list[str] = []
    for fold in folds:
        files = {
            name: ensemble.model_folder(name) / f"fold_{fold}" / checkpoint for name in ensemble.labels.class_names
        }
        missing = [name for name, file in files.items() if not file.is_file()]
        found += files.values()
        if missing:
            command = ["nnUNetv2_partial_ensemble", "train", "-d", ensemble.dataset, "-c", ensemble.configuration]
            command += ["-f", fold, "-tr", ensemble.trainer, "-p", ensemble.plans, "--classes", *missing]
            problems.append(f"fold {fold}: {files[missing[0]]} is missing; train it with: {shlex.join(command)}")
    if problems:
        raise ProblemsError(f"{ensemble.dataset}: not all models are trained", problems)
    return found


def _check_file_names(names: Sequence[str]) -> None:
    owners: dict[str, str] = {}
    for name in names:
        other = owners.setdefault(file_safe(name).casefold(), name)
        if other != name:
            raise LabelError(
                f"probabilities: the classes '{other}' and '{name}' would both be {file_safe(name)}; rename one in the "
                "merge file, or leave out --save_probabilities"
            )


def _check_output(output: Path, settings: Mapping[str, Any], ending: str) -> None:
    """Refuses an output folder that was made otherwise: what lies there would be taken for finished."""
    record = output / RECORD
    before = load_dataset_json(record).get("ensemble") if record.is_file() else None
    if not isinstance(before, dict):
        strange = [file for file in (record, *sorted(output.glob(f"[!.]*{ending}"))) if file.is_file()]
        if strange:
            raise PartialError(f"{strange[0]} is there, but is of another command; give another folder with -o")
        return
    for key, value in settings.items():
        if before.get(key) != value:
            raise PartialError(
                f"{record}: the folder holds predictions with '{key}' {before.get(key)}, now it is {value}; give "
                "another folder with -o, or delete this one"
            )
