"""The form of merge files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_partial.errors import LabelError
from nnunet_partial.labels.merge_file import Exclusion, load_merge_file, read_csv, read_csv_mapping

DOCUMENT = Path(__file__).parents[2] / "docs" / "merge-file.md"
MINIMAL = """
name: Abdomen
classes: {liver: }
sources:
  lits: {dataset: 3, labels: {liver: liver}}
"""


def blocks() -> list[str]:
    """The YAML blocks of the reference."""
    return re.findall(r"^```yaml\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_the_reference_has_examples() -> None:
    assert len(blocks()) > 10


@pytest.mark.parametrize("block", blocks(), ids=range(len(blocks())))
def test_every_example_of_the_reference_is_a_valid_merge_file(block: str, merge_file: Callable[..., Path]) -> None:
    assert load_merge_file(merge_file(block)).classes


def test_every_key_is_explained_in_the_reference(merge_file: Callable[..., Path]) -> None:
    file = load_merge_file(merge_file(MINIMAL))
    text = DOCUMENT.read_text(encoding="utf-8")
    source = file.sources["lits"]
    for key in [*type(file).model_fields, *type(source).model_fields]:
        assert f"`{key}`" in text, key


def test_short_and_long_forms(merge_file: Callable[..., Path]) -> None:
    file = load_merge_file(
        merge_file("""
name: Abdomen
classes:
  spleen:
  tumour: liver_tumour
  liver: [liver_tissue, liver_tumour]
  vein: {atoms: [vein_wall], axis: vessels}
sources:
  lits:
    dataset: Dataset003_LiTS
    labels: {1: liver_tissue, tumor: tumour, rest: {not: [spleen]}, blurred: unknown, both: [liver, spleen]}
    annotated:
      all: all
      some: [1, tumor]
      other: {labels: {1: liver}, absent: [tumour]}
""")
    )
    assert file.classes["spleen"].atoms is None
    assert file.classes["tumour"].atoms == ["liver_tumour"]
    assert file.classes["vein"].axis == "vessels"
    source = file.sources["lits"]
    assert source.labels["rest"] == Exclusion.model_validate({"not": ["spleen"]})
    assert source.labels["both"] == ["liver", "spleen"]
    assert next(iter(source.labels)) == 1
    assert source.annotated is not None
    assert source.annotated["all"].labels == "all"
    assert source.annotated["some"].labels == [1, "tumor"]
    assert source.annotated["other"].labels == {1: "liver"}
    assert source.annotated["other"].absent == ["tumour"]


def test_defaults(merge_file: Callable[..., Path]) -> None:
    file = load_merge_file(merge_file(MINIMAL))
    assert file.folds == 5
    assert file.channel_names is None
    source = file.sources["lits"]
    assert (source.unlisted, source.absent, source.keep_apart, source.exclude) == ("error", [], [], [])


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("name: Abdomen", "nme: Abdomen", r"name: is missing\n.*nme: unknown key .*did you mean name\?"),
        ("name: Abdomen", "name: ab domen", "name: should consist of letters, digits, - and _, .*found 'ab domen'"),
        ("name: Abdomen", "name: Abdomen\nfolds: 1", "folds: input should be greater than or equal to 2, found 1"),
        ("classes: {liver: }", "clases: {liver: }", r"clases: unknown key .*; did you mean classes\?"),
        (
            "name: Abdomen",
            "name: A\nsplit: {a: b}",
            r"split: unknown key \(value \{'a': 'b'\}\); expected name, classes, ",
        ),
        ("classes: {liver: }", "classes: {liver: 3}", "classes.liver: should be a mapping with atoms, axis, found 3"),
        (
            "lits: {",
            "lits: {Labels: {X: Y}, ",
            r"lits.Labels: unknown key \(value \{'X': 'Y'\}\); did you mean labels\?",
        ),
        ("dataset: 3,", "dataset: 3, annotated: {a: {label: []}},", r"a.label: unknown key .*; did you mean labels\?"),
        ("name: Abdomen", "name: A\nsides: {axis: 2}", r"sides.axis: unknown key \(value 2\); did you mean axes\?"),
        ("classes: {liver: }", "classes: {}", "classes: .*at least 1 item"),
        (
            "classes: {liver: }",
            "classes: {liver: {atom: [a]}}",
            r"classes.liver.atom: unknown key \(value \['a'\]\); did you mean atoms\?",
        ),
        ("lits: {", "lits: {lables: {}, ", r"sources.lits.lables: unknown key"),
        ("lits: {dataset: 3, ", "lits: {", "sources.lits.dataset: is missing"),
        ("  lits: {", "  li_ts: {", "sources.li_ts: should consist of letters, digits and -, "),
        ("dataset: 3,", "dataset: 3, unlisted: ignore,", "sources.lits.unlisted: .*'error', 'background' or 'unknown'"),
        ("dataset: 3,", "dataset: 3, keep_apart: some,", "sources.lits.keep_apart: "),
        ("{liver: liver}", "{liver: {nor: [a]}}", r"sources.lits.labels.liver.nor: unknown key .*; did you mean not\?"),
        ("dataset: 3,", "dataset: 3, annotated: {a: some},", "sources.lits.annotated.a.labels: "),
    ],
)
def test_wrong_keys_and_values_are_named(
    before: str, after: str, message: str, merge_file: Callable[..., Path]
) -> None:
    assert before in MINIMAL
    with pytest.raises(LabelError, match=re.compile(message, re.DOTALL)) as caught:
        load_merge_file(merge_file(MINIMAL.replace(before, after)))
    assert "merge.yaml: not a valid merge file" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "not valid YAML"),
        ("name: a\nname: b", r"keys written twice: \['name'\]"),
        (MINIMAL + "  lits: {dataset: 4}\n", r"keys written twice: \['lits'\].*line 5"),
        ("{[a]: b}", "a list or mapping cannot be a key"),
        ("", "merge.yaml: is empty; expected a mapping with name, classes, sources, "),
        ("# nothing\n", "is empty"),
        ("- a", r"file: should be a mapping with name, classes, .*found \['a'\]"),
    ],
)
def test_bad_yaml(text: str, message: str, merge_file: Callable[..., Path]) -> None:
    with pytest.raises(LabelError, match=message):
        load_merge_file(merge_file(text))


def test_a_long_value_is_cut_short(merge_file: Callable[..., Path]) -> None:
    labels = {f"label {i}": "liver" for i in range(99)}
    with pytest.raises(LabelError) as caught:
        load_merge_file(merge_file(MINIMAL.replace("labels:", f"labls: {labels}, labels:")))
    line = str(caught.value).splitlines()[1]
    shown = repr(labels)[:57]
    assert line == f"  - sources.lits.labls: unknown key (value {shown}...); did you mean labels?"


REUSED = """
name: Abdomen
classes: {liver: , spleen: }
sources:
  first: &first
    dataset: 3
    labels: &organs {liver: liver, spleen: spleen}
  second:
    dataset: 4
    labels: {<<: *organs, spleen: unknown, left kidney: {not: [liver]}}
  third: {<<: *first, dataset: 5}
  fourth: {<<: [{dataset: 6}, *first], modality: MR}
"""


def test_merge_keys_of_yaml(merge_file: Callable[..., Path]) -> None:
    sources = load_merge_file(merge_file(REUSED)).sources
    assert sources["first"].labels == {"liver": "liver", "spleen": "spleen"}
    assert sources["second"].labels == {
        "liver": "liver",
        "spleen": "unknown",
        "left kidney": Exclusion.model_validate({"not": ["liver"]}),
    }
    assert (sources["third"].dataset, sources["third"].labels) == (5, sources["first"].labels)
    assert (sources["fourth"].dataset, sources["fourth"].modality) == (6, "MR")


def test_a_mapping_that_was_merged_may_be_used_again(merge_file: Callable[..., Path]) -> None:
    again = "{<<: &own {<<: *organs, spleen: unknown}}, annotated: {a: {labels: *own}}"
    source = load_merge_file(merge_file(REUSED + f"  fifth: {{dataset: 7, labels: {again}}}\n")).sources["fifth"]
    assert source.annotated is not None
    assert source.annotated["a"].labels == source.labels == {"liver": "liver", "spleen": "unknown"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("{<<: *organs, spleen: unknown, spleen: spleen}", r"keys written twice: \['spleen'\]"),
        ("{<<: *organs, <<: *organs}", r"keys written twice: \['<<'\]"),
        ("{<<: {liver: liver, liver: spleen}}", r"keys written twice: \['liver'\]"),
        ("{<<: liver}", "expected a mapping or list of mappings for merging"),
    ],
)
def test_merge_keys_that_contradict_themselves(labels: str, message: str, merge_file: Callable[..., Path]) -> None:
    with pytest.raises(LabelError, match=message):
        load_merge_file(merge_file(REUSED + f"  fifth: {{dataset: 7, labels: {labels}}}\n"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"none.yaml: no such file; expected a merge file"):
        load_merge_file(tmp_path / "none.yaml")
    with pytest.raises(LabelError, match=r"cannot be read"):
        load_merge_file(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: Übersicht".encode("latin-1"))
    with pytest.raises(LabelError, match=r"not valid YAML"):
        load_merge_file(tmp_path / "latin.yaml")


def test_csv_files(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    path.write_text("﻿case, set, remark\na, organs, x\nb , tumour,\n", encoding="utf-8")
    assert read_csv(path, ("case", "set")) == [{"case": "a", "set": "organs"}, {"case": "b", "set": "tumour"}]
    assert read_csv_mapping(path, "case", "set") == {"a": "organs", "b": "tumour"}


def test_bad_csv_files(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    with pytest.raises(LabelError, match=r"cases.csv: no such file; expected a CSV with the columns \['case', 'set'\]"):
        read_csv(path, ("case", "set"))
    path.write_text("case;set\na;b\n")
    with pytest.raises(LabelError, match=r"columns \['case', 'set'\] are missing"):
        read_csv(path, ("case", "set"))
    path.write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(LabelError, match=r"cannot be read as CSV text"):
        read_csv(path, ("case", "set"))
    path.write_text("case,set\na,x\nb,x\na,y\n")
    with pytest.raises(LabelError, match=r"line 4: case 'a' has the set 'y' here and 'x' above"):
        read_csv_mapping(path, "case", "set")
