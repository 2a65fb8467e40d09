"""Fixtures of the tests of the label model: sources that label different structures, and merges of them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nnunet_partial.labels.merge import MergeResult, merge_datasets
from nnunet_partial.labels.merge_file import load_merge_file
from nnunet_partial.labels.merge_plan import MergePlan, plan_merge

Factory = Callable[..., Path]


@pytest.fixture
def lits(raw_dataset: Factory) -> Path:
    """Liver without its tumours, and tumours."""
    return raw_dataset("LiTS", 3, {"liver": 1, "tumor": 2}, {"a": [1, 2], "b": [1]})


@pytest.fixture
def btcv(raw_dataset: Factory) -> Path:
    """Organs; the liver includes whatever is in it."""
    labels = {"spleen": 1, "right kidney": 2, "left kidney": 3, "liver": 6}
    return raw_dataset("BTCV", 4, labels, {"a": [1, 2], "c": [6]})


@pytest.fixture
def kits(raw_dataset: Factory) -> Path:
    """Kidneys without sides."""
    return raw_dataset("KiTS", 5, {"kidney": 1}, {"a": [1]})


@pytest.fixture
def plan(merge_file: Callable[..., Path]) -> Callable[..., MergePlan]:
    """Plans a merge from sources (YAML block), classes (inside of YAML braces) and further keys of the file."""

    def make(sources: str, classes: str, head: str = "") -> MergePlan:
        text = f"name: Abdomen\n{head}\nclasses: {{{classes}}}\nsources:\n"
        text += textwrap.indent(textwrap.dedent(sources), "  ")
        path = merge_file(text)
        return plan_merge(load_merge_file(path), path.parent)

    return make


@pytest.fixture
def merge(merge_file: Callable[..., Path]) -> Callable[..., MergeResult]:
    """Merges by the text of a merge file; dataset 100 unless told otherwise."""

    def run(text: str, number: int = 100, **options: object) -> MergeResult:
        return merge_datasets(merge_file(text), number, **options)  # type: ignore[arg-type]

    return run


@pytest.fixture
def abdomen(raw_dataset: Factory) -> SimpleNamespace:
    """LiTS-like, BTCV-like (floating-point label files) and unlabelled sources, five cases together.

    Returns:
        `text` of the merge file, and the label maps by case of `lits` and `btcv`.
    """

    def label_map(seed: int, values: list[int]) -> np.ndarray:
        return np.random.default_rng(seed).choice(values, (8, 7, 6))

    content = SimpleNamespace(
        text="""
name: Abdomen
folds: 2
classes:
  liver: [liver_tissue, liver_tumour]
  tumour: [liver_tumour]
  spleen:
sources:
  lits:
    dataset: 3
    labels: {liver: liver_tissue, tumor: tumour}
  btcv:
    dataset: 4
    labels: {spleen: spleen, liver: liver}
  free:
    dataset: 9
""",
        lits={"a": label_map(0, [0, 1, 2]), "b": label_map(1, [0, 1])},
        btcv={"a": label_map(2, [0, 1, 6]), "c": label_map(3, [0, 6])},
    )
    raw_dataset("LiTS", 3, {"liver": 1, "tumor": 2}, content.lits)
    raw_dataset("BTCV", 4, {"spleen": 1, "liver": 6}, content.btcv, dtype=np.float32)
    raw_dataset("Free", 9, {}, {"x": None})
    return content
