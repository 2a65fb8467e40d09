"""Starting from a trained network: its body is copied, and the heads of classes that both networks have."""

from __future__ import annotations

from collections.abc import Mapping
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
        origins: Channel of the network to the channels of the pretrained one whose mean its head is.
        fresh: Channels whose heads start untrained.
    """

    checkpoint: str
    origins: Mapping[str, tuple[str, ...]]
    fresh: tuple[str, ...]

    @property
    def heads(self) -> tuple[str, ...]:
        """Channels of the network whose heads were taken over."""
        return tuple(self.origins)

    def __str__(self) -> str:
        taken = ", ".join(_described(name, found) for name, found in self.origins.items()) or "none"
        fresh = ", ".join(self.fresh) or "none"
        return f"Pretrained weights of {self.checkpoint}; heads taken over: {taken}; untrained heads: {fresh}"


def load_pretrained(network: nn.Module, checkpoint: str, dataset_json: dict[str, Any]) -> Transfer:
    """Copies the weights of a checkpoint into a network, in place.

    As nnU-Net's `-pretrained_weights`, every parameter but the heads must exist with the same shape. Beyond it, the
    head of a channel is copied where the pretrained network has a channel of the same name and the same kind
    (sigmoid or softmax), so that a class that both know need not be learned again.

    A class that a source keeps apart is called `SOURCE.CLASS`, as all are in MultiTalent's label space. Where no
    sigmoid channel has the same name, `btcv.liver` starts from `liver`. Where there is no such channel either, `liver`
    and `btcv.liver` start from the livers that sources keep apart: from the mean of their weights and biases, which
    gives the mean of their logits.

    Args:
        network: The network; may be wrapped by torch.compile or DistributedDataParallel.
        checkpoint: A checkpoint of nnU-Net or of one of our trainers. It is unpickled: load only what you trust.
        dataset_json: The trainer's dataset.json, whose labels are the channels.

    Returns:
        What was taken over, and from which channels.

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
    names = channel_names(dataset_json)[1]
    known = source["init_args"]["dataset_json"]
    known_names = channel_names(known)[1]
    origins = _origins(dataset_json, known)
    if any(key not in weights or weights[key].shape[1:] != own[key].shape[1:] for key in head_keys):
        origins = {}
    with torch.no_grad():
        for key, value in body.items():
            value.copy_(weights[key])
        for key in head_keys:
            for name, found in origins.items():
                rows = weights[key][[known_names.index(n) for n in found]]
                own[key].detach()[names.index(name)] = rows.to(own[key]).mean(0)
    return Transfer(checkpoint, origins, tuple(n for n in names if n not in origins))


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


def _origins(dataset_json: dict[str, Any], known: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Channel of a network to the channels of a pretrained one that stand for the same class; others are left out."""
    if channel_names(dataset_json)[0] != channel_names(known)[0]:
        return {}
    known_classes = _classes(known)
    origins = {}
    for name, class_name in _classes(dataset_json).items():
        same = [n for n in (name, class_name) if n in known_classes][:1]
        found = same or [n for n, known_class in known_classes.items() if known_class == class_name]
        if found:
            origins[name] = tuple(found)
    return origins


def _classes(dataset_json: dict[str, Any]) -> dict[str, str]:
    """Channel name to the name of its class without the source that keeps it apart, in channel order.

    The axis tells whether there is such a source: `vertebra.L1` on the common axis is only a name. Softmax channels
    are atoms of a single axis, on which nothing is kept apart.
    """
    sigmoid, names = channel_names(dataset_json)
    if not (sigmoid and has_partial_labels(dataset_json)):
        return {n: n for n in names}
    labels = partial_labels_of(dataset_json)
    axes = labels.space.class_axis
    return {n: n.removeprefix(f"{axes[n]}.") if axes[n] in labels.sources else n for n in names}


def _described(name: str, found: tuple[str, ...]) -> str:
    if found == (name,):
        return name
    return f"{name} from {found[0]}" if len(found) == 1 else f"{name} from the mean of {' and '.join(found)}"


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
