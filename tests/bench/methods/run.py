"""One training of the benchmark: collection, networks, predictions, scores, one JSON file."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nnunet_partial.atomic import atomic_path
from nnunet_partial.evaluation import class_masks
from nnunet_partial.labels import PartialLabels
from nnunet_partial.training import Recipe
from tests.bench.methods import frame_collection, phantom_collection, real_collection
from tests.bench.methods.collection import Case, Collection
from tests.bench.methods.methods import METHODS, Method
from tests.bench.methods.mixes import MIXES
from tests.bench.methods.network import logits_of, train
from tests.bench.methods.prediction import DECODINGS, ChannelLogits, class_masks_of
from tests.bench.methods.presets import Preset
from tests.bench.methods.results import Results, RunKey
from tests.bench.methods.scores import dice_of_case, false_positives, mean_dice

__all__ = ["Job", "execute", "network_parts", "settings_of"]

_Make = tuple[Callable[[int, Preset], Collection], Callable[[], str]]

_COLLECTIONS: dict[str, _Make] = {
    **{
        name: (partial(phantom_collection.phantom_collection, name=name), partial(phantom_collection.describe, name))
        for name in MIXES
    },
    "real": (real_collection.real_collection, real_collection.describe),
    "frames": (frame_collection.frame_collection, frame_collection.describe),
}


def settings_of(collection: str, preset: Preset) -> dict[str, Any]:
    """All that must agree between trainings that are compared: sizes, how they are scored, and a digest of what the
    collection is made of.

    Args:
        collection: Its name.
        preset: Its sizes.
    """
    make = hashlib.sha256(_COLLECTIONS[collection][1]().encode()).hexdigest()[:12]
    return {**preset.settings(), "collection": make, "decodings": list(DECODINGS)}


@dataclass(frozen=True)
class Job:
    """A training to be done.

    Attributes:
        key: Its name.
        preset: Sizes of its collection.
        folder: Output folder.
        device: 'cpu' or 'cuda'.
        keeps_picture: Keeps the predicted masks of a held-out case, the middle one.
    """

    key: RunKey
    preset: Preset
    folder: Path
    device: str
    keeps_picture: bool


@dataclass(frozen=True)
class _Trained:
    network: nn.Module
    recipe: Recipe
    labels: PartialLabels
    modality: str


def _cases(method: Method, collection: Collection) -> tuple[PartialLabels, list[Case]]:
    """Labels and training cases: what the sources annotate, or everything."""
    if not method.fully_labelled:
        return collection.labels, list(collection.training)
    return collection.full, [replace(case, labels=case.truth) for case in collection.training]


def network_parts(networks: str, labels: PartialLabels, cases: list[Case]) -> Iterator[tuple[str, list[Case]]]:
    """What each network of a method learns.

    Args:
        networks: `Method.networks`.
        labels: The label model.
        cases: All training cases.

    Yields:
        Classes, comma-separated, '' for all; and the cases of a network. A source that annotates no class has none.
    """
    if networks == "one":
        yield "", cases
        return
    annotated = {case.name: labels.annotated[labels.row_of(case.name)] for case in cases}
    if networks == "class":
        for index, name in enumerate(labels.class_names):
            yield name, [case for case in cases if annotated[case.name][index]]
        return
    for source in labels.sources:
        own = [case for case in cases if labels.source_of(case.name) == source]
        known = [name for i, name in enumerate(labels.class_names) if any(annotated[c.name][i] for c in own)]
        if known:
            yield ",".join(known), own


def _train(job: Job, method: Method, collection: Collection, device: torch.device) -> list[_Trained]:
    declared, cases = _cases(method, collection)
    recipe = method.recipe_with(job.key.sampling)
    trained = []
    parts = list(network_parts(method.networks, declared, cases))
    preset = replace(job.preset, iterations=max(1, job.preset.iterations // len(parts)))
    for classes, own in parts:
        part = replace(recipe, classes=classes)
        labels = part.train_labels(declared)
        part.heads.check(labels)
        network = train(part, labels, own, collection.patch, preset, job.key.seed, device)
        modalities = {declared.set_of(case.name).modality for case in own}
        trained.append(_Trained(network, part, labels, modalities.pop() if len(modalities) == 1 else ""))
    return trained


def execute(job: Job) -> None:
    """Trains, predicts, scores and writes the result; the thread is the only one of its process.

    Args:
        job: What to do.
    """
    torch.set_num_threads(1)
    key, device = job.key, torch.device(job.device)
    method, collection = METHODS[key.method], _COLLECTIONS[key.collection][0](key.seed, job.preset)
    start = time.perf_counter()
    trained = _train(job, method, collection, device)
    seconds = time.perf_counter() - start

    predictions: dict[str, dict[str, NDArray[np.bool_]]] = {}

    def predict(case: Case) -> dict[str, NDArray[np.bool_]]:
        # a case may be held out and a probe
        if case.name not in predictions:
            outputs = [
                ChannelLogits(
                    t.recipe, t.labels, logits_of(t.network, case.image, collection.patch, device), t.modality
                )
                for t in trained
            ]
            modality = collection.full.set_of(case.name).modality
            predictions[case.name] = class_masks_of(outputs, collection.labels, modality)
        return predictions[case.name]

    by_case: dict[str, dict[str, dict[str, float]]] = {decoding: {} for decoding in DECODINGS}
    for number, case in enumerate(collection.held_out):
        masks = predict(case)
        for decoding in DECODINGS:
            by_case[decoding][case.name] = dice_of_case(collection, case, masks[decoding])
        if job.keeps_picture and number == len(collection.held_out) // 2:
            _save_picture(Results(job.folder).prediction_path(key), collection, case, masks[DECODINGS[0]])
    result = {
        "collection": key.collection,
        "method": key.method,
        "sampling": key.sampling,
        "seed": key.seed,
        "settings": settings_of(key.collection, job.preset),
        "dice": {decoding: mean_dice(scores, collection.classes) for decoding, scores in by_case.items()},
        "dice_by_modality": _by_modality(collection, by_case[DECODINGS[0]]),
        "dice_in_focus": {decoding: _in_focus(collection, scores) for decoding, scores in by_case.items()},
        "dice_by_case": _without_nan(by_case),
        "false_positives": false_positives(collection, lambda case: predict(case)[DECODINGS[0]]),
        "networks": len(trained),
        "parameters": sum(p.numel() for t in trained for p in t.network.parameters()),
        "training_seconds": round(seconds, 1),
        "device": job.device,
    }
    Results(job.folder).save(key, result)


def _by_modality(collection: Collection, by_case: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    modalities = {case: collection.full.set_of(case).modality for case in by_case}
    return {
        modality: mean_dice({c: s for c, s in by_case.items() if modalities[c] == modality}, collection.classes)
        for modality in sorted(set(modalities.values()))
    }


def _in_focus(collection: Collection, by_case: dict[str, dict[str, float]]) -> dict[str, float]:
    """Dice of the structures that frames look at; nothing for volumes."""
    own = {c.name: {n: s for n, s in by_case[c.name].items() if n == c.focus} for c in collection.held_out}
    return {name: score for name, score in mean_dice(own, collection.classes).items() if score is not None}


def _without_nan(by_case: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    """As JSON has it: null where Dice is undefined."""
    return {
        decoding: {case: {n: None if v != v else v for n, v in scores.items()} for case, scores in cases.items()}
        for decoding, cases in by_case.items()
    }


def _save_picture(path: Path, collection: Collection, case: Case, masks: NDArray[np.bool_]) -> None:
    """Image, truth and prediction of a case."""
    states = collection.full.states[collection.full.row_of(case.name)]
    truth = np.stack([class_masks(case.truth, states, index)[0] for index in range(len(collection.classes))])
    with atomic_path(path) as temporary:
        np.savez_compressed(
            temporary,
            image=case.image.astype(np.float16),
            truth=truth,
            prediction=masks,
            classes=np.array(collection.classes),
            spacing_mm=np.array(case.spacing_mm),
            case=np.array(case.name),
        )
