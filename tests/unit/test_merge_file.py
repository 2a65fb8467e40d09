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
        ("name: Abdomen", "nme: Abdomen", r"name: is missing\n.*nme: unknown key"),
        ("name: Abdomen", "name: ab domen", "name: string should match pattern .*found 'ab domen'"),
        ("name: Abdomen", "name: Abdomen\nfolds: 1", "folds: input should be greater than or equal to 2, found 1"),
        ("classes: {liver: }", "classes: {}", "classes: .*at least 1 item"),
        ("classes: {liver: }", "classes: {liver: {atom: [a]}}", r"classes.liver.atom: unknown key \(value \['a'\]\)"),
        ("lits: {", "lits: {lables: {}, ", r"sources.lits.lables: unknown key"),
        ("lits: {dataset: 3, ", "lits: {", "sources.lits.dataset: is missing"),
        ("  lits: {", "  li_ts: {", "sources.li_ts: string should match pattern"),
        ("dataset: 3,", "dataset: 3, unlisted: ignore,", "sources.lits.unlisted: .*'error', 'background' or 'unknown'"),
        ("dataset: 3,", "dataset: 3, keep_apart: some,", "sources.lits.keep_apart: "),
        ("{liver: liver}", "{liver: {nor: [a]}}", r"sources.lits.labels.liver.nor: unknown key"),
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
        ("", "file: .*found None"),
        ("- a", r"file: .*found \['a'\]"),
    ],
)
def test_bad_yaml(text: str, message: str, merge_file: Callable[..., Path]) -> None:
    with pytest.raises(LabelError, match=message):
        load_merge_file(merge_file(text))


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
