"""Starting from a trained network: its body is copied, and the heads of classes that both networks have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_partial.errors import PartialError
from nnunet_partial.labels import has_partial_labels, partial_labels_of
from nnunet_partial.networks import segmentation_heads

__all__ = ["Transfer", "channel_names", "load_pretrained"]


@dataclass(frozen=True)
class Transfer:
    """What was taken over from a pretrained network.

    Attributes:
        checkpoint: The file.
        heads: Channels of the network whose heads were copied.
        fresh: Channels whose heads start untrained.
    """

    checkpoint: str
    heads: tuple[str, ...]
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        copied, fresh = ", ".join(self.heads) or "none", ", ".join(self.fresh) or "none"
        return f"Pretrained weights of {self.checkpoint}; heads taken over: {copied}; untrained heads: {fresh}"


def load_pretrained(network: nn.Module, checkpoint: str, dataset_json: dict[str, Any]) -> Transfer:
    """Copies the weights of a checkpoint into a network, in place.

    As nnU-Net's `-pretrained_weights`, every parameter but the heads must exist with the same shape. Beyond it, the
    head of a channel is copied where the pretrained network has a channel of the same name and the same kind
    (sigmoid or softmax), so that a class that both know need not be learned again.

    Args:
        network: The network; may be wrapped by torch.compile or DistributedDataParallel.
        checkpoint: A checkpoint of nnU-Net or of one of our trainers. It is unpickled: load only what you trust.
        dataset_json: The trainer's dataset.json, whose labels are the channels.

    Returns:
        What was copied.

    Raises:
        PartialError: The file is missing or no checkpoint, or the networks differ.
    """
    source = _read(checkpoint)
    weights: dict[str, Tensor] = source["network_weights"]
    bare = _unwrapped(network)
    heads = {id(p) for head in segmentation_heads(bare) for p in head.parameters()}
    own = dict(bare.state_dict(keep_vars=True))
    head_keys = [key for key, value in own.items() if id(value) in heads]
    body = {key: value.detach() for key, value in own.items() if key not in head_keys}
    differing = [key for key, value in body.items() if key not in weights or weights[key].shape != value.shape]
    if differing:
        raise PartialError(
            f"{checkpoint}: the pretrained network is another one: {len(differing)} of {len(body)} parameters are "
            f"missing or of another shape, e.g. {differing[0]}; preprocess and train with the plans it was trained "
            "with (nnUNetv2_move_plans_between_datasets)"
        )
    sigmoid, names = channel_names(dataset_json)
    source_sigmoid, source_names = channel_names(source["init_args"]["dataset_json"])
    shared = [n for n in names if n in source_names] if sigmoid == source_sigmoid else []
    if any(key not in weights or weights[key].shape[1:] != own[key].shape[1:] for key in head_keys):
        shared = []
    rows = [names.index(n) for n in shared]
    source_rows = [source_names.index(n) for n in shared]
    with torch.no_grad():
        for key, value in body.items():
            value.copy_(weights[key])
        for key in head_keys if shared else []:
            own[key].detach()[rows] = weights[key][source_rows].to(own[key])
    return Transfer(checkpoint, tuple(shared), tuple(n for n in names if n not in shared))


def channel_names(dataset_json: dict[str, Any]) -> tuple[bool, list[str]]:
    """Whether a dataset.json makes nnU-Net build sigmoid heads, and the names of the channels in order.

    Args:
        dataset_json: Of a model folder; with or without our block.
    """
    labels: dict[str, Any] = dataset_json["labels"]
    sigmoid = any(isinstance(value, (list, tuple)) and len(value) > 1 for value in labels.values())
    if has_partial_labels(dataset_json) and sigmoid:
        return True, list(partial_labels_of(dataset_json).class_names)
    named = [n for n in labels if n != "ignore" and not (sigmoid and n == "background")]
    return sigmoid, named if sigmoid else sorted(named, key=lambda n: int(labels[n]))


def _read(checkpoint: str) -> dict[str, Any]:
    if not Path(checkpoint).is_file():
        raise PartialError(f"{checkpoint}: no such file; expected a checkpoint, e.g. fold_0/checkpoint_final.pth")
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=False)
    except Exception as error:
        raise PartialError(f"{checkpoint}: cannot be read as a checkpoint ({error})") from error
    if not isinstance(content, dict) or not {"network_weights", "init_args"} <= content.keys():
        raise PartialError(f"{checkpoint}: expected a checkpoint of nnU-Net with 'network_weights' and 'init_args'")
    return content


def _unwrapped(network: nn.Module) -> nn.Module:
    for name in ("module", "_orig_mod"):
        network = getattr(network, name, network)
    return network
