"""Probabilities drawn level by level, against fractions by hand and against a recursion in exact fractions."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest

from nnunet_partial.errors import LabelError
from nnunet_partial.labels import AnnotationSet, LabelSpace, PartialLabels
from nnunet_partial.sampling import Draws, HierarchicalSampling, VoxelCounts

NAMES = ("background", "liver", "spleen", "aorta")
SPACE = LabelSpace({"anatomy": NAMES}, {name: frozenset({name}) for name in NAMES[1:]})
KNOWN = {value: frozenset({name}) for value, name in enumerate(NAMES)}
MODALITIES = {"a": "CT", "b": "CT", "m": "MR", "mixed.ct": "CT", "mixed.mr": "MR", "scans": "CT", "scans.mr": "MR"}
SETS = {
    name: AnnotationSet(name, name.split(".")[0], modality, {0: SPACE.everything} if "scans" in name else KNOWN)
    for name, modality in MODALITIES.items()
}
MDC = ("modality", "source", "class")
ALL_LEVELS = [levels for length in range(4) for levels in permutations(("class", "modality", "source"), length)]


def draws_of(
    sampling: HierarchicalSampling, cases: dict[str, tuple[str, str]]
) -> tuple[dict[tuple[str, str], float], Draws]:
    """Draws of cases given as (annotation set, initials of the classes it has voxels of)."""
    labels = PartialLabels(SPACE, SETS, {case: name for case, (name, _) in cases.items()})
    counts = {
        case: np.array([50, *(3 * (name[0] in initials) for name in NAMES[1:])])
        for case, (_, initials) in cases.items()
    }
    draws = sampling.draws(list(cases), labels, VoxelCounts(4, counts))
    names = [(draws.cases[i], (*draws.classes, "anywhere")[c]) for i, c in zip(draws.case, draws.cls, strict=True)]
    return dict(zip(names, draws.probability.tolist(), strict=True)), draws


SMALL = {"a0": ("a", "l"), "a1": ("a", "l"), "b0": ("b", "ls"), "m0": ("m", "l")}


def test_class_modality_source_by_hand() -> None:
    rows, draws = draws_of(HierarchicalSampling(), SMALL)
    assert rows == pytest.approx(
        {
            ("a0", "liver"): 1 / 16,
            ("a1", "liver"): 1 / 16,
            ("b0", "liver"): 1 / 8,
            ("m0", "liver"): 1 / 4,
            ("b0", "spleen"): 1 / 2,
        }
    )
    assert draws.marginal("class") == pytest.approx({"liver": 0.5, "spleen": 0.5, "aorta": 0, "anywhere": 0})
    assert draws.marginal("modality") == pytest.approx({"CT": 0.75, "MR": 0.25})
    assert draws.marginal("source") == pytest.approx({"a": 1 / 8, "b": 5 / 8, "m": 1 / 4})


def test_a_third_anywhere_by_hand() -> None:
    cases = {**SMALL, "empty": ("m", "")}
    rows, draws = draws_of(HierarchicalSampling(anywhere_share=1 / 3), cases)
    centred = {("a0", "liver"): 1 / 16, ("a1", "liver"): 1 / 16, ("b0", "liver"): 1 / 8, ("m0", "liver"): 1 / 4}
    expected = {row: p * 2 / 3 for row, p in {**centred, ("b0", "spleen"): 1 / 2}.items()}
    # modality, then source, then case; the case without any voxel of a class takes part
    anywhere = {"a0": 1 / 8, "a1": 1 / 8, "b0": 1 / 4, "m0": 1 / 4, "empty": 1 / 4}
    expected |= {(case, "anywhere"): p / 3 for case, p in anywhere.items()}
    assert rows == pytest.approx(expected)
    assert draws.centred_share == pytest.approx(2 / 3)


def test_the_share_of_unlabelled_cases_is_that_of_all_patches() -> None:
    cases = {**SMALL, "scan": ("scans", "")}
    sampling = HierarchicalSampling(unlabelled_share=0.2, anywhere_share=0.5)
    rows, draws = draws_of(sampling, cases)
    assert rows["scan", "anywhere"] == pytest.approx(0.2)
    assert draws.marginal("class")["anywhere"] == pytest.approx(0.2 + 0.8 * 0.5)


def test_modality_source_class_by_hand() -> None:
    rows, draws = draws_of(HierarchicalSampling(MDC), SMALL)
    assert rows == pytest.approx(
        {
            ("a0", "liver"): 1 / 8,
            ("a1", "liver"): 1 / 8,
            ("b0", "liver"): 1 / 8,
            ("b0", "spleen"): 1 / 8,
            ("m0", "liver"): 1 / 2,
        }
    )
    assert draws.marginal("class") == pytest.approx({"liver": 7 / 8, "spleen": 1 / 8, "aorta": 0, "anywhere": 0})
    assert draws.marginal("modality") == pytest.approx({"CT": 0.5, "MR": 0.5})
    assert draws.marginal("source") == pytest.approx({"a": 1 / 4, "b": 1 / 4, "m": 1 / 2})


def test_source_only_draws_the_class_last() -> None:
    rows, _ = draws_of(HierarchicalSampling(("source",)), {"a0": ("a", "l"), "b0": ("b", "lsa"), "b1": ("b", "s")})
    third = pytest.approx(1 / 12)
    assert rows == {
        ("a0", "liver"): pytest.approx(1 / 2),
        ("b0", "liver"): third,
        ("b0", "spleen"): third,
        ("b0", "aorta"): third,
        ("b1", "spleen"): pytest.approx(1 / 4),
    }


def by_recursion(rows: list[dict[str, str]], levels: list[str]) -> dict[tuple[str, str], Fraction]:
    if not levels:
        assert len(rows) == 1
        return {(rows[0]["case"], rows[0]["class"]): Fraction(1)}
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(row[levels[0]], []).append(row)
    return {
        pair: share / len(groups)
        for group in groups.values()
        for pair, share in by_recursion(group, levels[1:]).items()
    }


@pytest.mark.parametrize("levels", ALL_LEVELS)
@pytest.mark.parametrize("seed", range(3))
def test_every_order_equals_the_recursion(levels: tuple[str, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [name for name in SETS if "scans" not in name]
    cases = {
        f"c{i}": (str(rng.choice(names, p=[0.6, 0.1, 0.1, 0.1, 0.1])), "".join(rng.choice(list("lsa"), 2)))
        for i in range(40)
    }
    sampling = HierarchicalSampling(levels)  # type: ignore[arg-type]
    rows, _ = draws_of(sampling, cases)
    entries = [
        {"case": case, "class": name, "modality": SETS[s].modality, "source": SETS[s].source}
        for case, (s, initials) in cases.items()
        for name in NAMES[1:]
        if name[0] in initials
    ]
    expected = by_recursion(entries, [*levels, "case", "class"])
    assert rows.keys() == expected.keys()
    assert rows == pytest.approx({pair: float(share) for pair, share in expected.items()}, abs=1e-14)


def test_unlabelled_cases_are_drawn_by_the_other_levels() -> None:
    cases = {**SMALL, "x": ("scans", ""), "y": ("scans", ""), "z": ("scans.mr", "")}
    rows, draws = draws_of(HierarchicalSampling(unlabelled_share=0.2), cases)
    assert rows["x", "anywhere"] == pytest.approx(0.05)
    assert rows["z", "anywhere"] == pytest.approx(0.1)
    assert draws.centred_share == pytest.approx(0.8)
    assert rows["b0", "spleen"] == pytest.approx(0.4)


def test_annotated_cases_without_a_structure_are_not_drawn() -> None:
    rows, draws = draws_of(HierarchicalSampling(), {"a0": ("a", "l"), "a1": ("a", "")})
    assert rows == {("a0", "liver"): 1.0}
    assert draws.marginal("case") == {"a0": 1.0, "a1": 0.0}


def test_one_case() -> None:
    rows, _ = draws_of(HierarchicalSampling(), {"b0": ("b", "ls")})
    assert rows == {("b0", "liver"): 0.5, ("b0", "spleen"): 0.5}


def test_nothing_annotated_is_an_error() -> None:
    with pytest.raises(LabelError, match="nothing is annotated in any of the 1 cases"):
        draws_of(HierarchicalSampling(unlabelled_share=0.5), {"x": ("scans", "")})


def test_nothing_to_centre_on_is_an_error() -> None:
    with pytest.raises(LabelError, match="no class has a voxel in any of the 2 cases"):
        draws_of(HierarchicalSampling(unlabelled_share=0.5), {"a0": ("a", ""), "x": ("scans", "")})


@pytest.mark.parametrize("levels", [("case",), ("class", "class")])
def test_wrong_levels(levels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="expected levels out of"):
        HierarchicalSampling(levels)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_wrong_share(share: float) -> None:
    with pytest.raises(ValueError, match="expected unlabelled_share"):
        HierarchicalSampling(unlabelled_share=share)
