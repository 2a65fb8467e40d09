"""Prediction with one model a class: stock nnUNetv2_predict for each, then one label map a case."""

from __future__ import annotations

import os
import pickle
import shlex
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from nnunet_partial.atomic import write_json
from nnunet_partial.ensemble.combination import THRESHOLD, Probabilities, combine_one_model_a_class
from nnunet_partial.ensemble.models import Ensemble, class_folder
from nnunet_partial.errors import PartialError, ProblemsError
from nnunet_partial.labels import LabelSpace, load_dataset_json, with_classes, with_region_labels
from nnunet_partial.volumes import channel_files

__all__ = ["predict_ensemble"]

_WORK = ".one_model_a_class"
_RECORD = "ensemble.json"


def predict_ensemble(
    ensemble: Ensemble,
    images: Path,
    output: Path,
    folds: Sequence[str],
    *,
    mirroring: bool = True,
    keep_probabilities: bool = False,
    independent: bool = False,
    console: Console | None = None,
) -> list[Path]:
    """Predicts images with one model a class by stock nnUNetv2_predict, and combines the classes of each case.

    Called again after an interruption, it goes on where it stopped. Until all cases are combined, the probabilities of
    all classes lie in a hidden folder of the output: 4 bytes a voxel, class and case, little compressed.

    Args:
        ensemble: The trained models.
        images: Folder of images CASE_0000.ending.
        output: Folder for the label maps, and for the dataset.json that says what their values mean.
        folds: Folds to average over.
        mirroring: nnU-Net's test-time augmentation.
        keep_probabilities: Do not remove the probabilities at the end.
        independent: Also write what each model finds on its own, before classes compete: `independent/CLASS`, label
            maps of one class each.
        console: Where to print.

    Returns:
        The label maps, one a case.

    Raises:
        PartialError: There are no images, a model is missing, the output holds other predictions, or a prediction
            failed.
    """
    console = console or Console()
    ending = str(ensemble.dataset_json["file_ending"])
    cases = list(channel_files(images, ending))
    if not cases:
        raise PartialError(f"{images}: no images; expected files CASE_0000{ending}")
    _check_trained(ensemble, folds)
    labels = ensemble.labels
    alone = {name: output / "independent" / class_folder(name) for name in labels.class_names if independent}
    targets = {case: output / f"{case}{ending}" for case in cases}
    _claim(output, _settings(ensemble, images, folds, mirroring), targets.values())
    write_json(output / "dataset.json", with_region_labels(ensemble.dataset_json, labels))
    for name, folder in alone.items():
        write_json(folder / "dataset.json", with_region_labels(ensemble.dataset_json, with_classes(labels, [name])))

    work = output / _WORK
    pending = [
        c for c, t in targets.items() if not all(p.is_file() for p in (t, *(f / t.name for f in alone.values())))
    ]
    if pending:
        _predict_classes(ensemble, images, work, folds, mirroring=mirroring, console=console)
        writer = _label_map_writer(ensemble)
        for case in pending:
            _combine_case(labels.space, work, case, targets[case], writer=writer, alone=alone)
    if not keep_probabilities:
        shutil.rmtree(work, ignore_errors=True)
    return list(targets.values())


def _predict_classes(
    ensemble: Ensemble, images: Path, work: Path, folds: Sequence[str], *, mirroring: bool, console: Console
) -> None:
    """Probabilities of one class after the other, by stock nnUNetv2_predict."""
    for name in ensemble.labels.class_names:
        ensemble.run(
            name,
            *("nnUNetv2_predict", "-i", images, "-o", work / class_folder(name), "-d", ensemble.dataset),
            *("-c", ensemble.configuration, "-f", *folds, "-tr", ensemble.trainer, "-p", ensemble.plans),
            *("-device", ensemble.device, "--save_probabilities", "--continue_prediction"),
            *([] if mirroring else ["--disable_tta"]),
            log=work / f"{class_folder(name)}.log",
            console=console,
        )


def _combine_case(
    space: LabelSpace, work: Path, case: str, target: Path, *, writer: Any, alone: Mapping[str, Path]
) -> None:
    properties: dict[str, Any] = {}

    def class_by_class() -> Iterator[Probabilities]:
        for name in space.classes:
            probabilities, found = _read_prediction(work / class_folder(name), case)
            properties.update(found)
            if name in alone:
                mask = (probabilities > THRESHOLD).astype(np.uint8)
                _write_label_map(writer, mask, alone[name] / target.name, properties)
            yield probabilities

    combined = combine_one_model_a_class(class_by_class(), space)
    _write_label_map(writer, combined, target, properties)


def _read_prediction(folder: Path, case: str) -> tuple[Probabilities, dict[str, Any]]:
    """What `nnUNetv2_predict --save_probabilities` wrote of a case: the one channel (*S), and the properties."""
    file = folder / f"{case}.npz"
    try:
        with np.load(file) as content:
            probabilities: Probabilities = content["probabilities"]
        properties: dict[str, Any] = pickle.loads((folder / f"{case}.pkl").read_bytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, pickle.PickleError) as error:
        raise PartialError(
            f"{file}: expected the probabilities of nnUNetv2_predict, and {case}.pkl beside them ({error}); delete "
            f"{folder} and run the command again"
        ) from error
    if len(probabilities) != 1:
        raise PartialError(
            f"{file}: expected one channel, that of the class, found {len(probabilities)}; train the models with "
            "sigmoid heads, e.g. -tr PartialLabelTrainerImplicit"
        )
    return probabilities[0], properties


def _label_map_writer(ensemble: Ensemble) -> Any:
    """The reader and writer that the plans name."""
    # here, not above: it imports torch, which nothing else in this file needs
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = ensemble.model_folder(ensemble.labels.class_names[0]) / "plans.json"
    return PlansManager(str(plans)).image_reader_writer_class()


def _write_label_map(writer: Any, labels: npt.NDArray[Any], target: Path, properties: dict[str, Any]) -> None:
    """Writes a label map in one step, with what nnU-Net's writer puts beside it (the spacing of TIFF files)."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as folder:
        writer.write_seg(labels, str(Path(folder) / target.name), properties)
        for file in sorted(Path(folder).iterdir(), key=lambda f: f.name == target.name):
            os.replace(file, target.parent / file.name)


def _check_trained(ensemble: Ensemble, folds: Sequence[str]) -> None:
    problems = []
    for fold in folds:
        places = {
            n: ensemble.model_folder(n) / f"fold_{fold}" / "checkpoint_final.pth" for n in ensemble.labels.class_names
        }
        missing = [name for name, file in places.items() if not file.is_file()]
        if missing:
            command = ["nnUNetv2_partial_ensemble", "train", "-d", ensemble.dataset, "-c", ensemble.configuration]
            command += ["-f", fold, "-tr", ensemble.trainer, "-p", ensemble.plans, "--classes", *missing]
            problems.append(f"fold {fold}: {places[missing[0]]} is missing; train it with: {shlex.join(command)}")
    if problems:
        raise ProblemsError(f"{ensemble.dataset}: not all models are trained", problems)
    for name in ensemble.labels.class_names:
        ensemble.check_model(name)


def _settings(ensemble: Ensemble, images: Path, folds: Sequence[str], mirroring: bool) -> dict[str, Any]:
    return {
        "dataset": ensemble.dataset,
        "model": ensemble.model,
        "folds": list(folds),
        "classes": list(ensemble.labels.class_names),
        "mirroring": mirroring,
        "images": str(images.resolve()),
    }


def _claim(output: Path, settings: dict[str, Any], targets: Iterable[Path]) -> None:
    """Records how an output folder is made; what lies there must have been made so, as it will not be made again."""
    record = output / _RECORD
    if record.is_file():
        before = load_dataset_json(record)
        differing = [key for key, value in settings.items() if before.get(key) != value]
        if differing:
            key = differing[0]
            raise PartialError(
                f"{record}: the folder holds predictions with '{key}' {before.get(key)}, now it is {settings[key]}; "
                "give another folder with -o, or delete this one"
            )
        return
    strange = [file for file in targets if file.exists()]
    if strange:
        raise PartialError(f"{strange[0]} is there, but is of another command; give another folder with -o")
    write_json(record, settings)
