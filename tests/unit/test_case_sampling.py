"""Case probabilities: closed-form values, and frequencies of the loader that draws with them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from nnunet_partial.errors import LabelError
from nnunet_partial.labels import AnnotationSet, LabelSpace, PartialLabels
from nnunet_partial.sampling import CaseSampling


def collection(**sizes: int) -> PartialLabels:
    """Sources of the given sizes; 'scans' annotates nothing."""
    space = LabelSpace({"anatomy": ("background", "liver")}, {"liver": frozenset({"liver"})})
    liver = {0: frozenset({"background"}), 1: frozenset({"liver"})}
    sets = {
        name: AnnotationSet(name, name, "CT", {0: space.everything} if name == "scans" else liver) for name in sizes
    }
    return PartialLabels(space, sets, {f"{n}_{i}": n for n, size in sizes.items() for i in range(size)})


def test_inverse_square_root_of_the_source_size() -> None:
    labels = collection(small=4, large=100)
    cases = list(labels.cases)
    p = CaseSampling(power=0.5).probabilities(cases, labels)
    assert p[:4] == pytest.approx(0.5 / (4 * 0.5 + 100 * 0.1))
    assert p[4:] == pytest.approx(0.1 / (4 * 0.5 + 100 * 0.1))
    # a source's share is proportional to the square root of its size
    assert p[4:].sum() / p[:4].sum() == pytest.approx(np.sqrt(100) / np.sqrt(4))


@pytest.mark.parametrize(("power", "share"), [(0.0, 4 / 104), (1.0, 0.5)])
def test_other_powers(power: float, share: float) -> None:
    labels = collection(small=4, large=100)
    assert CaseSampling(power=power).probabilities(list(labels.cases), labels)[:4].sum() == pytest.approx(share)


def test_counts_are_those_of_the_fold() -> None:
    labels = collection(a=10, b=10)
    cases = [c for c in labels.cases if c.startswith("b_")] + ["a_0"]
    p = CaseSampling().probabilities(cases, labels)
    assert p[-1] / p[0] == pytest.approx(np.sqrt(10))


def test_unlabelled_cases_are_not_drawn_unless_they_have_a_share() -> None:
    labels = collection(a=5, scans=3)
    cases = list(labels.cases)
    assert CaseSampling().probabilities(cases, labels)[5:].sum() == 0
    with_share = CaseSampling(unlabelled_share=0.25).probabilities(cases, labels)
    assert with_share[5:] == pytest.approx(0.25 / 3)
    assert with_share.sum() == pytest.approx(1)


def test_a_share_without_unlabelled_cases_changes_nothing() -> None:
    labels = collection(a=5)
    assert CaseSampling(unlabelled_share=0.5).probabilities(list(labels.cases), labels) == pytest.approx(0.2)


def test_merged_kidneys_are_drawn_though_they_annotate_neither_side() -> None:
    space = LabelSpace(
        {"anatomy": ("background", "kidney_left", "kidney_right")},
        {"kidney_left": frozenset({"kidney_left"}), "kidney_right": frozenset({"kidney_right"})},
    )
    merged = {0: frozenset({"background"}), 1: frozenset({"kidney_left", "kidney_right"})}
    labels = PartialLabels(space, {"kits": AnnotationSet("kits", "kits", "CT", merged)}, {"kits_0": "kits"})
    assert not labels.is_annotated("kits_0")
    assert CaseSampling().probabilities(["kits_0"], labels) == pytest.approx(1.0)


def test_nothing_annotated_is_an_error() -> None:
    labels = collection(scans=3)
    with pytest.raises(LabelError, match="nothing is annotated"):
        CaseSampling().probabilities(list(labels.cases), labels)


@pytest.mark.parametrize("wrong", [{"power": 1.5}, {"power": -0.1}, {"unlabelled_share": 1.0}])
def test_values_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected power"):
        CaseSampling(**wrong)


def test_drawn_frequencies_match() -> None:
    labels = collection(small=3, middle=40, large=400)
    cases = list(labels.cases)
    p = CaseSampling().probabilities(cases, labels)
    drawn = np.random.default_rng(0).choice(len(cases), size=20_000, p=p)
    sources = ["small", "middle", "large"]
    of_case = np.array([sources.index(labels.source_of(c)) for c in cases])
    observed = np.bincount(of_case[drawn], minlength=3)
    expected = np.array([p[of_case == s].sum() for s in range(3)]) * 20_000
    assert chisquare(observed, expected).pvalue > 0.001
