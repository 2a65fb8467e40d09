"""The merge file: one YAML that says what the labels of several datasets mean in common words."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator, ValidationError
from pydantic_core import ErrorDetails

from nnunet_partial.errors import LabelError
from nnunet_partial.normalisation import Fingerprint, Rule, rule_from_json, rule_to_json

__all__ = [
    "Exclusion",
    "Meaning",
    "MergeFile",
    "SetEntry",
    "SlicesRow",
    "SourceEntry",
    "load_merge_file",
    "read_csv",
    "read_csv_mapping",
]

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
_SOURCE_NAME = r"^[A-Za-z0-9][A-Za-z0-9-]*$"
_NAMES = {_NAME: "letters, digits, - and _", _SOURCE_NAME: "letters, digits and -"}
_LONGEST_VALUE = 60
_MERGE_KEY = "tag:yaml.org,2002:merge"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Exclusion(_Entry):
    """`{not: [...]}`: anything but these."""

    excluded: list[str] = Field(alias="not")


Meaning = str | list[str] | Exclusion
"""What a label could be: an atom, a class, a list of them, `{not: [...]}`, or 'unknown'."""


def _class_entry(content: Any) -> Any:
    if content is None or isinstance(content, list):
        return {"atoms": content}
    if isinstance(content, str):
        return {"atoms": [content]}
    return content


class ClassEntry(_Entry):
    """A class: its atoms (default: one atom of the same name) and, rarely, an axis other than the default."""

    atoms: list[str] | None = None
    axis: str | None = None


def _set_entry(content: Any) -> Any:
    return {"labels": content} if isinstance(content, (list, str)) else content


class SetEntry(_Entry):
    """One annotation set of a source: which of its labels were annotated, and what is known to be absent.

    Labels given as a mapping have another meaning in this set than in the source as a whole.
    """

    labels: list[str | int] | dict[str | int, Meaning] | Literal["all"] = "all"
    absent: list[str] = []


class SidesEntry(_Entry):
    """Classes with a side and the image axes (z, y, x) = (0, 1, 2) along which left and right lie."""

    classes: list[str] | None = None
    axes: list[int] | None = None


class SourceEntry(_Entry):
    """One raw nnU-Net dataset and the meaning of its labels. All keys are explained in docs/merge-file.md."""

    dataset: str | int
    modality: str | None = None
    labels: dict[str | int, Meaning] = {}
    unlisted: Literal["error", "background", "unknown"] = "error"
    absent: list[str] = []
    on_top: list[str | int] = []
    annotated: dict[str, Annotated[SetEntry, BeforeValidator(_set_entry)]] | Literal["dataset"] | None = None
    cases: dict[str, str] | str | None = None
    slices: str | None = None
    keep_apart: list[str] | Literal["all"] = []
    patients: dict[str, str] | str | None = None
    exclude: list[str] = []


DeclaredRule = Annotated[Rule | Fingerprint, PlainValidator(rule_from_json), PlainSerializer(rule_to_json)]


class MergeFile(_Entry):
    """The whole merge file."""

    name: str = Field(pattern=_NAME)
    classes: dict[str, Annotated[ClassEntry, BeforeValidator(_class_entry)]] = Field(min_length=1)
    sources: dict[Annotated[str, Field(pattern=_SOURCE_NAME)], SourceEntry] = Field(min_length=1)
    channel_names: dict[str | int, str] | None = None
    normalisation: dict[str, DeclaredRule] | None = Field(default=None, min_length=1)
    sides: SidesEntry = SidesEntry()
    folds: Annotated[int, Field(ge=2)] | Literal["dataset"] = 5


class SlicesRow(_Entry):
    """One row of a slices CSV: on slices first..last (inclusive) of an axis, an annotation set applies."""

    case: str
    axis: Literal["x", "y", "z"]
    first: int = Field(ge=0)
    last: int = Field(ge=0)
    set: str


def load_merge_file(path: Path) -> MergeFile:
    """Reads and checks the form of a merge file.

    Args:
        path: The YAML file.

    Raises:
        LabelError: It is missing, no YAML, or has unknown, missing or ill-typed keys; names each of them.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_NoDuplicates)
    except FileNotFoundError as error:
        raise LabelError(f"{path}: no such file; expected a merge file (YAML)") from error
    except OSError as error:
        raise LabelError(f"{path}: cannot be read ({error.strerror}); expected a merge file (YAML)") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LabelError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if content is None:
        raise LabelError(f"{path}: is empty; expected a mapping with {_listed(_keys(MergeFile))}")
    try:
        return MergeFile.model_validate(content)
    except ValidationError as error:
        raise LabelError(_validation_message(path, error)) from error


def read_csv(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Reads a CSV file with named columns.

    Raises:
        LabelError: The file or one of the columns is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            missing = [c for c in columns if c not in (reader.fieldnames or [])]
            if missing:
                raise LabelError(f"{path}: columns {missing} are missing; expected {list(columns)}")
            return [{c: (row[c] or "").strip() for c in columns} for row in reader]
    except FileNotFoundError as error:
        raise LabelError(f"{path}: no such file; expected a CSV with the columns {list(columns)}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelError(f"{path}: cannot be read as CSV text ({error}); save it as CSV (UTF-8)") from error


def read_csv_mapping(path: Path, key: str, value: str) -> dict[str, str]:
    """Reads two columns of a CSV file as a mapping.

    Raises:
        LabelError: The file or a column is missing, or a key has two values.
    """
    mapping: dict[str, str] = {}
    for number, row in enumerate(read_csv(path, (key, value)), start=2):
        if mapping.setdefault(row[key], row[value]) != row[value]:
            raise LabelError(
                f"{path}, line {number}: {key} '{row[key]}' has the {value} '{row[value]}' here and "
                f"'{mapping[row[key]]}' above; keep one line"
            )
    return mapping


def _validation_message(path: Path, error: ValidationError) -> str:
    lines: dict[str, None] = {}
    for problem in error.errors():
        place = [str(part) for part in problem["loc"] if not _is_branch(str(part))]
        lines[f"  - {'.'.join(place) or 'file'}: {_reason(problem, place)}"] = None
    return "\n".join([f"{path}: not a valid merge file", *lines])


def _reason(problem: ErrorDetails, place: Sequence[str]) -> str:
    """What is wrong with one value, in the words of merge files."""
    found, context = _shortened(problem["input"]), problem.get("ctx", {})
    kind = problem["type"]
    if kind == "extra_forbidden":
        return f"unknown key (value {found}); {_advice(place)}"
    if kind == "missing":
        return "is missing"
    if kind == "string_pattern_mismatch":
        return f"should consist of {_NAMES[context['pattern']]}, the first a letter or digit, found {found}"
    if kind == "value_error":
        return f"{context['error']}, found {found}"
    if kind == "model_type":
        models = {model.__name__: model for model in _Entry.__subclasses__()}
        return f"should be a mapping with {_listed(_keys(models[context['class_name']]))}, found {found}"
    return f"{problem['msg'][0].lower()}{problem['msg'][1:]}, found {found}"


def _advice(place: Sequence[str]) -> str:
    """What an unknown key may have been meant to be."""
    model: type[_Entry] = Exclusion
    match place:
        case [_]:
            model = MergeFile
        case ["classes", _, _]:
            model = ClassEntry
        case ["sides", _]:
            model = SidesEntry
        case ["sources", _, _]:
            model = SourceEntry
        case ["sources", _, "annotated", _, _]:
            model = SetEntry
    close = difflib.get_close_matches(place[-1], _keys(model), n=1)
    return f"did you mean {close[0]}?" if close else f"expected {_listed(_keys(model))}"


def _keys(model: type[_Entry]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def _is_branch(part: str) -> bool:
    """Parts that pydantic adds for the branches of a union; they mean nothing to a user."""
    return part in {"str", "int", "Exclusion", "[key]"} or "[" in part or part.startswith(("literal", "constrained"))


class _NoDuplicates(yaml.SafeLoader):
    """YAML keeps the last of two equal keys; a source written twice must be an error instead."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._checked: set[yaml.MappingNode] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Puts what `<<` refers to before the keys of a mapping, which override it; its own must be unique."""
        if node not in self._checked:  # afterwards, a key that was overridden stands in it twice
            self._checked.add(node)
            self._check_keys(node)
        super().flatten_mapping(node)

    def _check_keys(self, node: yaml.MappingNode) -> None:
        # a merge key stands for no value that could be constructed
        keys = [k.value if k.tag == _MERGE_KEY else self.construct_object(k, deep=True) for k, _ in node.value]
        if not all(isinstance(key, Hashable) for key in keys):
            raise yaml.constructor.ConstructorError(None, None, "a list or mapping cannot be a key", node.start_mark)
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"keys written twice: {twice}", node.start_mark)


def _unique_mapping(loader: _NoDuplicates, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    return dict(loader.construct_pairs(node, deep=True))


_NoDuplicates.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
