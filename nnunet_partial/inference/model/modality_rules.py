"""Models of CT and MR together: their images were normalised by modality when the datasets were merged."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnunet_partial.errors import PartialError

if TYPE_CHECKING:
    from nnunet_partial.normalisation import Rule

__all__ = ["NORMALISED", "chosen_modalities", "model_rules", "normalised_image"]

NORMALISED = "normalised"
"""In place of a modality: the image was normalised before, by `nnUNetv2_partial_normalize`."""

_NOT_NEEDED = "this model has no normalisation by modality: leave the modality out (--modality, --modalities)"


def model_rules(dataset_json: Mapping[str, Any]) -> Mapping[str, Rule]:
    """The rules that a model's images were normalised by.

    Args:
        dataset_json: Of the model.

    Returns:
        Modality to rule; empty where nnU-Net normalises.

    Raises:
        PartialError: The block `partial_labels` is damaged, or a modality bears the name `NORMALISED`.
    """
    # most models have no rules, and should not wait for half a second of imports
    if not dataset_json.get("partial_labels", {}).get("normalisation"):
        return {}
    from nnunet_partial.labels.sidecar import partial_labels_of

    rules = partial_labels_of(dataset_json, "the model's dataset.json").normalisation
    if NORMALISED in rules:
        raise PartialError(
            f"this model has a modality '{NORMALISED}', which here stands for images that are normalised already; use "
            "nnUNetv2_partial_normalize and nnUNetv2_predict"
        )
    return rules


def chosen_modalities(
    rules: Mapping[str, Rule], images: Path, cases: Collection[str], modalities: str | Mapping[str, str] | None
) -> dict[str, str | None]:
    """The modality of each case of a folder, checked against the rules of a model.

    Args:
        rules: Of the model.
        images: The folder, for messages.
        cases: Its cases.
        modalities: Modality of all cases, or case to modality, or `NORMALISED`; None for models without rules.

    Returns:
        Case to modality; to None where the model has no rules.

    Raises:
        PartialError: The model has rules and a case has no modality or one without a rule, or the other way round.
    """
    if modalities is None:
        _check(rules, None)
        return dict.fromkeys(cases)
    if not rules:
        raise PartialError(_NOT_NEEDED)
    from nnunet_partial.normalisation import modalities_of_cases

    return {**modalities_of_cases(images, cases, modalities, (*rules, NORMALISED))}


def normalised_image(
    image: NDArray[np.float32], modality: str | None, rules: Mapping[str, Rule]
) -> NDArray[np.float32]:
    """An image as `nnUNetv2_partial_normalize` would have written it, to the bit.

    Args:
        image: (C, z, y, x) as nnU-Net's readers give it, in any orientation; not changed.
        modality: Its modality, or `NORMALISED`; None for models without rules.
        rules: Of the model.

    Returns:
        float32 (C, z, y, x); the image itself where there is nothing to do.

    Raises:
        PartialError: The modality does not fit the rules, or the image holds NaN or infinite voxels.
    """
    _check(rules, modality)
    if modality is None or modality == NORMALISED:
        return image
    if not (np.isfinite(image.min()) and np.isfinite(image.max())):
        raise PartialError("image: expected numbers, found NaN or infinite voxels; replace them, e.g. by those of air")
    single = np.asarray(image, np.float32)
    # (x, y, z) is the order of files; rules go through an image slice by slice along its last axis
    channels = [rules[modality].apply(channel.transpose(2, 1, 0)).transpose(2, 1, 0) for channel in single]
    return channels[0][None] if len(channels) == 1 else np.stack(channels)


def _check(rules: Mapping[str, Rule], modality: str | None) -> None:
    if not rules and modality is not None:
        raise PartialError(_NOT_NEEDED)
    if not rules or modality in (*rules, NORMALISED):
        return
    known = ", ".join(rules)
    if modality is None:
        raise PartialError(
            f"this model's images are normalised by modality, one of {known}: say which with --modality NAME, or case "
            f"by case with --modalities FILE.csv; --modality {NORMALISED} if nnUNetv2_partial_normalize made them"
        )
    raise PartialError(f"the model has no rule for the modality {modality!r}; expected one of {known}, {NORMALISED}")
