"""The examples of docs/merge-file.md can be merged, and mean what the text says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnunet_partial.labels import BLOCK, PartialLabels, to_json
from nnunet_partial.labels.merge_file import MergeFile, load_merge_file
from nnunet_partial.labels.merge_plan import MergePlan, plan_merge
from nnunet_partial.labels.space import BACKGROUND, DEFAULT_AXIS, LabelSpace
from nnunet_partial.labels.table import AnnotationSet
from tests.unit.merge_plans import annotated, shown

Factory = Callable[..., Path]
Plan = Callable[..., MergePlan]

DOCUMENT = Path(__file__).parents[2] / "docs" / "merge-file.md"
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", DOCUMENT.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def _datasets_for(file: MergeFile, raw_dataset: Factory, folder: Path) -> None:
    """Raw datasets with the labels and cases that an example of the reference speaks of."""
    cases = {
        "gibson": ["btcv_1", "tcia_1", "tcia_0007"],
        "ct": ["amos_0001", "amos_0501", "amos_0601"],
        "follow-up": ["1_visit"],
        "second": ["scan_1", "scan_2"],
    }
    made = set()
    for name, source in file.sources.items():
        number = re.findall(r"\d+", str(source.dataset))[0]
        labels: dict[str, int] = {}
        for value, key in enumerate(source.labels, start=50):
            labels[f"label {key}" if isinstance(key, int) else key] = key if isinstance(key, int) else value
        title = str(source.dataset).rpartition("_")[2] if "_" in str(source.dataset) else "Example"
        own = {BLOCK: _own_block(labels)} if source.annotated == "dataset" else {}
        if number not in made:
            raw_dataset(title, int(number), labels, {case: [0] for case in cases.get(name, ["case_01"])}, **own)
        made.add(number)
    (folder / "flare_sets.csv").write_text("case,set\ncase_*,full\n")
    (folder / "slices.csv").write_text("case,axis,first,last,set\ncase_01,z,0,1,both\ncase_01,z,3,3,liver\n")
    (folder / "patients.csv").write_text("case,patient\ncase_01,p17\n")


def _own_block(labels: dict[str, int]) -> dict[str, Any]:
    """A table of a dataset's own, in which all labels were annotated in case_01."""
    names = {value: f"own {label}" for label, value in labels.items()}
    space = LabelSpace({DEFAULT_AXIS: (BACKGROUND, *names.values())}, {n: frozenset({n}) for n in names.values()})
    possible = {0: frozenset({BACKGROUND}), **{value: frozenset({name}) for value, name in names.items()}}
    return to_json(PartialLabels(space, {"all": AnnotationSet("all", "own", "CT", possible)}, {"case_01": "all"}))


@pytest.mark.parametrize("text", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_of_the_reference_can_be_planned(
    text: str, raw_dataset: Factory, merge_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = merge_file(text)
    file = load_merge_file(path)
    monkeypatch.chdir(path.parent / "preprocessed")
    if "channel_names" in text:
        raw_dataset("A", 1, {"liver": 1}, {"a": [1]}, channel_names=("T1",))
        raw_dataset("B", 2, {"liver": 1}, {"a": [1]}, channel_names=("T2",))
    else:
        _datasets_for(file, raw_dataset, path.parent)
    found = plan_merge(file, path.parent)
    assert found.labels.sources == tuple(file.sources)
    assert found.labels.notes(dict(enumerate(found.value_names))) == []


def test_the_complete_example_of_the_reference(raw_dataset: Factory, merge_file: Callable[..., Path]) -> None:
    path = merge_file(EXAMPLES[0])
    file = load_merge_file(path)
    _datasets_for(file, raw_dataset, path.parent)
    found = plan_merge(file, path.parent)
    assert found.labels.class_names == (
        "liver",
        "liver_tumour",
        "spleen",
        "kidneys",
        "kidney_left",
        "kidney_right",
        "kidney_tumour",
    )
    assert shown(found.labels, "lits", found) == {
        "background": "--?????",
        "liver_tissue": "+------",
        "liver_tumour": "++-----",
    }
    assert shown(found.labels, "btcv", found) == {
        "background": "-------",
        "spleen": "--+----",
        "kidney_right": "---+-+-",
        "kidney_left": "---++--",
        "liver": "+?-----",
    }
    assert shown(found.labels, "kits", found) == {
        "background": "???----",
        "kidney_tumour": "---+--+",
        "kidney_left or kidney_right": "---+??-",
    }
    assert shown(found.labels, "unlabelled", found) == {"background": "???????"}
    assert annotated(found.labels, "btcv") == [
        "liver",
        "spleen",
        "kidneys",
        "kidney_left",
        "kidney_right",
        "kidney_tumour",
    ]
