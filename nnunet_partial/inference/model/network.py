"""The network of a plan, built without its trainer, and its weights."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.model.plan import Architecture, PredictionPlan

__all__ = ["build_network", "load_weights"]

_LIBRARY = "dynamic_network_architectures.architectures"
_SHOWN = 3


def build_network(plan: PredictionPlan) -> nn.Module:
    """The network that the plan describes, with random weights, without deep supervision, in evaluation mode.

    Args:
        plan: Of the model.

    Returns:
        A module from (B, channels, *S) to (B, outputs, *S).

    Raises:
        PartialError: The class or an argument cannot be imported, or the class does not take the arguments.
    """
    architecture = plan.architecture
    network_class = _network_class(architecture)
    arguments = dict(architecture.arguments)
    for key in architecture.imported:
        if arguments.get(key) is not None:
            arguments[key] = _imported(arguments[key], f"argument '{key}' of {architecture.class_name}")
    try:
        network = network_class(
            input_channels=len(plan.channel_names),
            num_classes=len(plan.decoding.values),
            **arguments,
            deep_supervision=False,
        )
    except TypeError as error:
        raise PartialError(
            f"{architecture.class_name} cannot be built with the arguments of the plans {sorted(arguments)}: {error}"
        ) from error
    network.eval()
    return network


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], plan: PredictionPlan, source: str) -> None:
    """Loads weights, every one of them, with equal names and shapes.

    Args:
        network: Of `build_network`.
        weights: By name, as in `state_dict`.
        plan: Of the model; its trainer is named where the weights do not fit.
        source: Where the weights are from, for messages.

    Raises:
        PartialError: They are not those of the network.
    """
    expected = network.state_dict()
    problems = [
        *_names("missing", [name for name in expected if name not in weights]),
        *_names("unknown", [name for name in weights if name not in expected]),
        *_names(
            "of another shape",
            [
                f"{name} {tuple(weights[name].shape)} instead of {tuple(tensor.shape)}"
                for name, tensor in expected.items()
                if name in weights and weights[name].shape != tensor.shape
            ],
        ),
    ]
    if problems:
        raise PartialError(
            f"{source}: the weights are not those of {plan.architecture.class_name} as the plans '{plan.plans}' "
            f"describe it: {'; '.join(problems)}. The trainer {plan.trainer} probably builds another network than the "
            "plans say; use nnUNetv2_predict, which asks the trainer"
        )
    network.load_state_dict(weights)


def _network_class(architecture: Architecture) -> type[nn.Module]:
    name = architecture.class_name
    try:
        found = _imported(name, "the network")
    except PartialError:
        # classes move between modules of that library from release to release; nnU-Net looks there too
        found = _moved(name.rpartition(".")[2])
        if found is None:
            raise
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise PartialError(f"plans: expected the network {name} to be a class of torch modules, found {found!r}")
    return found


def _moved(class_name: str) -> Any:
    package = importlib.import_module(_LIBRARY)
    for module in sorted(info.name for info in pkgutil.iter_modules(package.__path__, f"{_LIBRARY}.")):
        found = getattr(importlib.import_module(module), class_name, None)
        if found is not None:
            return found
    return None


def _imported(name: object, what: str) -> Any:
    try:
        return pkgutil.resolve_name(str(name))
    except (ImportError, AttributeError, ValueError) as error:
        raise PartialError(
            f"plans: {what}, {name}, cannot be imported ({error}); install the package that it is from"
        ) from error


def _names(kind: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{more})"] if names else []
