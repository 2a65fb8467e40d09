"""Weights in safetensors files, which hold numbers only: loading one cannot run anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from nnunet_partial.errors import PartialError

__all__ = ["read_weights", "write_weights"]

_SAME = "same_as"


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Writes weights; tensors that are one in memory, as the encoder of nnU-Net's networks, are written once.

    Args:
        path: The file.
        weights: By name, as in `state_dict`.

    Raises:
        PartialError: The package safetensors is not installed.
    """
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise PartialError(f"safetensors cannot be imported ({error}); pip install safetensors") from error
    first: dict[tuple[object, ...], str] = {}
    same = {}
    for name, tensor in weights.items():
        # the strides too, since a view of a tensor and its transpose start at the same place
        place = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        kept = first.setdefault(place, name) if tensor.numel() else name
        if kept != name:
            same[name] = kept
    written = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items() if name not in same}
    # not save_file, whose files only their owner may read
    path.write_bytes(save(written, metadata={"format": "pt", _SAME: json.dumps(same)}))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads what `write_weights` wrote.

    Raises:
        PartialError: The package safetensors is not installed, or the file is missing or damaged.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise PartialError(f"safetensors cannot be imported ({error}); pip install safetensors") from error
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
            same = json.loads((file.metadata() or {}).get(_SAME, "{}"))
        weights.update({name: weights[kept] for name, kept in same.items()})
    except FileNotFoundError as error:
        raise PartialError(f"{path}: no such file; expected weights of nnUNetv2_partial_export") from error
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise PartialError(f"{path}: cannot be read as weights ({error}); export the model again") from error
    return weights
