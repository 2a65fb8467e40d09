"""Settings of a training run, read from environment variables `nnUNet_partial_NAME`."""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from typing import TypeVar

from nnunet_partial.errors import PartialError

__all__ = ["PREFIX", "read_setting", "read_weight", "refuse_unknown_settings"]

PREFIX = "nnUNet_partial_"
_TRUE, _FALSE = ("1", "true", "yes"), ("0", "false", "no")

Value = TypeVar("Value", bool, int, float, str)


def read_setting(name: str, default: Value, *, choices: Collection[str] = (), smallest: float = 0) -> Value:
    """The value of one setting, in the type of its default.

    Args:
        name: Name without the prefix.
        default: Returned where the variable is not set.
        choices: Allowed texts; empty allows any.
        smallest: Smallest allowed number.

    Raises:
        PartialError: The variable holds something else.
    """
    variable = PREFIX + name
    text = os.environ.get(variable)
    if text is None:
        return default
    if isinstance(default, bool):
        return type(default)(_truth(variable, text))
    if isinstance(default, str):
        if choices and text not in choices:
            raise PartialError(f"{variable}: expected one of {', '.join(choices)}, found '{text}'")
        return type(default)(text)
    value = _number(variable, text, default)
    if not value >= smallest:
        raise PartialError(f"{variable}: expected a number of at least {smallest:g}, found '{text}'")
    return value


def read_weight(name: str, default: float | None, *, zero: bool = True) -> float | None:
    """The value of a setting that has no value of its own: None where neither a variable nor a recipe sets it.

    Args:
        name: Name without the prefix.
        default: Returned where the variable is not set.
        zero: Whether 0 is allowed.

    Raises:
        PartialError: The variable holds something else than a finite number of at least 0, or above 0.
    """
    variable = PREFIX + name
    text = os.environ.get(variable)
    if text is None:
        return default
    value = _number(variable, text, 0.0)
    if not (0 < value < math.inf or (zero and value == 0)):
        limit = "of at least 0" if zero else "above 0"
        raise PartialError(f"{variable}: expected a finite number {limit}, found '{text}'")
    return value


def _number(variable: str, text: str, default: Value) -> Value:
    """A text as a number of the type of a default."""
    try:
        return type(default)(text)
    except ValueError as error:
        noun = "a whole number" if isinstance(default, int) else "a number"
        raise PartialError(f"{variable}: expected {noun}, found '{text}'") from error


def _truth(variable: str, text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise PartialError(f"{variable}: expected 0 or 1, found '{text}'")
    return text.lower() in _TRUE


def refuse_unknown_settings(known: Collection[str]) -> None:
    """Raises PartialError where a variable with our prefix is none of the known settings.

    Args:
        known: Names without the prefix.
    """
    strange = sorted(v for v in os.environ if v.startswith(PREFIX) and v.removeprefix(PREFIX) not in known)
    if strange:
        raise PartialError(f"{strange[0]} is no setting; settings are {sorted(PREFIX + name for name in known)}")
