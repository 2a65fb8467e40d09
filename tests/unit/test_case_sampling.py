"""Probabilities by the size of the source: closed-form values."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_partial.errors import LabelError
from nnunet_partial.labels import AnnotationSet, LabelSpace, PartialLabels
from nnunet_partial.sampling import UNIFORM, CaseSampling, Draws, VoxelCounts


def collection(**sizes: int) -> PartialLabels:
    """Sources of the given sizes, liver and spleen annotated; 'scans' annotates nothing."""
    names = ("background", "liver", "spleen")
    space = LabelSpace({"anatomy": names}, {name: frozenset({name}) for name in names[1:]})
    known = {value: frozenset({name}) for value, name in enumerate(names)}
    sets = {
        name: AnnotationSet(name, name, "CT", {0: space.everything} if name == "scans" else known) for name in sizes
    }
    return PartialLabels(space, sets, {f"{n}_{i}": n for n, size in sizes.items() for i in range(size)})


def draws_of(
    sampling: CaseSampling,
    labels: PartialLabels,
    voxels: dict[str, list[int]] | None = None,
    cases: list[str] | None = None,
    batch_size: int | None = None,
) -> Draws:
    """Draws where every case has liver only, but for those given."""
    counts = {case: np.array((voxels or {}).get(case, [9, 5, 0])) for case in labels.cases}
    return sampling.draws(cases or list(labels.cases), labels, VoxelCounts(3, counts), batch_size)


def case_probabilities(draws: Draws) -> np.ndarray:
    return np.array(list(draws.marginal("case").values()))


def test_inverse_square_root_of_the_source_size() -> None:
    p = case_probabilities(draws_of(CaseSampling(power=0.5), collection(small=4, large=100)))
    assert p[:4] == pytest.approx(0.5 / (4 * 0.5 + 100 * 0.1))
    assert p[4:] == pytest.approx(0.1 / (4 * 0.5 + 100 * 0.1))
    # a source's share is proportional to the square root of its size
    assert p[4:].sum() / p[:4].sum() == pytest.approx(np.sqrt(100) / np.sqrt(4))


@pytest.mark.parametrize(("power", "share"), [(0.0, 4 / 104), (1.0, 0.5)])
def test_other_powers(power: float, share: float) -> None:
    draws = draws_of(CaseSampling(power=power), collection(small=4, large=100))
    assert draws.marginal("source")["small"] == pytest.approx(share)


def test_uniform_draws_every_case_and_place_alike() -> None:
    draws = draws_of(UNIFORM, collection(small=4, large=100))
    assert case_probabilities(draws) == pytest.approx(1 / 104)
    assert draws.marginal("class")["anywhere"] == pytest.approx(1)


def test_counts_are_those_of_the_fold() -> None:
    labels = collection(a=10, b=10)
    cases = [c for c in labels.cases if c.startswith("b_")] + ["a_0"]
    p = case_probabilities(draws_of(CaseSampling(), labels, cases=cases))
    assert p[-1] / p[0] == pytest.approx(np.sqrt(10))


def test_unlabelled_cases_are_not_drawn_unless_they_have_a_share() -> None:
    labels = collection(a=5, scans=3)
    assert case_probabilities(draws_of(CaseSampling(), labels))[5:].sum() == 0
    with_share = case_probabilities(draws_of(CaseSampling(unlabelled_share=0.25), labels))
    assert with_share[5:] == pytest.approx(0.25 / 3)
    assert with_share.sum() == pytest.approx(1)


def test_a_share_without_unlabelled_cases_changes_nothing() -> None:
    assert case_probabilities(draws_of(CaseSampling(unlabelled_share=0.5), collection(a=5))) == pytest.approx(0.2)


def test_centred_patches_are_shared_evenly_by_the_classes_of_a_case() -> None:
    labels = collection(a=2)
    draws = draws_of(CaseSampling(foreground_share=0.4), labels, {"a_0": [9, 5, 5], "a_1": [9, 0, 7]})
    assert draws.marginal("class") == pytest.approx({"liver": 0.1, "spleen": 0.3, "anywhere": 0.6})
    rows = list(zip(draws.case.tolist(), draws.cls.tolist(), draws.probability.tolist(), strict=True))
    assert rows == [
        (i, c, pytest.approx(p)) for i, c, p in ((0, 0, 0.1), (0, 1, 0.1), (1, 1, 0.2), (0, -1, 0.3), (1, -1, 0.3))
    ]


def test_share_and_case_probabilities_hold_where_some_cases_have_no_structure() -> None:
    """Two of five patches are centred, on the two cases of four that have a liver; cases are still drawn alike."""
    labels = collection(a=4)
    draws = draws_of(CaseSampling(foreground_share=0.4), labels, {"a_2": [9, 0, 0], "a_3": [9, 0, 0]})
    assert case_probabilities(draws) == pytest.approx(0.25)
    assert draws.marginal("class") == pytest.approx({"liver": 0.4, "spleen": 0.0, "anywhere": 0.6})
    assert draws.probability[(draws.case == 0) & (draws.cls == -1)] == pytest.approx(0.05)


def test_share_gives_way_to_the_case_probabilities() -> None:
    labels = collection(a=4, scans=1)
    empty = {f"a_{i}": [9, 0, 0] for i in range(1, 4)}
    draws = draws_of(CaseSampling(foreground_share=0.5, unlabelled_share=0.2), labels, empty)
    assert case_probabilities(draws) == pytest.approx(0.2)
    assert draws.centred_share == pytest.approx(0.2)


def test_no_structure_anywhere_still_draws_annotated_cases() -> None:
    labels = collection(a=2)
    draws = draws_of(CaseSampling(), labels, {c: [9, 0, 0] for c in labels.cases})
    assert draws.marginal("class")["anywhere"] == pytest.approx(1)


@pytest.mark.parametrize("batch_size", range(1, 10))
@pytest.mark.parametrize("share", [0.0, 0.33, 0.5, 1.0])
def test_share_is_rounded_as_in_nnunet(batch_size: int, share: float) -> None:
    draws = draws_of(CaseSampling(foreground_share=share), collection(a=3), batch_size=batch_size)
    forced = [not place < round(batch_size * (1 - share)) for place in range(batch_size)]
    assert draws.centred_share == pytest.approx(sum(forced) / batch_size)


def test_one_case() -> None:
    draws = draws_of(CaseSampling(), collection(a=1))
    assert draws.marginal("class") == pytest.approx({"liver": 0.33, "spleen": 0.0, "anywhere": 0.67})


def test_merged_kidneys_are_drawn_though_they_annotate_neither_side() -> None:
    names = ("background", "kidney_left", "kidney_right")
    space = LabelSpace({"anatomy": names}, {name: frozenset({name}) for name in names[1:]})
    merged = {0: frozenset({"background"}), 1: frozenset(names[1:])}
    labels = PartialLabels(space, {"kits": AnnotationSet("kits", "kits", "CT", merged)}, {"kits_0": "kits"})
    assert not labels.is_annotated("kits_0")
    counts = VoxelCounts(2, {"kits_0": np.array([9, 4])})
    draws = CaseSampling(foreground_share=0.5).draws(["kits_0"], labels, counts)
    assert draws.marginal("class") == pytest.approx({"kidney_left": 0.25, "kidney_right": 0.25, "anywhere": 0.5})


def test_nothing_annotated_is_an_error() -> None:
    with pytest.raises(LabelError, match="nothing is annotated"):
        draws_of(CaseSampling(), collection(scans=3))


@pytest.mark.parametrize("wrong", [{"power": 1.5}, {"power": -0.1}, {"unlabelled_share": 1.0}, {"foreground_share": 2}])
def test_values_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected power"):
        CaseSampling(**wrong)
