"""nnU-Net's folders of trained models: which folds there are, their checkpoints, and what they predict."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.model.nnunet_plans import read_plan
from nnunet_partial.inference.model.plan import PredictionPlan

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CHECKPOINT",
    "Checkpoint",
    "LoadedModel",
    "ModelFolder",
    "find_model_folder",
    "load_checkpoint",
    "load_model",
    "open_model_folder",
]

CHECKPOINT = "checkpoint_final.pth"
_RESULTS = "nnUNet_results"
_WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
_REFUSED = re.compile(r"\bGLOBAL ([\w.]+)")
_SHOWN = 20


@dataclass(frozen=True)
class ModelFolder:
    """A folder that nnUNetv2_train wrote.

    Attributes:
        path: The folder.
        plans: Content of its plans.json.
        dataset_json: Content of its dataset.json.
        folds: Names of the folds to average: numbers, or 'all'.
        checkpoint: File name of the checkpoint in the folder of each fold.
    """

    path: Path
    plans: Mapping[str, Any]
    dataset_json: Mapping[str, Any]
    folds: tuple[str, ...]
    checkpoint: str

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """The checkpoint of each fold."""
        return tuple(self.path / f"fold_{fold}" / self.checkpoint for fold in self.folds)

    def plan(self, checkpoint: Checkpoint, configuration: str | None = None) -> PredictionPlan:
        """What the model predicts.

        Args:
            checkpoint: Of one fold, which names trainer, configuration and mirroring.
            configuration: Instead of the one of the checkpoint.

        Raises:
            PartialError: As `read_plan`.
        """
        return read_plan(
            self.plans,
            self.dataset_json,
            configuration=configuration or checkpoint.configuration,
            trainer=checkpoint.trainer,
            mirror_axes=checkpoint.mirror_axes,
            source=str(self.path / "plans.json"),
        )


@dataclass(frozen=True)
class Checkpoint:
    """What prediction needs of a checkpoint.

    Attributes:
        path: The file.
        trainer: Class name of the trainer.
        configuration: Name of the configuration.
        mirror_axes: Axes to mirror along; None where there is no mirroring.
        weights: By name, on the CPU, without prefixes of wrappers.
    """

    path: Path
    trainer: str
    configuration: str
    mirror_axes: tuple[int, ...] | None
    weights: Mapping[str, Tensor]


@dataclass(frozen=True)
class LoadedModel:
    """A model with its weights.

    Attributes:
        folder: Where it is from.
        plan: What it predicts.
        weights: One for each fold.
    """

    folder: ModelFolder
    plan: PredictionPlan
    weights: tuple[Mapping[str, Tensor], ...]


def find_model_folder(dataset: str, configuration: str, trainer: str, plans: str) -> Path:
    """The folder $nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION.

    Args:
        dataset: Number or name of the dataset.
        configuration: E.g. '3d_fullres'.
        trainer: Class name of the trainer.
        plans: Name of the plans.

    Raises:
        PartialError: nnUNet_results is not set, or there is no such folder, or several datasets have the number.
    """
    if not os.environ.get(_RESULTS):
        raise PartialError(
            f"the environment variable {_RESULTS} is not set; set it to where nnU-Net keeps its models, or give the "
            "model folder with -m"
        )
    results = Path(os.environ[_RESULTS])
    pattern = f"Dataset{int(dataset):03d}_*" if dataset.isdigit() else dataset
    model = f"{trainer}__{plans}__{configuration}"
    # the name of a dataset is no pattern: it may hold brackets
    folders = sorted(results.glob(pattern)) if dataset.isdigit() else [results / pattern]
    datasets = [folder for folder in folders if folder.is_dir()]
    if not datasets:
        raise PartialError(f"{results}: no trained model of dataset {dataset}; there are {_content(results)}")
    found = [folder / model for folder in datasets if (folder / model).is_dir()]
    if len(found) > 1:
        raise PartialError(f"dataset {dataset}: several in {results}: {[p.parent.name for p in found]}; give the name")
    if not found:
        there = {folder.name: _content(folder) for folder in datasets}
        raise PartialError(f"{results}: no model {model} of dataset {dataset}; there are {there}")
    return found[0]


def open_model_folder(
    path: Path, folds: Sequence[str | int] | None = None, checkpoint: str = CHECKPOINT
) -> ModelFolder:
    """Reads plans and dataset.json of a model folder, and looks for its folds. Nothing here needs PyTorch.

    Args:
        path: Folder TRAINER__PLANS__CONFIGURATION.
        folds: Folds to average, numbers or 'all'; every numbered fold with that checkpoint by default, as nnU-Net.
        checkpoint: File name of the checkpoints.

    Raises:
        PartialError: The folder, one of its files or a fold is missing, or a file is not JSON.
    """
    if not path.is_dir():
        raise PartialError(f"{path}: no such folder; expected a model folder TRAINER__PLANS__CONFIGURATION of nnU-Net")
    plans, dataset_json = (_read_json(path / name) for name in ("plans.json", "dataset.json"))
    chosen = _available(path, checkpoint) if folds is None else tuple(_fold(fold) for fold in folds)
    model = ModelFolder(path, plans, dataset_json, chosen, checkpoint)
    if not chosen:
        raise PartialError(
            f"{path}: no fold_N with {checkpoint}; there are {_content(path, '*', 'fold_*/*.pth')}; choose folds with "
            "-f, e.g. '-f all', and the checkpoint with -chk"
        )
    for file in model.checkpoints:
        if not file.is_file():
            raise PartialError(f"{file}: no such file; there are {_content(path, 'fold_*/*.pth')}")
    return model


def load_model(
    path: Path,
    folds: Sequence[str | int] | None = None,
    checkpoint: str = CHECKPOINT,
    *,
    configuration: str | None = None,
    trust_checkpoint: bool = False,
) -> LoadedModel:
    """Plan and weights of a model folder.

    Args:
        path: Folder TRAINER__PLANS__CONFIGURATION.
        folds: As `open_model_folder`.
        checkpoint: File name of the checkpoints.
        configuration: Instead of the one that the checkpoint of the first fold names.
        trust_checkpoint: As `load_checkpoint`.

    Raises:
        PartialError: As `open_model_folder`, `load_checkpoint` and `read_plan`.
    """
    folder = open_model_folder(path, folds, checkpoint)
    loaded = [load_checkpoint(file, trust_checkpoint) for file in folder.checkpoints]
    return LoadedModel(folder, folder.plan(loaded[0], configuration), tuple(each.weights for each in loaded))


def load_checkpoint(path: Path, trust_checkpoint: bool = False) -> Checkpoint:
    """Loads a checkpoint of nnU-Net. Only weights and what prediction needs are read from the disk.

    A checkpoint is a pickle, and a pickle can run anything. So only tensors, plain values and NumPy's numbers, which
    nnU-Net logs, are loaded.

    Args:
        path: The file.
        trust_checkpoint: Load whatever the file asks for, as nnU-Net does.

    Raises:
        PartialError: The file is no checkpoint of nnU-Net, or asks for more than that.
    """
    content = _load(path, trust_checkpoint)
    keys = ("network_weights", "trainer_name", "init_args")
    if not isinstance(content, dict) or any(key not in content for key in keys):
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise PartialError(f"{path}: no checkpoint of nnU-Net v2; expected the keys {list(keys)}, found {found}")
    configuration = content["init_args"].get("configuration")
    if configuration is None:
        raise PartialError(f"{path}: its 'init_args' name no configuration; is it a checkpoint of nnU-Net v2?")
    axes = content.get("inference_allowed_mirroring_axes")
    return Checkpoint(
        path,
        str(content["trainer_name"]),
        str(configuration),
        None if axes is None else tuple(int(axis) for axis in axes),
        {_unwrapped(name): tensor for name, tensor in content["network_weights"].items()},
    )


def _load(path: Path, trust_checkpoint: bool) -> Any:
    import torch

    mapped = zipfile.is_zipfile(path)  # PyTorch's older files cannot be mapped into memory
    try:
        if trust_checkpoint:
            return torch.load(path, map_location="cpu", weights_only=False, mmap=mapped)
        with torch.serialization.safe_globals(_harmless_globals()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError as error:
        raise PartialError(f"{path}: no such file; expected a checkpoint of nnU-Net") from error
    except pickle.UnpicklingError as error:
        wanted = _REFUSED.search(str(error))
        if wanted is None or trust_checkpoint:
            raise PartialError(
                f"{path}: cannot be read as a checkpoint ({_first_sentence(error)}); it may be damaged, copy it again"
            ) from error
        raise PartialError(
            f"{path}: wants to load {wanted[1]}, which is neither a tensor nor a plain value and could run anything; "
            "load it only if you trust who made it: --trust_checkpoint (trust_checkpoint=True)"
        ) from error
    except Exception as error:  # damaged files fail anywhere in PyTorch: RuntimeError, KeyError, EOFError, ...
        raise PartialError(
            f"{path}: cannot be read as a checkpoint ({type(error).__name__}: {_first_sentence(error)}); copy it again"
        ) from error


def _harmless_globals() -> list[Any]:
    """NumPy's numbers and arrays under the names of NumPy 1 and 2: nnU-Net logs its scores as such."""
    import numpy as np

    try:
        multiarray = importlib.import_module("numpy._core.multiarray")
    except ModuleNotFoundError:  # NumPy 1
        multiarray = importlib.import_module("numpy.core.multiarray")
    functions = [
        (getattr(multiarray, name), f"numpy.{core}.multiarray.{name}")
        for name in ("scalar", "_reconstruct")
        for core in ("core", "_core")
    ]
    return [*functions, np.dtype, np.ndarray, *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}]


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).partition(". ")[0] or type(error).__name__


def _available(path: Path, checkpoint: str) -> tuple[str, ...]:
    names = [fold.name.removeprefix("fold_") for fold in path.glob("fold_*") if (fold / checkpoint).is_file()]
    return tuple(sorted((name for name in names if name.isdigit()), key=int))


def _fold(fold: str | int) -> str:
    text = str(fold)
    if text != "all" and not text.isdigit():
        raise PartialError(f"folds: expected numbers or 'all', found {fold!r}")
    return text if text == "all" else str(int(text))


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PartialError(
            f"{path}: no such file; expected a model folder of nnU-Net with plans.json and dataset.json; there are "
            f"{_content(path.parent)}"
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PartialError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise PartialError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _content(folder: Path, *patterns: str) -> list[str]:
    """What is in a folder, for messages."""
    found = sorted({str(p.relative_to(folder)) for pattern in patterns or ("*",) for p in folder.glob(pattern)})
    return found[:_SHOWN] + ([f"... {len(found) - _SHOWN} more"] if len(found) > _SHOWN else [])
