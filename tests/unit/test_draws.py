"""Declared against realised frequencies on a badly unbalanced collection, and what a class's voxels are."""

from __future__ import annotations

from functools import partial
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from nnunet_partial.labels import AnnotationSet, LabelSpace, PartialLabels, keep_apart
from nnunet_partial.losses import MultiTalentLoss, NaiveLoss, SelectedPartialLoss
from nnunet_partial.sampling import (
    UNIFORM,
    CaseSampling,
    Draws,
    HierarchicalSampling,
    Sampling,
    VoxelCounts,
    class_values,
    describe_never_drawn,
    describe_unused,
)
from nnunet_partial.training import Recipe
from nnunet_partial.training.patch_sources import drawable_cases

DRAWN = 20_000
LEVELS = ("class", "modality", "source")
STRATEGIES: dict[str, Sampling] = {
    "multitalent": CaseSampling(),
    "by source": CaseSampling(power=1.0, unlabelled_share=0.2, foreground_share=0.5),
    "uniform": UNIFORM,
    "a third anywhere": HierarchicalSampling(("class", "modality", "source"), 0.1, anywhere_share=1 / 3),
    "all centred": CaseSampling(power=0.0, foreground_share=1.0),
    **{
        "-".join(levels) or "no level": HierarchicalSampling(levels, unlabelled_share=share)
        for length, share in ((3, 0.0), (2, 0.1), (1, 0.25), (0, 0.0))
        for levels in permutations(LEVELS, length)
    },
}
VALUES = {"liver": 1, "spleen": 2, "kidney": 3, "gallbladder": 4}


def atoms(*names: str) -> frozenset[str]:
    return frozenset(names)


@pytest.fixture(scope="module")
def unbalanced() -> tuple[PartialLabels, VoxelCounts]:
    """Sources of 300, 40, 3 and 1 cases and 20 scans; MR twice, gallbladder once, kidneys without sides in one."""
    names = ("background", "liver", "spleen", "kidney_left", "kidney_right", "gallbladder")
    space = LabelSpace({"anatomy": names}, {name: atoms(name) for name in names[1:]})
    meanings = {1: atoms("liver"), 2: atoms("spleen"), 3: atoms("kidney_left", "kidney_right"), 4: atoms(names[-1])}

    def of(source: str, modality: str, *values: int) -> AnnotationSet:
        known = {value: meanings[value] for value in values}
        rest = space.everything.difference(*known.values())
        return AnnotationSet(f"{source}.{modality}", source, modality, {0: rest, **known})

    sets = [of("big", "CT", 1), of("middle", "CT", 1, 2), of("few", "CT", 1, 3), of("few", "MR", 1, 3)]
    sets += [of("one", "CT", 2, 4), of("scans", "CT")]
    sizes = (300, 40, 1, 2, 1, 20)
    cases = {f"{s.name}_{i}": s.name for s, size in zip(sets, sizes, strict=True) for i in range(size)}
    labels = PartialLabels(space, {s.name: s for s in sets}, cases)
    rng = np.random.default_rng(0)
    voxels = {}
    for case, name in cases.items():
        known = [v for v in labels.sets[name].possible if v]
        voxels[case] = np.zeros(5, np.int64)
        voxels[case][0] = 1000
        # a structure outside the field of view of every third case of the large source
        voxels[case][known] = 0 if case.startswith("big") and case.endswith(("0", "3", "6")) else rng.integers(1, 99)
    return labels, VoxelCounts(5, voxels)


def test_class_not_drawn_for_a_case_without_its_voxels(unbalanced: tuple[PartialLabels, VoxelCounts]) -> None:
    labels, counts = unbalanced
    for strategy in STRATEGIES.values():
        draws = strategy.draws(list(labels.cases), labels, counts, batch_size=2)
        for case, class_ in zip(draws.case[draws.cls >= 0], draws.cls[draws.cls >= 0], strict=True):
            name = draws.classes[class_].removesuffix("_left").removesuffix("_right")
            assert counts.of[draws.cases[case]][VALUES[name]] > 0


@pytest.mark.parametrize("name", STRATEGIES)
def test_realised_frequencies_are_the_declared_ones(name: str, unbalanced: tuple[PartialLabels, VoxelCounts]) -> None:
    labels, counts = unbalanced
    draws = STRATEGIES[name].draws(list(labels.cases), labels, counts)
    rng = np.random.default_rng(1)
    drawn = [draws.draw(rng) for _ in range(DRAWN)]
    by_level = {
        "class": [draws.classes[c] if c >= 0 else "anywhere" for _, c in drawn],
        "modality": [labels.set_of(case).modality for case, _ in drawn],
        "source": [labels.source_of(case) for case, _ in drawn],
        "case": [case for case, _ in drawn],
    }
    for level, found in by_level.items():
        declared = draws.marginal(level)  # type: ignore[arg-type]
        assert sum(declared.values()) == pytest.approx(1, abs=1e-12)
        assert_fits({n: found.count(n) for n in set(found)}, declared)
    rows = {(draws.cases[i], int(c)): p for i, c, p in zip(draws.case, draws.cls, draws.probability, strict=True)}
    pairs: dict[tuple[str, int], int] = {}
    for pair in drawn:
        pairs[pair] = pairs.get(pair, 0) + 1
    assert_fits(pairs, rows)


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "uniform"])
def test_no_class_with_voxels_is_never_drawn(name: str, unbalanced: tuple[PartialLabels, VoxelCounts]) -> None:
    """The gallbladder has voxels in one case of 364."""
    labels, counts = unbalanced
    for batch_size in (None, 2):
        draws = STRATEGIES[name].draws(list(labels.cases), labels, counts, batch_size)
        declared = draws.marginal("class")
        assert all(declared[c] > 0 for c in labels.class_names)
        rng = np.random.default_rng(2)
        drawn = {draws.draw(rng)[1] for _ in range(DRAWN)}
        assert drawn - {-1} == set(range(len(labels.class_names)))


@pytest.mark.parametrize("name", STRATEGIES)
def test_labelled_cases_that_are_never_drawn_are_reported(
    name: str, unbalanced: tuple[PartialLabels, VoxelCounts]
) -> None:
    """A third of the cases of the large source have no voxel of any class; no unlabelled scan is listed."""
    labels, counts = unbalanced
    lines = describe_never_drawn(labels, STRATEGIES[name].draws(list(labels.cases), labels, counts, batch_size=2))
    if name in ("multitalent", "by source", "uniform", "a third anywhere", "all centred"):
        assert lines == []
    else:
        assert lines == [
            "90 of 344 labelled training cases are never drawn, as all patches are centred on a class and these have "
            "no voxel of any: big.CT_0, big.CT_3, big.CT_6, ...; nnUNet_partial_sampling=cmd_anywhere would draw them"
        ]


def test_two_cases_that_are_never_drawn_are_both_named() -> None:
    space = LabelSpace({"anatomy": ("background", "liver")}, {"liver": atoms("liver")})
    sets = {"s": AnnotationSet("s", "s", "CT", {0: atoms("background"), 1: atoms("liver")})}
    labels = PartialLabels(space, sets, dict.fromkeys("abc", "s"))
    counts = VoxelCounts(2, {case: np.array([9, case == "a"], np.int64) for case in "abc"})
    (line,) = describe_never_drawn(labels, HierarchicalSampling().draws("abc", labels, counts))
    assert line.startswith("2 of 3 labelled training cases are never drawn")
    assert ": b, c; " in line


@pytest.fixture(scope="module")
def kidneys() -> tuple[PartialLabels, VoxelCounts]:
    """Two cases with sides, three of merged kidneys and a scan."""
    names = ("background", "kidney_left", "kidney_right")
    space = LabelSpace({"anatomy": names}, {name: atoms(name) for name in names[1:]})
    possible = {
        "sided": {0: atoms("background"), 1: atoms("kidney_left"), 2: atoms("kidney_right")},
        "merged": {0: atoms("background"), 3: atoms("kidney_left", "kidney_right")},
        "scans": {0: space.everything},
    }
    sets = {source: AnnotationSet(source, source, "CT", values) for source, values in possible.items()}
    cases = {"k0": "merged", "a": "sided", "k1": "merged", "s": "scans", "b": "sided", "k2": "merged"}
    voxels = {"sided": [9, 2, 1, 0], "merged": [8, 0, 0, 4], "scans": [12, 0, 0, 0]}
    counts = VoxelCounts(4, {case: np.array(voxels[source], np.int64) for case, source in cases.items()})
    return PartialLabels(space, sets, cases), counts


EVERY_CASE = ["k0", "a", "k1", "s", "b", "k2"]


@pytest.mark.parametrize(
    ("changes", "drawable"),
    [
        ({"loss": MultiTalentLoss, "implied_negatives": True}, EVERY_CASE),
        ({"loss": MultiTalentLoss}, ["a", "s", "b"]),
        ({"loss": SelectedPartialLoss}, ["a", "s", "b"]),
        ({"loss": SelectedPartialLoss, "optional": "kidney_right, kidney_left"}, ["a", "s", "b"]),
        # the class that is not named counts as annotated in the merged kidneys too
        ({"loss": SelectedPartialLoss, "optional": "kidney_left"}, EVERY_CASE),
        ({"loss": partial(SelectedPartialLoss, optional=())}, EVERY_CASE),
        ({"loss": partial(SelectedPartialLoss, optional=(1,))}, EVERY_CASE),
        ({"loss": partial(SelectedPartialLoss, optional=(1, 0))}, ["a", "s", "b"]),
        ({"loss": NaiveLoss}, EVERY_CASE),
    ],
)
def test_cases_that_a_loss_learns_nothing_from_are_not_drawable(
    kidneys: tuple[PartialLabels, VoxelCounts], changes: dict[str, Any], drawable: list[str]
) -> None:
    recipe = Recipe(**{"implied_negatives": False, **changes})
    assert drawable_cases(EVERY_CASE, kidneys[0], recipe) == drawable


def test_unused_cases_are_reported_by_source(kidneys: tuple[PartialLabels, VoxelCounts]) -> None:
    labels, _ = kidneys
    assert describe_unused(labels, EVERY_CASE, []) == []
    (line,) = describe_unused(labels, EVERY_CASE, ["k0", "k2"])
    assert line.startswith("2 of 5 labelled training cases are not used, as they annotate none of the trained classes")
    assert ": 2 of 3 of source 'merged'; nnUNet_partial_implied_negatives=1 or a trainer with a softmax" in line


def test_cases_that_are_listed_but_never_drawn(kidneys: tuple[PartialLabels, VoxelCounts]) -> None:
    labels, counts = kidneys
    drawn = HierarchicalSampling().draws(["a", "b"], labels, counts)
    listed = drawn.with_never_drawn(["k0", "k1"], labels)
    assert listed.marginal("source") == {"sided": 1.0, "merged": 0.0}
    assert listed.marginal("case") == pytest.approx({"a": 0.5, "b": 0.5, "k0": 0.0, "k1": 0.0})
    first, second = np.random.default_rng(3), np.random.default_rng(3)
    assert [drawn.draw(first) for _ in range(20)] == [listed.draw(second) for _ in range(20)]
    # why they are not drawn is another line's business
    assert describe_never_drawn(labels, listed, ["k0", "k1"]) == []
    assert describe_never_drawn(labels, listed, ["k0"])[0].startswith("1 of 4 labelled training cases are never drawn")


def assert_fits(found: dict, declared: dict) -> None:
    """χ² of counts against probabilities; rare entries are pooled, as χ² needs at least five expected draws."""
    assert {name for name, n in found.items() if n} <= {name for name, p in declared.items() if p > 0}
    names = [name for name, p in declared.items() if p > 0]
    expected = np.array([declared[name] for name in names]) * DRAWN
    observed = np.array([found.get(name, 0) for name in names], float)
    rare = expected < 5
    if rare.any():
        observed = np.append(observed[~rare], observed[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    if len(expected) > 1:
        assert chisquare(observed, expected).pvalue > 0.001


def test_unlabelled_share_is_exact(unbalanced: tuple[PartialLabels, VoxelCounts]) -> None:
    labels, counts = unbalanced
    for share in (0.0, 0.1, 0.3):
        for strategy in (CaseSampling(unlabelled_share=share), HierarchicalSampling(unlabelled_share=share)):
            draws = strategy.draws(list(labels.cases), labels, counts)
            assert draws.marginal("source")["scans"] == pytest.approx(share, abs=1e-12)
            scans = [draws.sources[i] == "scans" for i in draws.case]
            assert (draws.cls[scans] == -1).all()
            assert sum(scans) == (20 if share else 0)


def test_unlabelled_share_without_such_cases_is_zero(unbalanced: tuple[PartialLabels, VoxelCounts]) -> None:
    labels, counts = unbalanced
    cases = [c for c in labels.cases if not c.startswith("scans")]
    for kind in (CaseSampling, HierarchicalSampling):
        with_share, without = (kind(unlabelled_share=u).draws(cases, labels, counts) for u in (0.5, 0.0))
        np.testing.assert_allclose(with_share.probability, without.probability, rtol=1e-12)


def few_draws() -> Draws:
    """Two cases and two classes; the second class has no row."""
    case, cls, p = np.array([0, 0, 1]), np.array([0, -1, -1]), np.array([0.5, 0.2, 0.3])
    return Draws(("a", "b"), ("liver", "spleen"), ("CT", "MR"), ("s", "s"), case, cls, p)


def test_marginals() -> None:
    draws = few_draws()
    assert draws.marginal("class") == pytest.approx({"liver": 0.5, "spleen": 0.0, "anywhere": 0.5})
    assert draws.marginal("modality") == pytest.approx({"CT": 0.7, "MR": 0.3})
    assert draws.marginal("source") == pytest.approx({"s": 1.0})
    assert draws.marginal("case") == pytest.approx({"a": 0.7, "b": 0.3})
    assert draws.centred_share == 0.5


def test_drawing_on_condition() -> None:
    draws, rng = few_draws(), np.random.default_rng(0)
    assert {draws.draw(rng, centred=True) for _ in range(50)} == {("a", 0)}
    found = [draws.draw(rng, centred=False) for _ in range(2000)]
    assert set(found) == {("a", -1), ("b", -1)}
    assert found.count(("a", -1)) / 2000 == pytest.approx(0.4, abs=0.05)
    assert {draws.draw(rng) for _ in range(200)} == {("a", 0), ("a", -1), ("b", -1)}


@pytest.mark.parametrize("cls", [0, -1])
def test_drawing_on_an_impossible_condition_takes_all_rows(cls: int) -> None:
    draws = Draws(("a",), ("liver",), ("CT",), ("s",), np.array([0]), np.array([cls]), np.ones(1))
    for centred in (True, False, None):
        assert draws.draw(np.random.default_rng(0), centred) == ("a", cls)


def test_draws_follow_from_the_generator_alone() -> None:
    draws = few_draws()
    first, second = ([draws.draw(rng) for _ in range(50)] for rng in map(np.random.default_rng, (3, 3)))
    assert first == second


def test_anywhere(unbalanced: tuple[PartialLabels, VoxelCounts]) -> None:
    labels, _ = unbalanced
    draws = Draws.anywhere(["scans.CT_0", "few.MR_1"], labels)
    assert draws.marginal("case") == {"scans.CT_0": 0.5, "few.MR_1": 0.5}
    assert draws.marginal("class")["anywhere"] == 1
    assert draws.modalities == ("CT", "MR")


@pytest.mark.parametrize("probability", [[0.5, 0.4, 0.0], [0.5, 0.5, 0.1], [1.2, -0.1, -0.1]])
def test_probabilities_must_be_positive_and_sum_to_one(probability: list[float]) -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        Draws(("a",), (), ("CT",), ("s",), np.zeros(3, np.int64), np.full(3, -1), np.array(probability))


def one_set(space: LabelSpace, possible: dict[int, frozenset[str]], source: str = "s") -> PartialLabels:
    return PartialLabels(space, {source: AnnotationSet(source, source, "CT", possible)}, {"c": source})


def test_kidneys_without_sides_are_voxels_of_both() -> None:
    names = ("background", "kidney_left", "kidney_right", "spleen")
    space = LabelSpace({"anatomy": names}, {name: atoms(name) for name in names[1:]})
    labels = one_set(space, {0: atoms("background", "spleen"), 1: atoms("kidney_left", "kidney_right")})
    assert class_values(labels).tolist() == [[[False] * 3, [True, True, False]]]


def test_a_liver_that_could_be_tumour_is_not_drawn_for_the_tumour() -> None:
    space = LabelSpace(
        {"anatomy": ("background", "tissue", "tumour")},
        {"liver": atoms("tissue", "tumour"), "tumour": atoms("tumour")},
    )
    possible = {0: atoms("background"), 1: atoms("tissue", "tumour"), 2: atoms("tumour")}
    assert class_values(one_set(space, possible)).tolist() == [[[False, False], [True, False], [True, True]]]


def test_values_that_mark_no_structure_stand_for_no_class() -> None:
    space = LabelSpace({"anatomy": ("background", "liver")}, {"liver": atoms("liver")})
    possible = {0: atoms("background"), 1: space.everything, 2: atoms("liver")}
    assert class_values(one_set(space, possible))[0, :, 0].tolist() == [False, False, True]


def test_a_structure_of_one_axis_is_none_of_another() -> None:
    """Where a source's liver is kept apart, its label must not be drawn for the liver that the others share."""
    space = LabelSpace({"anatomy": ("background", "liver")}, {"liver": atoms("liver")})
    sets = {
        name: AnnotationSet(name, name, "CT", {0: atoms("background"), 1: atoms("liver")}) for name in ("own", "other")
    }
    labels = keep_apart(PartialLabels(space, sets, {"c": "own", "d": "other"}), "own")
    liver, own_liver = (labels.class_names.index(name) for name in ("liver", "own.liver"))
    found = class_values(labels)
    assert found[labels.row_of("c"), 1, own_liver]
    assert not found[labels.row_of("c"), 1, liver]
    assert found[labels.row_of("d"), 1, liver]
    assert not found[labels.row_of("d"), 1, own_liver]


def test_no_classes() -> None:
    space = LabelSpace({"anatomy": ("background", "liver")}, {})
    assert class_values(one_set(space, {0: atoms("background")})).shape == (1, 1, 0)
