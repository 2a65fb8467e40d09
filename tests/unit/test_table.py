"""The table of possible atoms and what follows from it."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_partial.errors import LabelError
from nnunet_partial.labels import ABSENT, PRESENT, UNKNOWN, AnnotationSet, LabelSpace, PartialLabels
from nnunet_partial.labels.space import supersets_first
from nnunet_partial.labels.table import annotated_classes, class_states, foreground_values, possible_atoms

SPACE = LabelSpace(
    {"anatomy": ("background", "liver_tissue", "liver_tumour", "spleen")},
    {
        "liver": frozenset({"liver_tissue", "liver_tumour"}),
        "tumour": frozenset({"liver_tumour"}),
        "spleen": frozenset({"spleen"}),
    },
)
LITS = AnnotationSet(
    "lits",
    "lits",
    "CT",
    {
        0: frozenset({"background", "spleen"}),
        1: frozenset({"liver_tissue"}),
        2: frozenset({"liver_tumour"}),
    },
)
BTCV = AnnotationSet(
    "btcv",
    "btcv",
    "CT",
    {0: frozenset({"background"}), 3: frozenset({"liver_tissue", "liver_tumour"}), 4: frozenset({"spleen"})},
)


def random_model(rng: np.random.Generator) -> tuple[LabelSpace, list[AnnotationSet]]:
    """Any axes, classes, values and possible atoms, meaningful or not."""
    axes = {f"axis{i}": tuple(f"{i}.{a}" for a in range(rng.integers(2, 6))) for i in range(rng.integers(1, 4))}
    classes = {}
    for index in range(rng.integers(1, 6)):
        members = list(axes.values())[rng.integers(len(axes))][1:]
        chosen = frozenset(a for a in members if rng.random() < 0.5)
        if chosen and chosen not in classes.values():
            classes[f"class{index}"] = chosen
    space = LabelSpace(axes, supersets_first(classes))
    sets = []
    for index in range(rng.integers(1, 4)):
        possible = {}
        for value in {0, *rng.integers(0, 7, 4).tolist()}:
            atoms: set[str] = set()
            for members in axes.values():
                chosen_atoms = [a for a in members if rng.random() < rng.choice([0.2, 0.8])]
                atoms.update(chosen_atoms or [members[rng.integers(len(members))]])
            possible[value] = frozenset(atoms)
        sets.append(AnnotationSet(f"set{index}", f"source{index}", "CT", possible))
    return space, sets


@pytest.mark.parametrize("seed", range(40))
def test_states_against_plain_loops(seed: int) -> None:
    space, sets = random_model(np.random.default_rng(seed))
    states = class_states(possible_atoms(space, sets), space)
    values = 1 + max(v for s in sets for v in s.possible)
    assert states.shape == (len(sets), values, len(space.classes))
    for s, annotation_set in enumerate(sets):
        for value in range(values):
            for c, (name, members) in enumerate(space.classes.items()):
                axis = next(set(atoms) for atoms in space.axes.values() if members <= set(atoms))
                could_be = annotation_set.possible.get(value, space.everything) & axis
                if could_be <= members:
                    expected = PRESENT
                elif not could_be & members:
                    expected = ABSENT
                else:
                    expected = UNKNOWN
                assert states[s, value, c] == expected, (annotation_set.name, value, name)


@pytest.mark.parametrize("seed", range(40))
def test_annotated_classes_against_plain_loops(seed: int) -> None:
    space, sets = random_model(np.random.default_rng(1000 + seed))
    annotated = annotated_classes(possible_atoms(space, sets), space)
    values = range(1 + max(v for s in sets for v in s.possible))
    for s, annotation_set in enumerate(sets):
        for c, members in enumerate(space.classes.values()):
            axis = next(atoms for atoms in space.axes.values() if members <= set(atoms))
            could_be = [annotation_set.possible.get(v, space.everything) & set(axis) for v in values]
            looked_at = [atoms for atoms in could_be if atoms != set(axis)]
            backgrounds = {atoms[0] for atoms in space.axes.values()}
            marks_none = [backgrounds <= annotation_set.possible.get(v, space.everything) for v in values]
            outside = any(
                none and atoms in looked_at and not atoms & members
                for none, atoms in zip(marks_none, could_be, strict=True)
            )
            inside = any(atoms <= members for atoms in could_be)
            undecided = any(atoms & members and atoms - members for atoms in looked_at)
            absent = could_be[0] in looked_at and not could_be[0] & members and not undecided
            assert annotated[s, c] == (outside and (inside or absent))


def test_literal_table_of_two_protocols() -> None:
    possible = possible_atoms(SPACE, [LITS, BTCV])
    np.testing.assert_array_equal(
        possible[0],
        [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]],
    )
    np.testing.assert_array_equal(
        class_states(possible, SPACE),
        [
            [[0, 0, -1], [1, 0, 0], [1, 1, 0], [-1, -1, -1], [-1, -1, -1]],
            [[0, 0, 0], [-1, -1, -1], [-1, -1, -1], [1, -1, 0], [0, 0, 1]],
        ],
    )
    np.testing.assert_array_equal(annotated_classes(possible, SPACE), [[1, 1, 0], [1, 0, 1]])
    np.testing.assert_array_equal(foreground_values(possible, SPACE), [[0, 1, 1, 0, 0], [0, 0, 0, 1, 1]])


def test_a_positive_makes_the_other_classes_of_its_axis_absent_and_says_nothing_elsewhere() -> None:
    space = LabelSpace(
        {"anatomy": ("background", "liver", "spleen"), "other": ("other.background", "other.liver")},
        {"liver": frozenset({"liver"}), "spleen": frozenset({"spleen"}), "other.liver": frozenset({"other.liver"})},
    )
    liver = frozenset({"liver", "other.background", "other.liver"})
    annotation_set = AnnotationSet("a", "a", "CT", {0: space.everything, 1: liver})
    states = class_states(possible_atoms(space, [annotation_set]), space)
    assert states[0, 1].tolist() == [PRESENT, ABSENT, UNKNOWN]
    assert annotated_classes(possible_atoms(space, [annotation_set]), space).tolist() == [[False, False, False]]


def test_declared_absent_is_annotated_and_not_annotated_is_not() -> None:
    healthy = AnnotationSet("a", "a", "CT", {0: frozenset({"background", "spleen"}), 1: frozenset({"liver_tissue"})})
    unsure = AnnotationSet("b", "b", "CT", {0: SPACE.everything - {"liver_tissue"}, 1: frozenset({"liver_tissue"})})
    annotated = annotated_classes(possible_atoms(SPACE, [healthy, unsure]), SPACE)
    assert dict(zip(SPACE.classes, annotated[0].tolist(), strict=True)) == {
        "liver": True,
        "tumour": True,
        "spleen": False,
    }
    assert dict(zip(SPACE.classes, annotated[1].tolist(), strict=True)) == {
        "liver": False,
        "tumour": False,
        "spleen": False,
    }


def test_a_label_of_something_else_annotates_nothing() -> None:
    """Nobody looked for a liver; an aorta, which is no class, was labelled and is known to be none."""
    others = frozenset(SPACE.atoms) - SPACE.classes["liver"] - SPACE.classes["spleen"]
    aorta = AnnotationSet("aorta", "s", "CT", {0: SPACE.everything, 1: others})
    possible = possible_atoms(SPACE, [aorta])
    assert not annotated_classes(possible, SPACE).any()
    liver = list(SPACE.classes).index("liver")
    assert class_states(possible, SPACE)[0, :2, liver].tolist() == [UNKNOWN, ABSENT]


def test_a_part_labelled_does_not_annotate_the_whole() -> None:
    """Colon cancer without the colon: positives inside the wider class, but nothing says where it ends."""
    tumour_only = AnnotationSet(
        "a", "a", "CT", {0: SPACE.everything - {"liver_tumour"}, 1: frozenset({"liver_tumour"})}
    )
    annotated = annotated_classes(possible_atoms(SPACE, [tumour_only]), SPACE)
    assert annotated.tolist() == [[False, True, False]]
    problems = PartialLabels(SPACE, {"a": tumour_only}, {"case": "a"}).problems()
    assert any("class 'liver' is annotated by no source" in line for line in problems)


@pytest.mark.parametrize(
    ("possible", "message"),
    [
        ({1: frozenset({"spleen"})}, "does not say what value 0 could be"),
        ({0: SPACE.everything, -1: SPACE.everything}, "value -1: label values start at 0"),
        ({0: SPACE.everything, 1: frozenset({"splen"})}, r"value 1: unknown atoms \['splen'\]"),
        ({0: SPACE.everything, 1: frozenset()}, "value 1: no atom of axis 'anatomy' is possible"),
    ],
)
def test_sets_that_do_not_fit_the_space(possible: dict, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        AnnotationSet("lits", "lits", "CT", possible).check(SPACE)


def model(cases: dict[str, str], **changes: object) -> PartialLabels:
    return PartialLabels(SPACE, {"lits": LITS, "btcv": BTCV}, cases, **changes)  # type: ignore[arg-type]


def test_a_case_without_a_set_is_an_error() -> None:
    labels = model({"lits_1": "lits"})
    assert labels.source_of("lits_1") == "lits"
    with pytest.raises(LabelError, match=r"case 'lits_2' has no annotation set; add it to partial_labels.cases"):
        labels.set_of("lits_2")


def test_a_case_of_an_unknown_set_is_an_error() -> None:
    with pytest.raises(LabelError, match=r"case 'x' names annotation set 'kits', which is not one of"):
        model({"x": "kits"})


def test_problems_name_classes_never_present_and_classes_never_told_apart() -> None:
    assert model({"a": "lits", "b": "btcv"}).problems() == []
    problems = model({"b": "btcv"}).problems()
    assert len(problems) == 1
    assert problems[0].startswith("class 'tumour' is never present")
    space = LabelSpace(
        {"anatomy": ("background", "left", "right", "hilum")},
        {
            "kidneys": frozenset({"left", "right", "hilum"}),
            "parenchyma": frozenset({"left", "right"}),
        },
    )
    merged = AnnotationSet("k", "k", "CT", {0: frozenset({"background"}), 1: frozenset({"left", "right"})})
    twins = PartialLabels(space, {"k": merged}, {"case": "k"}).problems()
    assert any("classes 'kidneys' and 'parenchyma' cannot be told apart" in line for line in twins)


def test_notes_name_a_label_that_could_also_be_another() -> None:
    wide = AnnotationSet(
        "lits",
        "lits",
        "CT",
        {**LITS.possible, 1: frozenset({"liver_tissue", "liver_tumour"})},
    )
    names = {1: "liver", 2: "tumour"}
    assert model({"a": "lits"}).notes(names) == []
    notes = PartialLabels(SPACE, {"lits": wide}, {"a": "lits"}).notes(names)
    assert len(notes) == 1
    assert "'liver' could also be 'tumour'" in notes[0]
