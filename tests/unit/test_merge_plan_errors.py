"""What is wrong with a merge file, its sources, or the files it names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_partial.errors import LabelError, ProblemsError
from nnunet_partial.labels.merge_plan import MergePlan

Factory = Callable[..., Path]
Plan = Callable[..., MergePlan]

LITS = """
  lits:
    dataset: 3
    labels: {liver: liver_tissue, tumor: tumour}
"""

SLICED = """
s:
  dataset: 3
  labels: {liver: liver, spleen: spleen}
  annotated:
    both: all
    liver: [liver]
  cases: {'*': both}
  slices: slices.csv
"""


ONE = "liver: [liver_tissue, liver_tumour], tumour: [liver_tumour]"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("liver: liver_tissue", "lever: liver_tissue", r"has no label 'lever'; its labels are \['liver', 'tumor'\]"),
        ("liver: liver_tissue", "7: liver_tissue", r"has no label value 7; its values are \[0, 1, 2\]"),
        ("liver: liver_tissue", "0: liver_tissue", "value 0 follows from the annotated labels"),
        ("liver: liver_tissue", "background: liver", "value 0 follows from the annotated labels"),
        ("liver: liver_tissue", "1: liver_tissue, liver: liver", "label 'liver': value 1 has a meaning already"),
        ("liver: liver_tissue", "liver: lever", r"'lever' is neither a class nor an atom; classes are \['liver', 'tum"),
        ("liver: liver_tissue", "liver: background", "'background' is neither a class nor an atom"),
        ("liver: liver_tissue", "liver: []", "an empty list means nothing"),
        ("liver: liver_tissue, ", "", r"labels \['liver'\] of Dataset003_LiTS have no meaning in the merge file; list"),
        ("dataset: 3", "dataset: 3\n    absent: [lever]", "absent: 'lever' is neither a class nor an atom"),
        (
            "dataset: 3",
            "dataset: 3\n    absent: [liver]",
            "could be nothing at all on axis 'anatomy'; 'absent' and the",
        ),
        ("dataset: 3", "dataset: 3\n    exclude: [z*]", "exclude: 'z\\*' fits no case of Dataset003_LiTS"),
        ("dataset: 3", "dataset: 3\n    keep_apart: [lever]", r"source 'lits' keeps apart \['lever'\]"),
        ("dataset: 3", "dataset: 33", "dataset '33': no such dataset"),
        ("dataset: 3", "dataset: 3\n    patients: '(a'", r"patients: '\(a' is no regular expression"),
        ("dataset: 3", "dataset: 3\n    patients: 'a'", "patients: 'a' needs one group"),
        ("dataset: 3", "dataset: 3\n    patients: '^(a)'", r"patients: '\^\(a\)' does not fit case 'b'"),
        ("dataset: 3", "dataset: 3\n    patients: none.csv", "none.csv: no such file"),
        ("dataset: 3", "dataset: 3\n    cases: {a: x}", r"'x' is no annotation set; it has \['lits'\]"),
        (
            "dataset: 3",
            "dataset: 3\n    cases: {a: lits}",
            r"case 'b' has no annotation set \(fits no entry of 'cases'",
        ),
        ("dataset: 3", "dataset: 3\n    annotated: {x: all, y: all}", "several annotation sets .*'cases' does not say"),
        (
            "dataset: 3",
            "dataset: 3\n    annotated: {x: all, y: [liver]}\n    cases: {'*': x, 'a*': y}",
            r"case 'a' has no annotation set \(fits several: \['lits.x', 'lits.y'\]\)",
        ),
        ("dataset: 3", "dataset: 3\n    annotated: {x: [lever]}", "has no label 'lever'"),
        (
            "dataset: 3",
            "dataset: 3\n    unlisted: background\n    annotated: {x: [background]}",
            "value 0 is annotated, but has no meaning under 'labels'",
        ),
        ("dataset: 3", "dataset: 3\n    slices: none.csv", "none.csv: no such file"),
    ],
)
def test_what_is_wrong_with_a_source(before: str, after: str, message: str, lits: Path, plan: Plan) -> None:
    assert before in LITS
    with pytest.raises(LabelError, match=message):
        plan(LITS.replace(before, after), ONE)


@pytest.mark.parametrize(
    ("classes", "head", "message"),
    [
        ("liver: [background, a]", "", "class 'liver': 'background' cannot be an atom"),
        ("background: [a]", "", "a class cannot be called 'background'"),
        ("ignore: [a]", "", "a class cannot be called 'ignore'"),
        ("unknown: [a]", "", "a class cannot be called 'unknown'"),
        ("liver: [a, b], a: [c]", "", "'a' is both a class of .*'c'.* and an atom; give the atom another name"),
        ("liver: [a], lever: [a]", "", "classes 'liver' and 'lever' cannot be told apart"),
        ("liver: [a], vein: {atoms: [a], axis: v}", "", "atom 'a' already lies on axis 'anatomy'"),
        (ONE, "sides: {classes: [kidney]}", r"sides.classes: \['kidney'\] are no classes"),
        (ONE, "sides: {axes: [4]}", "image axes are 0, 1 or 2"),
        (ONE, "channel_names: {0: CT, 1: PET}", "source 'lits' has 1 channels, expected 2"),
    ],
)
def test_what_is_wrong_with_the_classes(classes: str, head: str, message: str, lits: Path, plan: Plan) -> None:
    with pytest.raises(LabelError, match=message):
        plan(LITS, classes, head)


def test_a_class_no_source_can_show(lits: Path, plan: Plan) -> None:
    with pytest.raises(ProblemsError, match=r"class 'spleen' is never present") as caught:
        plan(LITS, ONE + ", spleen: ")
    assert len(caught.value.problems) == 1


def test_classes_no_source_tells_apart(lits: Path, plan: Plan) -> None:
    classes = (
        "liver: [liver_tissue, liver_tumour], whole: [liver_tissue, liver_tumour, capsule], tumour: [liver_tumour]"
    )
    sources = LITS.replace("dataset: 3", "dataset: 3\n    absent: [capsule]")
    with pytest.raises(ProblemsError, match=r"classes 'whole' and 'liver' cannot be told apart"):
        plan(sources, classes)


def test_sources_that_do_not_go_together(lits: Path, raw_dataset: Factory, plan: Plan) -> None:
    raw_dataset("Nii", 5, {"liver": 1}, {"a": [1]}, file_ending=".nii")
    raw_dataset("Mr", 6, {"liver": 1}, {"a": [1]}, channel_names=("MR",))
    raw_dataset("Reader", 7, {"liver": 1}, {"a": [1]}, overwrite_image_reader_writer="NibabelIOWithReorient")
    raw_dataset("Two", 8, {"liver": 1}, {"a": [1]}, channel_names=("CT", "PET"))

    def other(number: int, head: str = "") -> MergePlan:
        return plan(LITS + f"\n  other: {{dataset: {number}, labels: {{liver: liver}}}}", ONE, head)

    with pytest.raises(
        LabelError, match=r"sources 'lits' and 'other' differ in file_ending: .nii.gz and .nii; convert"
    ):
        other(5)
    with pytest.raises(LabelError, match=r"differ in channel_names: .*'CT'.*'MR'.*; set 'channel_names'"):
        other(6)
    assert other(6, "channel_names: {0: intensity}").channel_names == {"0": "intensity"}
    with pytest.raises(LabelError, match=r"differ in overwrite_image_reader_writer"):
        other(7)
    with pytest.raises(LabelError, match=r"source 'other' has 2 channels, expected 1"):
        other(8, "channel_names: {0: intensity}")


def test_a_case_without_a_label_file(lits: Path, plan: Plan) -> None:
    (lits / "labelsTr" / "b.nii.gz").unlink()
    with pytest.raises(LabelError, match=r"source 'lits': case 'b' has no label file in .*labelsTr; add it, exclude"):
        plan(LITS, ONE)
    sets = "dataset: 3\n    annotated: {all: all, none: []}\n    cases: {a: all, b: none}"
    assert plan(LITS.replace("dataset: 3", sets), ONE).labels.cases["lits_b"] == "lits.none"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("z,z,0,1,both", "line 2: 'z' is no case of Dataset003_Sparse"),
        ("a,w,0,1,both", "line 2: expected case, axis x, y or z, first and last slice"),
        ("a,z,-1,1,both", "line 2: expected case"),
        ("a,z,0,,both", "line 2: expected case"),
        ("a,z,0,1,both\na,z,5,4,both", "line 3: last slice 4 lies before the first, 5"),
        ("a,z,0,1,none", r"'none' is no annotation set; it has \['both', 'liver'\]"),
        ("a,z,0,3,both\na,z,3,4,liver", "line 3: case 'a' has slices 3 to 4 of two annotation sets"),
    ],
)
def test_bad_slices_files(rows: str, message: str, raw_dataset: Factory, plan: Plan, nnunet_folders: Path) -> None:
    raw_dataset("Sparse", 3, {"liver": 1, "spleen": 2}, {"a": [1], "b": [2]})
    (nnunet_folders / "slices.csv").write_text(f"case,axis,first,last,set\n{rows}\n")
    with pytest.raises(LabelError, match=message):
        plan(SLICED, "liver: , spleen: ")
