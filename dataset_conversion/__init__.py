"""One public dataset, or one family of them, a file: a label table and how its cases are found.

The folder `collections` has merge files of converted datasets, one a paper or challenge.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from nnunet_partial.conversion import Converter
from nnunet_partial.errors import LabelError

__all__ = ["collections", "converters"]


def converters() -> dict[str, Converter]:
    """All converters by name: the `CONVERTER` or `CONVERTERS` of every module of this package.

    Raises:
        LabelError: Two have the same name or number, or a module has none.
    """
    found: dict[str, Converter] = {}
    numbers: dict[int, str] = {}
    for module_name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        module = importlib.import_module(f"{__name__}.{module_name}")
        of_module = getattr(module, "CONVERTERS", None) or (getattr(module, "CONVERTER", None),)
        for converter in of_module:
            if not isinstance(converter, Converter):
                raise LabelError(f"{module.__file__}: expected a Converter called CONVERTER, or several in CONVERTERS")
            if converter.name in found:
                raise LabelError(f"{module.__file__}: there is another converter called '{converter.name}'")
            other = numbers.setdefault(converter.dataset_id, converter.name)
            if other != converter.name:
                raise LabelError(f"{converter.name} and {other} have the same dataset_id, {converter.dataset_id}")
            found[converter.name] = converter
    return found


def collections() -> dict[str, Path]:
    """The merge files that come with the package, by their names."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "collections").glob("*.yaml"))}
