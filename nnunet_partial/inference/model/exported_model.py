"""A trained model as a small folder that needs neither nnU-Net nor its trainer, and PyTorch only where it shall.

prediction_plan.json             what prediction must know, where it is from, and how well the files agree
weights_fold_0.safetensors       for PyTorch
network_fold_0.xml, .bin         for OpenVINO
network_fold_0.onnx              for ONNX Runtime
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nnunet_partial import __version__
from nnunet_partial.atomic import atomic_folder, write_json
from nnunet_partial.errors import PartialError
from nnunet_partial.inference.backends.backend import Precision
from nnunet_partial.inference.backends.open_backend import KINDS
from nnunet_partial.inference.model.agreement import TOLERANCE, TOLERANCE_BF16, Agreement, agreements, entry
from nnunet_partial.inference.model.model_folder import CHECKPOINT, LoadedModel, load_model
from nnunet_partial.inference.model.plan import PredictionPlan
from nnunet_partial.inference.model.rivals import with_competition

if TYPE_CHECKING:
    from nnunet_partial.inference.label_values import LabelValues

__all__ = ["PLAN_FILE", "ExportedModel", "export_model", "is_exported", "load_exported"]

PLAN_FILE = "prediction_plan.json"
_FORMAT = 1
_PACKAGES = {"torch": ("torch", "safetensors"), "openvino": ("openvino",), "onnx": ("onnx", "onnxruntime")}


class ExportedModel(NamedTuple):
    """An exported model.

    Attributes:
        plan: What it predicts.
        files: For each back end the files to load, one a fold.
        agreement: How well back ends agreed with PyTorch where the model was exported, by `entry`.
    """

    plan: PredictionPlan
    files: Mapping[str, tuple[Path, ...]]
    agreement: Mapping[str, Agreement]

    def holds(self, kind: str, precision: Precision) -> bool:
        """Whether nothing speaks against a back end in some precision; not every one was compared.

        Args:
            kind: Of the back end.
            precision: It would compute in.
        """
        found = self.agreement.get(entry(kind, precision))
        return found is None or found.holds


@dataclasses.dataclass(frozen=True)
class _Document:
    """Content of prediction_plan.json."""

    format: int
    plan: PredictionPlan
    files: Mapping[str, tuple[str, ...]]
    checkpoints_sha256: Mapping[str, str]
    versions: Mapping[str, str]
    agreement: Mapping[str, Agreement]


def export_model(
    model_folder: Path,
    target: Path,
    folds: Sequence[str | int] | None = None,
    checkpoint: str = CHECKPOINT,
    formats: Sequence[str] = ("torch", "openvino"),
    *,
    configuration: str | None = None,
    trust_checkpoint: bool = False,
    overwrite: bool = False,
    tolerance: float = TOLERANCE,
    tolerance_bf16: float = TOLERANCE_BF16,
    label_values: LabelValues | None = None,
    compete: bool = False,
) -> Mapping[str, Agreement]:
    """Writes a model of nnU-Net as a folder for prediction, and loads it again to see that it predicts the same.

    Args:
        model_folder: Folder TRAINER__PLANS__CONFIGURATION.
        target: Folder to write; it appears when all is done.
        folds: Folds to average, numbers or 'all'; every numbered fold by default.
        checkpoint: File name of the checkpoints.
        formats: Some of `KINDS`.
        configuration: Instead of the one that the checkpoint names.
        trust_checkpoint: Load whatever a checkpoint asks for.
        overwrite: Replace an exported model in `target`.
        tolerance: Largest relative difference that is taken, in fp32.
        tolerance_bf16: Largest one in bf16, beyond which the model is predicted in fp32 unless bf16 is asked for.
        label_values: What label maps of the exported model have by default; None for the model's own values.
        compete: Whether classes compete in label maps of the exported model, by default; see `competing`.

    Returns:
        How well each format agrees with the checkpoints: 'torch', and 'torch, bf16' where this processor has it.

    Raises:
        PartialError: The model cannot be read or written, or a back end predicts something else, or label values name
            what is no class of the model.
    """
    unknown = [kind for kind in formats if kind not in KINDS]
    if unknown or not formats:
        raise PartialError(f"formats: expected some of {list(KINDS)}, found {list(formats)}")
    _check_target(target, overwrite)
    with atomic_folder(target) as folder:
        model = load_model(
            model_folder, folds, checkpoint, configuration=configuration, trust_checkpoint=trust_checkpoint
        )
        plan = _exported_plan(with_competition(model.plan, compete), label_values)
        files = {kind: _write(kind, model, folder) for kind in dict.fromkeys(formats)}
        written = {kind: [folder / name for name in names] for kind, names in files.items()}
        agreement = agreements(model, written, tolerance, tolerance_bf16)
        document = _Document(
            _FORMAT,
            plan,
            files,
            {f"fold_{f}": _sha256(p) for f, p in zip(model.folder.folds, model.folder.checkpoints, strict=True)},
            {"nnunet_partial": __version__, **_versions(files)},
            agreement,
        )
        write_json(folder / PLAN_FILE, dataclasses.asdict(document))
    return agreement


def _exported_plan(plan: PredictionPlan, label_values: LabelValues | None) -> PredictionPlan:
    numbers = None
    if label_values is not None:
        label_values.view(plan.dataset_json, plan.decoding)  # refuses what is no class of the model
        numbers = dict(label_values.numbers)
    return dataclasses.replace(plan, dataset_json=_without_cases(plan.dataset_json), label_values=numbers)


def _without_cases(dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without names of cases and patients, which have no place in a model that is handed on."""
    from nnunet_partial.labels.sidecar import BLOCK

    copied = dict(dataset_json)
    if BLOCK in copied:
        copied[BLOCK] = {k: {} if k == "cases" else v for k, v in copied[BLOCK].items() if k != "patients"}
    return copied


def is_exported(folder: Path) -> bool:
    """Whether a folder holds an exported model rather than one of nnU-Net."""
    return (folder / PLAN_FILE).is_file()


def load_exported(folder: Path) -> ExportedModel:
    """Reads an exported model, but for its weights. Nothing here needs PyTorch.

    Args:
        folder: Of `export_model`.

    Raises:
        PartialError: A file is missing or damaged, or is of another format.
    """
    from pydantic import TypeAdapter, ValidationError

    path = folder / PLAN_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        found = sorted(p.name for p in folder.glob("*"))
        raise PartialError(
            f"{path}: no such file; expected a folder of nnUNetv2_partial_export, found {found}"
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PartialError(f"{path}: cannot be read as JSON ({error}); export the model again") from error
    number = content.get("format") if isinstance(content, dict) else None
    if number != _FORMAT:
        raise PartialError(
            f"{path}: expected format {_FORMAT}, which nnunet_partial {__version__} knows, found {number!r}; export "
            "the model again"
        )
    try:
        document = TypeAdapter(_Document).validate_python(content)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        raise PartialError("\n  - ".join([f"{path}: not valid; export the model again", *problems])) from error
    files = {kind: tuple(_existing(folder, name) for name in names) for kind, names in document.files.items()}
    return ExportedModel(document.plan, files, document.agreement)


def _existing(folder: Path, name: str) -> Path:
    path = folder / name
    if Path(name).name != name or not path.is_file():
        raise PartialError(f"{path}: no such file in {folder}; copy the whole folder, or export the model again")
    return path


def _write(kind: str, model: LoadedModel, folder: Path) -> tuple[str, ...]:
    """Writes the files of a format; returns the names of those to load."""
    names = []
    for fold, weights, source in zip(model.folder.folds, model.weights, model.folder.checkpoints, strict=True):
        if kind == "torch":
            from nnunet_partial.inference.model.weights_file import write_weights

            names.append(f"weights_fold_{fold}.safetensors")
            write_weights(folder / names[-1], weights)
        else:
            from nnunet_partial.inference.backends.conversion import write_network

            names.append(write_network(kind, model.plan, weights, folder / f"network_fold_{fold}", str(source))[0].name)
    return tuple(names)


def _versions(files: Mapping[str, Any]) -> dict[str, str]:
    packages = ("torch", *(package for kind in files for package in _PACKAGES[kind]))
    return {package: importlib.metadata.version(package) for package in dict.fromkeys(packages)}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _check_target(target: Path, overwrite: bool) -> None:
    if target.exists() and not (overwrite and is_exported(target)):
        hint = "--overwrite replaces it" if is_exported(target) else "it is no exported model"
        raise PartialError(f"{target}: exists already; {hint}; choose another folder")
