"""Label maps with numbers of the user's choice, such as those of a challenge, in place of the model's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.label_view import LabelView
from nnunet_partial.inference.model.declared_classes import declared_classes
from nnunet_partial.inference.model.plan import Decoding

__all__ = ["HIGHEST", "LabelValues"]

HIGHEST = 65535
"""Label maps have at most 16 bits."""

_EXPECTED = 'expected a JSON object from class names to numbers, such as {"liver": 1, "spleen": 3}'


@dataclass(frozen=True)
class LabelValues:
    """What is written for each class; the order says which class is written where several are found.

    Attributes:
        numbers: Class to its number, 1 to 65535, at least one class. Classes may share a number, and those that are
            missing are not written. Of the classes at one voxel the last one here is.
        where: Where they are from, for error messages.

    Raises:
        PartialError: There is no class, or a number is none of these.
    """

    numbers: Mapping[str, int]
    where: str = "label values"

    def __post_init__(self) -> None:
        """Refuses numbers that cannot be written."""
        if not self.numbers:
            raise PartialError(f"{self.where}: no class is named, so nothing would be written; {_EXPECTED}")
        for name, number in self.numbers.items():
            if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= HIGHEST:
                raise PartialError(
                    f"{self.where}: '{name}': expected a whole number from 1 to {HIGHEST}, found {json.dumps(number)}; "
                    "leave out classes that shall not be written"
                )

    @classmethod
    def read(cls, path: Path) -> LabelValues:
        """Reads a JSON object from class names to numbers.

        Args:
            path: The file.

        Raises:
            PartialError: There is no such file, or it holds something else.
        """
        try:
            content = json.loads(path.read_text("utf-8"), object_pairs_hook=lambda pairs: _distinct(pairs, path))
        except FileNotFoundError as error:
            raise PartialError(f"{path}: no such file; {_EXPECTED}") from error
        except (OSError, ValueError) as error:
            raise PartialError(f"{path}: cannot be read as JSON ({error}); {_EXPECTED}") from error
        if not isinstance(content, dict):
            raise PartialError(f"{path}: {_EXPECTED}, found {json.dumps(content)[:80]}")
        return cls(content, str(path))

    def view(self, dataset_json: Mapping[str, Any], decoding: Decoding) -> LabelView:
        """How a model's channels become these numbers.

        Classes with a channel each are painted in the order of the numbers. A channel of a softmax, which may be an
        atom that several classes share, gets the number of the last one that it belongs to, and 0 without one.

        Args:
            dataset_json: Of the model.
            decoding: Of the model.

        Raises:
            PartialError: The model has no such class.
        """
        extents = self._extents(dataset_json, decoding)
        highest = max(self.numbers.values())
        if decoding.regions:
            channels = tuple(decoding.names.index(name) for name in self.numbers)
            return LabelView(channels, decoding.of_channels(channels, tuple(self.numbers.values()), highest))
        values = [0] * len(decoding.values)
        for name, number in self.numbers.items():
            for channel in extents[name]:
                values[channel] = number
        return LabelView(tuple(range(len(values))), Decoding(False, tuple(values), decoding.names, highest))

    def described(self, dataset_json: Mapping[str, Any], decoding: Decoding) -> dict[str, Any]:
        """A copy of the model's dataset.json whose labels are these, as an evaluation of label maps needs them.

        A class that others were written over is a region: its number, and those of the classes inside it that follow.

        Args:
            dataset_json: Of the model.
            decoding: Of the model.

        Raises:
            PartialError: The model has no such class.
        """
        extents, names = self._extents(dataset_json, decoding), list(self.numbers)
        labels: dict[str, int | list[int]] = {"background": 0}
        for index, name in enumerate(names):
            inside = [other for other in names[index + 1 :] if extents[other] <= extents[name]]
            numbers = list(dict.fromkeys(self.numbers[member] for member in (name, *inside)))
            labels[name] = numbers if len(numbers) > 1 else numbers[0]
        described = {key: value for key, value in dataset_json.items() if key != "regions_class_order"}
        described["labels"] = labels
        if any(isinstance(numbers, list) for numbers in labels.values()):
            described["regions_class_order"] = list(self.numbers.values())
        return described

    def _extents(self, dataset_json: Mapping[str, Any], decoding: Decoding) -> dict[str, frozenset[int]]:
        """What each class of the model covers: its channels of a softmax, else the values of its region."""
        declared = declared_classes(dataset_json, decoding)
        if declared is not None:
            extents = {name: frozenset(channels) for name, channels in declared.items()}
        elif decoding.regions:
            extents = {name: _region(dataset_json["labels"][name]) for name in decoding.names}
        else:
            own = enumerate(zip(decoding.names, decoding.values, strict=True))
            extents = {name: frozenset({channel}) for channel, (name, value) in own if value}
        unknown = [name for name in self.numbers if name not in extents]
        if unknown:
            raise PartialError(
                f"{self.where}: '{unknown[0]}' is no class of the model; its classes are {', '.join(extents)}"
            )
        return extents


def _region(entry: int | str | Sequence[int | str]) -> frozenset[int]:
    """The values of an entry of nnU-Net's labels."""
    return frozenset(int(value) for value in (entry if isinstance(entry, (list, tuple)) else (entry,)))


def _distinct(pairs: Sequence[tuple[str, Any]], path: Path) -> dict[str, Any]:
    """The entries of a JSON object, of which `json` would keep the last one of a name without a word."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise PartialError(f"{path}: '{name}' is named twice; name each class once")
        found[name] = value
    return found
