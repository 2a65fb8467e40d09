"""What the labels of every kind of source come to mean: literal tables, value by value and class by class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_partial.errors import LabelError
from nnunet_partial.labels import one_axis_per_source
from nnunet_partial.labels.merge_plan import MergePlan, SliceRange
from tests.unit.merge_plans import annotated, shown

Factory = Callable[..., Path]
Plan = Callable[..., MergePlan]

LITS = """
  lits:
    dataset: 3
    labels: {liver: liver_tissue, tumor: tumour}
"""
CLASSES = (
    "liver: [liver_tissue, liver_tumour], tumour: [liver_tumour], spleen: , kidneys: [kidney_left, kidney_right], "
    "kidney_left: , kidney_right: "
)


BTCV = """
  btcv:
    dataset: 4
    labels: {spleen: spleen, right kidney: kidney_right, left kidney: kidney_left, liver: liver}
"""
KITS = """
  kits:
    dataset: 5
    labels: {kidney: kidneys}
"""


def test_overlapping_classes(lits: Path, plan: Plan) -> None:
    found = plan(LITS, "tumour: [liver_tumour], liver: [liver_tissue, liver_tumour]")
    assert found.labels.class_names == ("liver", "tumour")
    assert found.value_names == ("background", "liver_tissue", "tumour")
    assert shown(found.labels, "lits", found) == {"background": "--", "liver_tissue": "+-", "tumour": "++"}
    assert annotated(found.labels, "lits") == ["liver", "tumour"]
    assert [case.name for case in found.cases] == ["lits_a", "lits_b"]
    assert found.cases[0].lookup == {0: 0, 1: 1, 2: 2}


def test_a_protocol_without_tumours(lits: Path, btcv: Path, plan: Plan) -> None:
    """BTCV's liver may hold tumours; LiTS says nothing of the spleen."""
    btcv_part = "btcv: {dataset: 4, labels: {spleen: spleen, liver: liver}, unlisted: background}"
    found = plan(f"{LITS}\n  {btcv_part}", "liver: [liver_tissue, liver_tumour], tumour: [liver_tumour], spleen: ")
    assert found.labels.class_names == ("liver", "tumour", "spleen")
    assert found.value_names == ("background", "liver_tissue", "tumour", "spleen", "liver")
    assert shown(found.labels, "lits", found) == {"background": "--?", "liver_tissue": "+--", "tumour": "++-"}
    assert shown(found.labels, "btcv", found) == {"background": "---", "spleen": "--+", "liver": "+?-"}
    assert annotated(found.labels, "lits") == ["liver", "tumour"]
    assert annotated(found.labels, "btcv") == ["liver", "spleen"]
    assert found.cases[2].lookup == {0: 0, 1: 3, 2: 0, 3: 0, 6: 4}


def test_merged_kidneys(btcv: Path, kits: Path, plan: Plan) -> None:
    """KiTS annotates neither side, but knows all outside its kidneys to be no kidney."""
    found = plan(
        KITS + "  btcv: {dataset: 4, labels: {right kidney: kidney_right, 3: kidney_left}, unlisted: background}",
        "kidneys: [kidney_left, kidney_right], kidney_left: , kidney_right: ",
    )
    assert shown(found.labels, "kits", found) == {"background": "---", "kidneys": "+??"}
    assert shown(found.labels, "btcv", found) == {"background": "---", "kidney_right": "+-+", "kidney_left": "++-"}
    assert annotated(found.labels, "kits") == ["kidneys"]
    assert annotated(found.labels, "btcv") == ["kidneys", "kidney_left", "kidney_right"]
    assert found.labels.sides.classes == ("kidney_left", "kidney_right")


def test_sources_together_leave_no_class_alone(lits: Path, btcv: Path, kits: Path, plan: Plan) -> None:
    found = plan(LITS + BTCV + KITS, CLASSES)
    assert found.labels.class_names == ("liver", "tumour", "spleen", "kidneys", "kidney_left", "kidney_right")
    assert shown(found.labels, "kits", found) == {"background": "???---", "kidneys": "---+??"}
    assert shown(found.labels, "lits", found)["background"] == "--????"
    assert shown(found.labels, "btcv", found)["background"] == "------"


FLARE_LABELS = {"liver": 1, "spleen": 2, "tumor": 3}
FLARE_CLASSES = "liver: [liver_tissue, liver_tumour], spleen: , tumour: [liver_tumour, other_tumour]"
FLARE = """
flare:
  dataset: 23
  labels: {{liver: liver, spleen: spleen, tumor: tumour}}
  annotated:
    organs: [liver, spleen]
    tumour: [tumor]
    all: {{labels: {{liver: liver_tissue, spleen: spleen, tumor: tumour}}}}
    none: []
  cases: {cases}
"""


@pytest.mark.parametrize("as_csv", [False, True])
def test_annotation_sets_by_case(raw_dataset: Factory, plan: Plan, nnunet_folders: Path, as_csv: bool) -> None:
    cases = {"F_0001": [1, 2], "F_0002": [3], "F_0101": [1, 2, 3], "F_2201": None}
    raw_dataset("FLARE23", 23, FLARE_LABELS, cases)
    if as_csv:
        (nnunet_folders / "sets.csv").write_text("case,set\nF_0001,organs\nF_01*,all\nF_0002,tumour\nF_22*,none\n")
        found = plan(FLARE.format(cases="sets.csv"), FLARE_CLASSES)
    else:
        patterns = "{F_0001: organs, 'F_00*': tumour, 'F_01*': all, 'F_2???': none}"
        found = plan(FLARE.format(cases=patterns), FLARE_CLASSES)
    labels = found.labels
    assert labels.cases == {
        "flare_F_0001": "flare.organs",
        "flare_F_0002": "flare.tumour",
        "flare_F_0101": "flare.all",
        "flare_F_2201": "flare.none",
    }
    assert labels.class_names == ("liver", "spleen", "tumour")
    # where tumours are not annotated, the liver may hold one
    assert shown(labels, "flare.organs", found) == {"background": "--?", "liver": "+-?", "spleen": "-+-"}
    # the host of a tumour is not known from its label
    assert shown(labels, "flare.tumour", found) == {"background": "??-", "tumour": "?-+"}
    assert shown(labels, "flare.all", found) == {
        "background": "---",
        "liver_tissue": "+--",
        "spleen": "-+-",
        "tumour": "?-+",
    }
    assert shown(labels, "flare.none", found) == {"background": "???"}
    assert annotated(labels, "flare.organs") == ["liver", "spleen"]
    assert annotated(labels, "flare.tumour") == ["tumour"]
    assert annotated(labels, "flare.all") == ["liver", "spleen", "tumour"]
    assert annotated(labels, "flare.none") == []
    assert labels.sources == ("flare",)
    assert sorted(found.cases[0].lookup) == [0, 1, 2]
    assert sorted(found.cases[1].lookup) == [0, 3]


def test_unlabelled_cases(lits: Path, raw_dataset: Factory, plan: Plan) -> None:
    raw_dataset("Free", 9, {"other": 1}, {"x": [1, 1], "y": None})
    found = plan(LITS + "\n  free: {dataset: 9}", "liver: [liver_tissue, liver_tumour], tumour: [liver_tumour]")
    assert shown(found.labels, "free", found) == {"background": "??"}
    assert annotated(found.labels, "free") == []
    assert not found.labels.is_annotated("free_x")
    assert found.labels.is_annotated("lits_a")
    # the label file of a source without labels is not read
    assert [case.raw.label for case in found.cases[2:]] == [None, None]


def test_the_ignore_label_could_be_anything(raw_dataset: Factory, plan: Plan) -> None:
    raw_dataset("Sparse", 3, {"liver": 1, "ignore": 2}, {"a": [1, 2]})
    found = plan("s: {dataset: 3, labels: {liver: liver}}", "liver: ")
    assert shown(found.labels, "s", found) == {"background": "-", "liver": "+", "unknown": "?"}
    assert annotated(found.labels, "s") == ["liver"]
    assert found.cases[0].lookup == {0: 0, 1: 1, 2: 2}


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


def test_slices_nobody_annotated_and_slices_with_other_structures(
    raw_dataset: Factory, plan: Plan, nnunet_folders: Path
) -> None:
    raw_dataset("Sparse", 3, {"liver": 1, "spleen": 2}, {"a": [1], "b": [2]})
    (nnunet_folders / "slices.csv").write_text("case,axis,first,last,set\na,z,0,1,both\na,z,4,4,liver\n")
    found = plan(SLICED, "liver: , spleen: ")
    assert found.labels.cases == {"s_a": "s.both+s.liver.slices", "s_b": "s.both"}
    assert shown(found.labels, "s.both", found) == {"background": "--", "liver": "+-", "spleen": "-+"}
    assert shown(found.labels, "s.both+s.liver.slices", found) == {
        "background": "??",  # the value of slices nobody looked at
        "liver": "+-",
        "spleen": "-+",
        "none of liver, spleen": "--",
        "none of liver": "-?",
    }
    assert annotated(found.labels, "s.both+s.liver.slices") == ["liver", "spleen"]
    assert found.cases[0].ranges == (
        SliceRange(2, 0, 1, {0: 3, 1: 1, 2: 2}),
        SliceRange(2, 4, 4, {0: 4, 1: 1}),
    )
    assert found.cases[1].ranges is None


def test_slices_of_the_only_set_are_named_after_the_source(
    raw_dataset: Factory, plan: Plan, nnunet_folders: Path
) -> None:
    raw_dataset("Sparse", 3, {"liver": 1}, {"a": [1]})
    (nnunet_folders / "slices.csv").write_text("case,axis,first,last,set\na,x,2,2,s\n")
    found = plan("s: {dataset: 3, labels: {liver: liver}, slices: slices.csv}", "liver: ")
    assert found.labels.cases == {"s_a": "s.slices"}
    assert shown(found.labels, "s.slices", found) == {"background": "?", "liver": "+", "none of liver": "-"}


def test_declared_absent_differs_from_not_annotated(btcv: Path, kits: Path, plan: Plan) -> None:
    classes = "kidneys: [kidney_left, kidney_right], spleen: "
    rest = "\n  btcv: {dataset: 4, labels: {spleen: spleen, 2: kidneys, 3: kidneys}, unlisted: background}"
    silent = plan(KITS + rest, classes)
    assert shown(silent.labels, "kits", silent) == {"background": "-?", "kidneys": "+-"}
    assert annotated(silent.labels, "kits") == ["kidneys"]
    declared = plan(KITS.replace("dataset: 5", "dataset: 5\n    absent: [spleen]") + rest, classes)
    assert shown(declared.labels, "kits", declared) == {"background": "--", "kidneys": "+-"}
    assert annotated(declared.labels, "kits") == ["kidneys", "spleen"]


def test_declared_absent_in_one_annotation_set(lits: Path, plan: Plan) -> None:
    found = plan(
        """
  lits:
    dataset: 3
    labels: {liver: liver, tumor: tumour}
    annotated:
      healthy: {labels: [liver], absent: [tumour]}
      ill: {labels: {liver: liver_tissue, tumor: tumour}}
    cases: {a: ill, b: healthy}
""",
        "liver: [liver_tissue, liver_tumour], tumour: [liver_tumour]",
    )
    assert shown(found.labels, "lits.healthy", found) == {"background": "--", "liver_tissue": "+-"}
    assert annotated(found.labels, "lits.healthy") == ["liver", "tumour"]
    assert found.labels.notes(dict(enumerate(found.value_names))) == []


def test_labels_that_exclude_and_labels_that_say_nothing(raw_dataset: Factory, plan: Plan) -> None:
    raw_dataset("Odd", 3, {"liver": 1, "no liver": 2, "blurred": 3, "spleen": 4}, {"a": [1, 2, 3, 4]})
    found = plan(
        "s: {dataset: 3, labels: {liver: liver, no liver: {not: [liver]}, blurred: unknown}, unlisted: unknown}",
        "liver: ",
    )
    assert shown(found.labels, "s", found) == {"background": "-", "liver": "+", "unknown": "?"}
    # what can only be no liver is what value 0 says already
    assert found.cases[0].lookup == {0: 0, 1: 1, 2: 0, 3: 2, 4: 2}


def test_unlisted_labels_as_background(lits: Path, raw_dataset: Factory, plan: Plan) -> None:
    """A subset of TotalSegmentator: whatever is not listed is none of the structures that are."""
    raw_dataset("Total", 8, {"spleen": 1, "liver": 2, "heart": 3}, {"s0001": [1, 2, 3]})
    found = plan(
        LITS + "\n  total: {dataset: 8, labels: {spleen: spleen}, unlisted: background}",
        "liver: [liver_tissue, liver_tumour], tumour: [liver_tumour], spleen: ",
    )
    assert found.cases[2].lookup == {0: 0, 1: 3, 2: 0, 3: 0}
    # the unlisted liver makes value 0 no 'liver absent': it could be anything but spleen
    assert shown(found.labels, "total", found) == {"background": "??-", "spleen": "--+"}


def test_the_same_organ_shared_or_kept_apart_class_by_class(lits: Path, btcv: Path, plan: Plan) -> None:
    classes = "liver: [liver_tissue, liver_tumour], tumour: [liver_tumour], spleen: "
    part = "dataset: 4, unlisted: background, labels: {spleen: spleen, liver: liver}"
    shared = plan(f"{LITS}\n  btcv: {{{part}}}", classes)
    apart = plan(f"{LITS}\n  btcv: {{{part}, keep_apart: [liver]}}", classes)
    everything = plan(f"{LITS}\n  btcv: {{{part}, keep_apart: all}}", classes)
    assert shared.labels.class_names == ("liver", "tumour", "spleen")
    assert apart.labels.class_names == ("liver", "tumour", "spleen", "btcv.liver")
    assert everything.labels.class_names == ("liver", "tumour", "btcv.liver", "btcv.spleen")
    assert shown(apart.labels, "btcv", apart) == {"background": "??--", "spleen": "--+-", "liver": "??-+"}
    assert shown(apart.labels, "lits", apart) == {"background": "--??", "liver_tissue": "+--?", "tumour": "++-?"}
    assert shown(everything.labels, "btcv", everything) == {"background": "??--", "spleen": "??-+", "liver": "??+-"}
    # label maps are the same in all three
    assert [c.lookup for c in shared.cases] == [c.lookup for c in apart.cases] == [c.lookup for c in everything.cases]
    own = {"lits.liver", "lits.tumour", "btcv.liver", "btcv.spleen"}
    assert set(one_axis_per_source(apart.labels).class_names) == own


def test_a_class_on_an_axis_of_its_own(lits: Path, btcv: Path, plan: Plan) -> None:
    found = plan(
        LITS + "\n  btcv: {dataset: 4, labels: {spleen: soft}, unlisted: background}",
        "liver: [liver_tissue, liver_tumour], tumour: [liver_tumour], soft: {axis: tissue}",
    )
    assert found.labels.space.axes["tissue"] == ("tissue.background", "soft")
    # positives of one axis say nothing on the other
    assert shown(found.labels, "lits", found) == {"background": "--?", "liver_tissue": "+-?", "tumour": "++?"}
    assert shown(found.labels, "btcv", found) == {"background": "??-", "soft": "??+"}


def test_the_same_case_name_in_two_sources(lits: Path, btcv: Path, plan: Plan) -> None:
    found = plan(LITS + BTCV, CLASSES)
    assert [case.name for case in found.cases] == ["lits_a", "lits_b", "btcv_a", "btcv_c"]


def test_region_labels_are_told_by_their_values(raw_dataset: Factory, plan: Plan) -> None:
    raw_dataset("Regions", 3, {"liver": [1, 2], "tumor": 2}, {"a": [1, 2]})
    found = plan(
        "r: {dataset: 3, labels: {1: liver_tissue, 2: tumour}}",
        "liver: [liver_tissue, liver_tumour], tumour: [liver_tumour]",
    )
    assert shown(found.labels, "r", found) == {"background": "--", "liver_tissue": "+-", "tumour": "++"}
    with pytest.raises(LabelError, match=r"'liver' is a region of the values \[1, 2\]; give the meaning of each value"):
        plan("r: {dataset: 3, labels: {liver: liver}}", "liver: ")


def test_tables_are_looked_for_in_the_dataset_too(lits: Path, btcv: Path, plan: Plan, nnunet_folders: Path) -> None:
    text = LITS.replace("dataset: 3", "dataset: 3\n    patients: patients.csv\n    cases: sets.csv")
    for folder in (lits, btcv):
        (folder / "patients.csv").write_text(f"case,patient\na,of {folder.name}\n")
    (lits / "sets.csv").write_text("case,set\n*,lits\n")
    classes = "liver: [liver_tissue], tumour: "
    assert plan(text, classes).labels.patients == {"lits_a": "of Dataset003_LiTS"}
    (nnunet_folders / "patients.csv").write_text("case,patient\na,of the merge file\n")
    assert plan(text, classes).labels.patients == {"lits_a": "of the merge file"}
    with pytest.raises(LabelError, match=r"none\.csv: no such file, and none of that name in .*Dataset003_LiTS;"):
        plan(text.replace("sets.csv", "none.csv"), classes)


def test_patients(lits: Path, btcv: Path, plan: Plan, nnunet_folders: Path) -> None:
    (nnunet_folders / "patients.csv").write_text("case,patient\na,p1\nc,p2\nz,p3\n")
    found = plan(
        LITS.replace("dataset: 3", "dataset: 3\n    patients: '^(.)'")
        + BTCV.replace("dataset: 4", "dataset: 4\n    patients: patients.csv"),
        CLASSES,
    )
    # cut out of case names they are numbered by source, listed they hold across sources
    assert found.labels.patients == {
        "lits_a": "lits_a",
        "lits_b": "lits_b",
        "btcv_a": "p1",
        "btcv_c": "p2",
    }
    listed = plan(LITS.replace("dataset: 3", "dataset: 3\n    patients: {a: p1}"), "liver: [liver_tissue], tumour: ")
    assert listed.labels.patients == {"lits_a": "p1"}
    assert listed.labels.patient_of("lits_b") == "lits_b"


def test_excluded_cases(lits: Path, plan: Plan) -> None:
    found = plan(LITS.replace("dataset: 3", "dataset: 3\n    exclude: ['b*']"), "liver: [liver_tissue], tumour: ")
    assert [case.name for case in found.cases] == ["lits_a"]


def test_sides_declared_and_modality(lits: Path, plan: Plan) -> None:
    found = plan(
        LITS.replace("dataset: 3", "dataset: 3\n    modality: MR"),
        "liver: [liver_tissue], tumour: ",
        "sides: {classes: [tumour], axes: [2]}",
    )
    assert found.labels.sides.classes == ("tumour",)
    assert found.labels.sides.axes == (2,)
    assert found.labels.sets["lits"].modality == "MR"
    none = plan(LITS.replace("tissue", "left"), "liver_left: , tumour: ", "sides: {classes: []}")
    assert none.labels.sides.classes == ()


def test_the_fingerprint_follows_the_sources(lits: Path, plan: Plan) -> None:
    first = plan(LITS, "liver: [liver_tissue], tumour: ").fingerprint()
    assert plan(LITS, "liver: [liver_tissue], tumour: ").fingerprint() == first
    assert plan(LITS, "liver: [liver_tissue], tumour: ", "folds: 3").fingerprint() != first
    label = lits / "labelsTr" / "a.nii.gz"
    label.write_bytes(label.read_bytes() + b"\0")
    assert plan(LITS, "liver: [liver_tissue], tumour: ").fingerprint() != first
