"""Plans files in nnU-Net's folder of preprocessed data: found, read, and written with a variant."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict, Unpack

from nnunet_partial.atomic import write_json
from nnunet_partial.errors import PartialError
from nnunet_partial.labels.raw_dataset import environment_folder
from nnunet_partial.networks.plan_variants import Change, describe_changes, plan_variant

__all__ = ["WrittenPlans", "find_preprocessed_folder", "read_dataset_json", "write_plan_variant"]


class _Sizes(TypedDict, total=False):
    configuration: str | None
    patch_size: Sequence[int] | None
    spacing: Sequence[float] | None
    batch_size: int | None
    features: Sequence[int] | None


@dataclass(frozen=True)
class WrittenPlans:
    """What `write_plan_variant` wrote.

    Attributes:
        path: The plans file.
        configuration: Its one configuration.
        changes: Where it differs from the plans it was made of.
        data_folder: Where preprocessed data of its spacing are, or belong.
        preprocessed: Whether all training cases are there.
    """

    path: Path
    configuration: str
    changes: tuple[Change, ...]
    data_folder: Path
    preprocessed: bool


def write_plan_variant(
    folder: Path,
    variant: str,
    name: str,
    *,
    plans_name: str = "nnUNetPlans",
    overwrite: bool = False,
    **sizes: Unpack[_Sizes],
) -> WrittenPlans:
    """Makes a variant of a dataset's plans and writes it beside them.

    Args:
        folder: The dataset's folder in $nnUNet_preprocessed.
        variant: A key of `VARIANTS`.
        name: Name of the new plans.
        plans_name: Name of the plans to change.
        overwrite: Whether a file of that name may be replaced.
        **sizes: As `plan_variant` takes them.

    Returns:
        What was written.

    Raises:
        PartialError: There are no such plans, the file exists already, or as `plan_variant`.
    """
    plans = _read_plans(folder, plans_name)
    result = plan_variant(plans, variant, name, **sizes)
    path = folder / f"{name}.json"
    if path.exists() and not overwrite:
        raise PartialError(f"{path}: there are such plans already; choose another name, or replace them (--overwrite)")
    ((configuration, settings),) = result["configurations"].items()
    data_folder = folder / settings["data_identifier"]
    preprocessed = _is_complete(data_folder)
    write_json(path, result)
    return WrittenPlans(path, configuration, tuple(describe_changes(plans, result)), data_folder, preprocessed)


def find_preprocessed_folder(dataset: str | int) -> Path:
    """The folder of a dataset in $nnUNet_preprocessed.

    Args:
        dataset: A number (3) or a name ('Dataset003_Liver').

    Raises:
        PartialError: There is no such folder, or a number stands for several.
    """
    base = environment_folder("nnUNet_preprocessed")
    text = str(dataset)
    pattern = f"Dataset{int(text):03d}_*" if text.isdigit() else text
    found = sorted(path for path in base.glob(pattern) if path.is_dir())
    if len(found) != 1:
        raise PartialError(
            f"dataset '{text}': expected one folder {base / pattern}, found {[path.name for path in found] or 'none'}; "
            + ("give the name" if found else "plan the dataset first: nnUNetv2_plan_and_preprocess")
        )
    return found[0]


def read_dataset_json(folder: Path) -> dict[str, Any]:
    """The dataset.json that nnU-Net's planning copied into a dataset's folder of preprocessed data."""
    return _read_json(folder / "dataset.json", "plan the dataset first: nnUNetv2_plan_and_preprocess")


def _read_plans(folder: Path, name: str) -> dict[str, Any]:
    # file names of plans carry no fixed suffix; they are told by their content
    others = sorted(p.stem for p in folder.glob("*.json") if _is_plans(p))
    plans = _read_json(folder / f"{name}.json", f"plans there are {others}; plan with nnUNetv2_plan_experiment")
    missing = {"configurations", "plans_name", "transpose_forward"} - plans.keys()
    if missing:
        raise PartialError(f"{folder / name}.json: expected nnU-Net plans, found no {sorted(missing)}")
    return plans


def _is_plans(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(content, Mapping) and "configurations" in content


def _read_json(path: Path, remedy: str) -> dict[str, Any]:
    if not path.is_file():
        raise PartialError(f"{path}: no such file; {remedy}")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PartialError(f"{path}: is no valid JSON ({error}); {remedy}") from error
    return content


def _is_complete(data_folder: Path) -> bool:
    """Whether nnU-Net's preprocessing has finished there: it writes one .pkl file a case, after the case's data."""
    cases = read_dataset_json(data_folder.parent)["numTraining"]
    return len(list(data_folder.glob("*.pkl"))) >= int(cases)
