"""The models of an ensemble: where they are, and their training with stock nnUNetv2_train."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Console

from nnunet_partial.errors import LabelError, PartialError, ProblemsError
from nnunet_partial.labels import PartialLabels, load_dataset_json, partial_labels_of, with_classes
from nnunet_partial.labels.raw_dataset import environment_folder, find_dataset_folder

__all__ = ["Ensemble", "class_folder", "find_ensemble", "train_ensemble"]

_RESULTS = "one_model_a_class"
_PREPROCESSED, _TRAINERS = "nnUNet_preprocessed", "nnUNet_extTrainer"
_LOG_TAIL = 25


@dataclass(frozen=True)
class Ensemble:
    """One model for each class of a merged dataset.

    Attributes:
        dataset: Name of the dataset, DatasetXXX_NAME.
        dataset_json: Content of its dataset.json.
        labels: Its label model, with the classes of the ensemble only.
        configuration: nnU-Net's configuration.
        trainer: Name of the trainer.
        plans: Name of the plans.
        results: Folder with one folder of results a class.
    """

    dataset: str
    dataset_json: Mapping[str, Any]
    labels: PartialLabels
    configuration: str
    trainer: str
    plans: str
    results: Path

    @property
    def model(self) -> str:
        """nnU-Net's name of the folder of a model."""
        return f"{self.trainer}__{self.plans}__{self.configuration}"

    def results_of(self, name: str) -> Path:
        """What $nnUNet_results is for the model of a class."""
        return self.results / class_folder(name)

    def model_folder(self, name: str) -> Path:
        """Model folder of a class."""
        return self.results_of(name) / self.dataset / self.model

    def check_model(self, name: str) -> None:
        """Raises LabelError where the model folder of a class is not one of that class alone."""
        content = load_dataset_json(self.model_folder(name))
        found = partial_labels_of(content, str(self.model_folder(name) / "dataset.json")).class_names
        if found != (name,):
            raise LabelError(
                f"{self.model_folder(name)}: expected a model of the class '{name}' alone, found one of "
                f"{list(found)}; delete it and train with a trainer that heeds nnUNet_partial_classes, e.g. "
                "PartialLabelTrainerImplicit"
            )

    def run(self, name: str, *command: str | Path, log: Path, console: Console) -> None:
        """Runs a command of nnU-Net for the model of one class; prints it and how long it took.

        Args:
            name: The class.
            *command: The command line.
            log: File for its output.
            console: Where to print.

        Raises:
            PartialError: It failed; the end of its log is in the message.
        """
        settings = {
            "nnUNet_partial_classes": name,
            "nnUNet_partial_implied_negatives": "0",
            "nnUNet_results": str(self.results_of(name)),
        }
        words = [str(word) for word in command]
        shown = " ".join([f"{key}={shlex.quote(value)}" for key, value in settings.items()] + [shlex.join(words)])
        console.print(f"$ {shown}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"  output: {log}", markup=False, highlight=False, soft_wrap=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        try:
            with log.open("w", encoding="utf-8") as file:
                finished = subprocess.run(
                    words, stdout=file, stderr=subprocess.STDOUT, env={**_environment(), **settings}, check=False
                )
        except FileNotFoundError as error:
            raise PartialError(f"{words[0]}: no such command; install nnunetv2 beside nnunet_partial") from error
        if finished.returncode != 0:
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL:])
            raise PartialError(f"'{shown}' failed with exit code {finished.returncode}; the end of {log}:\n{tail}")
        console.print(f"  done in {time.monotonic() - start:.0f} s", highlight=False)


def find_ensemble(
    dataset: str,
    configuration: str,
    *,
    trainer: str = "PartialLabelTrainerImplicit",
    plans: str = "nnUNetPlans",
    classes: Sequence[str] | None = None,
) -> Ensemble:
    """The ensemble of a merged dataset, trained or not.

    Args:
        dataset: Number or name of the dataset, in $nnUNet_preprocessed or $nnUNet_raw.
        configuration: nnU-Net's configuration.
        trainer: Name of the trainer.
        plans: Name of the plans.
        classes: Classes of the ensemble; all by default.

    Raises:
        PartialError: The dataset, its label model or a class does not exist, or nnUNet_results is not set.
    """
    results = environment_folder("nnUNet_results")
    folder = _dataset_folder(dataset)
    content = load_dataset_json(folder)
    labels = partial_labels_of(content, str(folder / "dataset.json"))
    if classes is not None:
        labels = with_classes(labels, classes)
    for name in labels.class_names:
        if "," in name or not name or name != name.strip():
            raise LabelError(
                f"{folder / 'dataset.json'}: class '{name}' cannot be trained alone: nnUNet_partial_classes separates "
                "names by commas and drops spaces around them; rename the class in the merge file and merge again"
            )
    return Ensemble(folder.name, content, labels, configuration, trainer, plans, results / _RESULTS)


def train_ensemble(ensemble: Ensemble, fold: str, device: str = "cuda", console: Console | None = None) -> None:
    """Trains one model a class with stock nnUNetv2_train, each on the cases that annotate its class.

    A label of another class teaches a model nothing (`nnUNet_partial_implied_negatives=0`, loss masking only). Models
    that are finished are skipped, interrupted ones are continued.

    Args:
        ensemble: What to train.
        fold: Fold number or 'all'.
        device: 'cuda', 'cpu' or 'mps'.
        console: Where to print.

    Raises:
        PartialError: A class cannot be trained, or a training failed.
    """
    console = console or Console()
    labels = ensemble.labels
    problems = [p for name in labels.class_names for p in with_classes(labels, [name]).problems()]
    if problems:
        raise ProblemsError(ensemble.dataset, problems)
    for name in labels.class_names:
        folder = ensemble.model_folder(name) / f"fold_{fold}"
        final = (folder / "checkpoint_final.pth").is_file()
        if final and (folder / "validation" / "summary.json").is_file():
            console.print(f"{name}: trained already", markup=False, highlight=False, soft_wrap=True)
        else:
            more = ["--val"] if final else ["--c"] if (folder / "checkpoint_latest.pth").is_file() else []
            ensemble.run(
                name,
                *("nnUNetv2_train", ensemble.dataset, ensemble.configuration, fold),
                *("-tr", ensemble.trainer, "-p", ensemble.plans, "-device", device, *more),
                log=ensemble.results_of(name) / f"{ensemble.dataset}__{ensemble.model}__fold_{fold}.log",
                console=console,
            )
        ensemble.check_model(name)


def class_folder(name: str) -> str:
    """A folder name for a class: another one for every class, and one name whatever the class is called."""
    return re.sub(r"^\.", "%2E", quote(name, safe=""))


def _dataset_folder(dataset: str) -> Path:
    """The preprocessed dataset, whose dataset.json the trainers read, else the raw one."""
    preprocessed = os.environ.get(_PREPROCESSED)
    if preprocessed:
        by_name = [Path(preprocessed) / dataset]
        folders = Path(preprocessed).glob(f"Dataset{int(dataset):03d}_*") if dataset.isdigit() else by_name
        found = sorted(folder for folder in folders if (folder / "dataset.json").is_file())
        if len(found) > 1:
            raise LabelError(f"dataset {dataset}: several in {preprocessed}: {[p.name for p in found]}; give the name")
        if found:
            return found[0]
    return find_dataset_folder(dataset)


def _environment() -> dict[str, str]:
    """The environment, with our trainers and the commands of this Python among what nnU-Net and the shell look up."""
    shim = str(Path(__file__).parents[1] / "nnunet_ext")
    trainers = [folder for folder in os.environ.get(_TRAINERS, "").split(os.pathsep) if folder]
    if shim not in trainers:
        trainers.append(shim)
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    return {**os.environ, _TRAINERS: os.pathsep.join(trainers), "PATH": os.pathsep.join(path)}
