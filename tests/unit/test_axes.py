"""The same organ of several sources: shared, kept apart for one class, or for all."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_partial.errors import LabelError
from nnunet_partial.labels import (
    PRESENT,
    UNKNOWN,
    AnnotationSet,
    LabelSpace,
    PartialLabels,
    Sides,
    keep_apart,
    one_axis_per_source,
)
from nnunet_partial.labels.space import supersets_first

ATOMS = ("background", "liver_tissue", "liver_tumour", "spleen", "kidney_left", "kidney_right")
SPACE = LabelSpace(
    {"anatomy": ATOMS},
    {
        "liver": frozenset({"liver_tissue", "liver_tumour"}),
        "tumour": frozenset({"liver_tumour"}),
        "spleen": frozenset({"spleen"}),
        "kidney_left": frozenset({"kidney_left"}),
    },
)
LIVER = frozenset({"liver_tissue", "liver_tumour"})


def protocol(name: str, labels: dict[int, frozenset[str]], absent: frozenset[str] = frozenset()) -> AnnotationSet:
    """A set whose value 0 is everything that no label names."""
    rest = SPACE.everything.difference(*labels.values())
    return AnnotationSet(name, name, "CT", {0: rest - absent, **{v: a - absent for v, a in labels.items()}})


def sources(*sets: AnnotationSet, sides: Sides | None = None) -> PartialLabels:
    return PartialLabels(
        SPACE, {s.name: s for s in sets}, {f"{s.name}_1": s.name for s in sets}, sides=sides or Sides()
    )


LITS = protocol("lits", {1: frozenset({"liver_tissue"}), 2: frozenset({"liver_tumour"})})
BTCV = protocol("btcv", {3: LIVER, 4: frozenset({"spleen"}), 5: frozenset({"kidney_left"})})


def states(labels: PartialLabels, set_name: str) -> dict[int, str]:
    """Value to one sign a class, in channel order: + present, - absent, ? unknown."""
    row = list(labels.sets).index(set_name)
    return {
        value: "".join("-+?"[state] for state in labels.states[row, value]) for value in labels.sets[set_name].possible
    }


def annotated(labels: PartialLabels, set_name: str) -> list[str]:
    row = labels.annotated[list(labels.sets).index(set_name)]
    return [name for name, known in zip(labels.class_names, row, strict=True) if known]


def test_shared_by_default() -> None:
    labels = sources(LITS, BTCV)
    assert states(labels, "lits") == {0: "--??", 1: "+---", 2: "++--"}
    assert states(labels, "btcv") == {0: "----", 3: "+?--", 4: "--+-", 5: "---+"}


def test_one_class_of_one_source_kept_apart() -> None:
    labels = keep_apart(sources(LITS, BTCV), "btcv", ["liver"])
    assert labels.class_names == ("liver", "tumour", "spleen", "kidney_left", "btcv.liver")
    assert labels.space.axes["btcv"] == ("btcv.background", "btcv.liver_tissue", "btcv.liver_tumour")
    assert labels.space.classes["btcv.liver"] == {"btcv.liver_tissue", "btcv.liver_tumour"}
    # lits says nothing of BTCV's liver; btcv nothing of the shared liver, save where it labels another organ
    assert states(labels, "lits") == {0: "--???", 1: "+---?", 2: "++--?"}
    assert states(labels, "btcv") == {0: "??---", 3: "??--+", 4: "--+--", 5: "---+-"}
    assert annotated(labels, "lits") == ["liver", "tumour"]
    assert annotated(labels, "btcv") == ["spleen", "kidney_left", "btcv.liver"]


def test_the_class_inside_stays_shared() -> None:
    labels = keep_apart(sources(LITS, BTCV), "lits", ["liver"])
    assert labels.class_names == ("liver", "tumour", "spleen", "kidney_left", "lits.liver")
    assert states(labels, "lits") == {0: "?-??-", 1: "?-??+", 2: "++--+"}


def test_the_class_inside_kept_apart_leaves_the_outer_one_shared() -> None:
    labels = keep_apart(sources(LITS, BTCV), "lits", ["tumour"])
    # no source annotates the shared tumour any more
    assert labels.class_names == ("liver", "spleen", "kidney_left", "lits.tumour")
    assert states(labels, "lits") == {0: "-??-", 1: "+---", 2: "+--+"}
    assert labels.sets["lits"].possible[2] == {"liver_tissue", "liver_tumour", "lits.liver_tumour"}


def test_all_classes_of_one_source_kept_apart() -> None:
    labels = keep_apart(sources(LITS, BTCV), "lits")
    assert labels.class_names == ("liver", "spleen", "kidney_left", "lits.liver", "lits.tumour")
    assert states(labels, "lits") == {0: "???--", 1: "???+-", 2: "???++"}
    assert states(labels, "btcv") == {0: "---??", 3: "+--??", 4: "-+-??", 5: "--+??"}


def test_declared_absence_survives_for_the_other_classes() -> None:
    healthy = protocol("btcv", {3: LIVER, 4: frozenset({"spleen"})}, absent=frozenset({"kidney_left"}))
    labels = keep_apart(sources(LITS, healthy, protocol("k", {5: frozenset({"kidney_left"})})), "btcv", ["liver"])
    assert states(labels, "btcv") == {0: "??---", 3: "??--+", 4: "--+--"}
    assert "kidney_left" in annotated(labels, "btcv")


def test_a_merged_structure_without_a_class_gets_one_when_all_is_kept_apart() -> None:
    kits = protocol("kits", {1: frozenset({"kidney_left", "kidney_right"})})
    labels = keep_apart(sources(LITS, BTCV, kits), "kits")
    assert labels.space.classes["kits.kidney_left+kidney_right"] == {"kits.kidney_left", "kits.kidney_right"}
    assert states(labels, "kits") == {0: "????-", 1: "????+"}
    shared = keep_apart(sources(LITS, BTCV, kits), "btcv", ["kidney_left"])
    assert "kidney_left" not in shared.class_names
    assert states(shared, "kits") == {0: "????", 1: "---?"}


def test_a_wider_class_that_is_only_partly_labelled_gets_no_copy() -> None:
    """A source with tumours alone (MSD colon cancer) has a tumour, and no liver, of its own."""
    cancer = protocol("msd", {1: frozenset({"liver_tumour"})})
    labels = keep_apart(sources(LITS, BTCV, cancer), "msd")
    assert [n for n in labels.class_names if n.startswith("msd.")] == ["msd.tumour"]


def test_a_class_seen_by_parts_only_goes() -> None:
    cancer = protocol("msd", {1: frozenset({"liver_tumour"})})
    only_btcv = keep_apart(sources(BTCV, cancer), "btcv", ["liver"])
    assert only_btcv.class_names == ("tumour", "spleen", "kidney_left", "btcv.liver")


def test_one_axis_per_source_shares_nothing() -> None:
    unlabelled = protocol("free", {})
    labels = one_axis_per_source(sources(LITS, BTCV, unlabelled))
    assert labels.class_names == ("lits.liver", "lits.tumour", "btcv.liver", "btcv.spleen", "btcv.kidney_left")
    assert states(labels, "lits") == {0: "--???", 1: "+-???", 2: "++???"}
    assert states(labels, "btcv") == {0: "??---", 3: "??+--", 4: "??-+-", 5: "??--+"}
    assert states(labels, "free") == {0: "?????"}
    assert labels.problems() == []


def test_one_axis_per_source_takes_along_what_was_apart_already() -> None:
    direct = one_axis_per_source(sources(LITS, BTCV))
    stepwise = one_axis_per_source(keep_apart(sources(LITS, BTCV), "btcv", ["liver"]))
    assert set(stepwise.class_names) == set(direct.class_names)
    for name in ("lits", "btcv"):
        for value in direct.sets[name].possible:
            row = list(direct.sets).index(name)
            expected = dict(zip(direct.class_names, direct.states[row, value].tolist(), strict=True))
            assert dict(zip(stepwise.class_names, stepwise.states[row, value].tolist(), strict=True)) == expected


def test_one_axis_per_source_of_a_single_unlabelled_source_changes_nothing() -> None:
    labels = sources(protocol("free", {}))
    assert one_axis_per_source(labels) == labels


def test_labels_of_two_axes_come_to_lie_on_one() -> None:
    space = LabelSpace(
        {"anatomy": ("background", "liver"), "vessels": ("vessels.background", "vein")},
        {"liver": frozenset({"liver"}), "vein": frozenset({"vein"})},
    )
    both = AnnotationSet(
        "a",
        "a",
        "CT",
        {
            0: frozenset({"background", "vessels.background"}),
            1: frozenset({"liver", "vein", "vessels.background"}),
            2: frozenset({"background", "liver", "vein"}),
        },
    )
    labels = one_axis_per_source(PartialLabels(space, {"a": both}, {"case": "a"}))
    assert labels.class_names == ("a.liver", "a.vein")
    assert states(labels, "a") == {0: "--", 1: "+-", 2: "-+"}


def test_sides_go_along() -> None:
    labels = keep_apart(sources(LITS, BTCV, sides=Sides(("kidney_left",), (2,))), "btcv")
    assert labels.sides == Sides(("btcv.kidney_left",), (2,))


@pytest.mark.parametrize(
    ("source", "classes", "message"),
    [
        ("kits", ["liver"], r"no annotation set has the source 'kits'; sources are \['lits', 'btcv'\]"),
        ("lits", ["spleen"], r"source 'lits' keeps apart \['spleen'\], which it does not label"),
        ("btcv", ["tumour"], r"source 'btcv' keeps apart \['tumour'\], which it does not label"),
        ("btcv", ["lever"], r"keeps apart \['lever'\]"),
    ],
)
def test_what_cannot_be_kept_apart(source: str, classes: list[str], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        keep_apart(sources(LITS, BTCV), source, classes)


def random_sources(rng: np.random.Generator) -> PartialLabels:
    """Three sources, each with disjoint labels of one or two atoms, and classes of one to three atoms."""
    atoms = ("background", *"abcdefg")
    classes = {a: frozenset({a}) for a in "abc"}
    classes |= {"ab": frozenset("ab"), "cde": frozenset("cde"), "fg": frozenset("fg")}
    space = LabelSpace({"anatomy": atoms}, supersets_first(classes))
    sets = {}
    for source in ("x", "y", "z"):
        for variant in range(rng.integers(1, 3)):
            order = list(rng.permutation(atoms[1:]))
            possible = {}
            for value in range(1, rng.integers(2, 5)):
                possible[value] = frozenset(str(order.pop()) for _ in range(rng.integers(1, 3)) if order)
            possible = {v: a for v, a in possible.items() if a}
            absent = {str(order.pop())} if order and rng.random() < 0.5 else set()
            possible[0] = space.everything.difference(*possible.values()) - absent
            sets[f"{source}{variant}"] = AnnotationSet(f"{source}{variant}", source, "CT", possible)
    return PartialLabels(space, sets, {f"case_{name}": name for name in sets})


@pytest.mark.parametrize("seed", range(60))
def test_keeping_apart_loses_only_what_is_kept_apart(seed: int) -> None:
    before = random_sources(np.random.default_rng(seed))
    labelled = labelled_by(before, "x")
    for chosen in labelled:
        after = keep_apart(before, "x", [chosen])
        members = before.space.classes[chosen]
        for row, annotation_set in enumerate(before.sets.values()):
            for value, possible in annotation_set.possible.items():
                now = dict(zip(after.class_names, after.states[row, value].tolist(), strict=True))
                then = dict(zip(before.class_names, before.states[row, value].tolist(), strict=True))
                # nothing that was possible is ruled out
                assert possible <= after.sets[annotation_set.name].possible[value]
                if annotation_set.source == "x":
                    stays = [n for n in labelled if n != chosen and n in now]
                else:
                    stays = [n for n in then if n in now]
                    assert now[f"x.{chosen}"] == UNKNOWN
                assert [now[n] for n in stays] == [then[n] for n in stays]
                structures = [a for a in annotation_set.possible.values() if "background" not in a]
                if annotation_set.source == "x" and members <= frozenset().union(*structures):
                    assert now[f"x.{chosen}"] == then[chosen]
        overlapping = [n for n in labelled if n != chosen and before.space.classes[n] & members]
        if chosen in after.class_names and not overlapping:
            assert chosen not in labelled_by(after, "x")


def labelled_by(labels: PartialLabels, source: str) -> list[str]:
    """Classes that a source annotates and has a label for."""
    found = []
    for column, name in enumerate(labels.class_names):
        rows = [row for row, s in enumerate(labels.sets.values()) if s.source == source]
        has_label = any((labels.states[row] == PRESENT)[:, column].any() for row in rows)
        if has_label and labels.annotated[rows, column].any():
            found.append(name)
    return found


def test_a_structure_of_one_axis_does_not_annotate_the_classes_of_another() -> None:
    space = LabelSpace({"anatomy": ("background", "liver", "spleen")}, {n: frozenset({n}) for n in ("liver", "spleen")})
    others = {"liver": frozenset({"background", "spleen"}), "spleen": frozenset({"background", "liver"})}
    sets = {
        f"f.{n}": AnnotationSet(f"f.{n}", "f", "CT", {0: others[n], value: frozenset({n})})
        for value, n in enumerate(others, start=1)
    }
    apart = keep_apart(PartialLabels(space, sets, {"a": "f.liver", "b": "f.spleen"}), "f", ["spleen"])
    assert apart.class_names == ("liver", "f.spleen")
    assert apart.annotated.tolist() == [[True, False], [False, True]]
