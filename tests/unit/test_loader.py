"""Batches: where their patches lie, how often what is drawn, and that they follow from their number alone."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from scipy.stats import chisquare

from nnunet_partial.errors import LabelError
from nnunet_partial.labels import AnnotationSet, LabelSpace, PartialLabels
from nnunet_partial.sampling import (
    UNIFORM,
    CaseSampling,
    HierarchicalSampling,
    PartialDataLoader,
    VoxelCounts,
    class_values,
    make_reproducible,
)
from nnunet_partial.training.recipe import SAMPLINGS

NAMES = ("background", "liver", "spleen", "vessel", "lesion")
SPACE = LabelSpace({"anatomy": NAMES}, {n: frozenset({n}) for n in NAMES[1:]})
VALUES = {
    0: frozenset({"background", "lesion"}),
    1: frozenset({"liver"}),
    2: frozenset({"background", "spleen"}),  # an annotated slice without liver: marks no structure
    3: frozenset({"liver", "spleen"}),  # one or the other
    4: frozenset({"vessel"}),
}
SIDE = 12


class FakeDataset:
    """Cases in memory, in the form of nnU-Net's datasets: few voxels of a structure each, far from each other."""

    def __init__(self, cases: int = 6) -> None:
        self.identifiers = [f"c{i}" for i in range(cases)]
        self.label_maps = {}
        for seed, case in enumerate(self.identifiers):
            rng = np.random.default_rng(seed)
            label_map = np.zeros((1, SIDE, SIDE, SIDE), np.int16)
            for value, voxels in ((1, 9), (2, 40), (3, 2), (4, seed)):
                label_map.flat[rng.choice(SIDE**3, voxels, replace=False)] = value
            self.label_maps[case] = label_map
        self.locations = {c: {v: np.argwhere(m == v) for v in (1, 2, 3, 4)} for c, m in self.label_maps.items()}

    def load_case(self, identifier: str) -> tuple[Any, Any, None, dict[str, Any]]:
        labels = self.label_maps[identifier]
        data = np.arange(labels.size, dtype=np.float32).reshape(labels.shape)
        return data, labels, None, {"class_locations": self.locations[identifier]}

    @property
    def counts(self) -> VoxelCounts:
        return VoxelCounts(5, {c: np.bincount(m.ravel(), minlength=5) for c, m in self.label_maps.items()})


@pytest.fixture
def labels() -> PartialLabels:
    annotation_set = AnnotationSet("sparse", "sparse", "CT", VALUES)
    return PartialLabels(SPACE, {"sparse": annotation_set}, {f"c{i}": "sparse" for i in range(6)})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares each batch the search for numerical libraries, which takes longer than these small patches."""
    monkeypatch.setattr("nnunetv2.training.dataloading.data_loader.threadpool_limits", lambda **_: nullcontext())


class NoIgnore:
    """The part of nnU-Net's label manager that its loader reads."""

    all_labels: ClassVar[list[int]] = [0, 1, 2]
    has_ignore_label = False


def loader(
    labels: PartialLabels,
    sampling: Any = CaseSampling(foreground_share=0.5),
    *,
    dataset: FakeDataset | None = None,
    batch: int = 2,
    patch: tuple[int, ...] = (4, 4, 4),
    final: tuple[int, ...] | None = None,
    **changes: Any,
) -> PartialDataLoader:
    data = dataset or FakeDataset()
    counts = data.counts
    draws = sampling.draws(data.identifiers, labels, counts, changes.get("places", batch))
    settings = {"seed": 7, "stream": 0, "draws": draws, "labels": labels, "counts": counts, **changes}
    return PartialDataLoader(data, batch, patch, final or patch, NoIgnore(), **settings)


@pytest.mark.parametrize(
    ("patch", "final"),
    [
        ((4, 4, 4), None),
        ((5, 3, 1), None),
        ((9, 9, 9), (5, 5, 5)),
        ((16, 4, 20), None),
        ((4, 6), None),
        ((7, 9), (3, 3)),
    ],
)
def test_patches_hold_a_voxel_of_the_drawn_class(
    labels: PartialLabels, patch: tuple[int, ...], final: tuple[int, ...] | None
) -> None:
    made = loader(labels, HierarchicalSampling(), patch=patch, final=final)
    table = class_values(labels)[0]
    seen = set()
    for _ in range(60):
        batch = next(made)
        assert batch["target"].shape == (2, 1, *patch)
        for target, class_ in zip(batch["target"], batch["classes"], strict=True):
            assert class_ >= 0
            assert np.isin(target.numpy(), np.flatnonzero(table[:, class_])).any()
            seen.add(int(class_))
    assert seen == {0, 1, 2}


def test_odd_patches_are_centred_on_the_voxel(labels: PartialLabels) -> None:
    made = loader(labels, HierarchicalSampling(), patch=(3, 3, 3), final=(1, 1, 1))
    table = class_values(labels)[0]
    for _ in range(60):
        batch = next(made)
        middle = batch["target"][:, 0, 1, 1, 1].numpy()
        assert table[middle, batch["classes"]].all()


def test_other_patches_lie_anywhere(labels: PartialLabels) -> None:
    made = loader(labels, UNIFORM, patch=(1, 1, 1), batch=50)
    batches = [next(made) for _ in range(40)]
    assert all((b["classes"] == -1).all() for b in batches)
    places = np.concatenate([b["data"].numpy().ravel() for b in batches]).astype(int)
    for coordinate in np.unravel_index(places, (SIDE, SIDE, SIDE)):
        assert chisquare(np.bincount(coordinate, minlength=SIDE)).pvalue > 0.001


def test_values_of_a_class_are_drawn_in_proportion_to_their_voxels(labels: PartialLabels) -> None:
    """Nine voxels are liver and two are liver or spleen, in one case; every voxel is as likely as the others."""
    dataset = FakeDataset(1)
    made = loader(labels, HierarchicalSampling(), dataset=dataset, patch=(1, 1, 1), batch=50)
    batches = [next(made) for _ in range(40)]
    centres = np.concatenate([b["data"].ravel().numpy()[b["classes"] == 0] for b in batches]).astype(int)
    liver = np.flatnonzero(np.isin(dataset.label_maps["c0"].ravel(), (1, 3)))
    observed = [int((centres == place).sum()) for place in liver]
    assert sum(observed) == len(centres)
    assert chisquare(observed).pvalue > 0.001


def test_realised_frequencies_are_the_declared_ones(labels: PartialLabels) -> None:
    made = loader(labels, CaseSampling(power=0.0, foreground_share=0.4), batch=50, patch=(1, 1, 1))
    drawn: dict[tuple[str, int], int] = {}
    batches = 80
    for _ in range(batches):
        batch = next(made)
        for pair in zip(batch["keys"].tolist(), batch["classes"].tolist(), strict=True):
            drawn[pair] = drawn.get(pair, 0) + 1
    draws = made.draws
    rows = [(draws.cases[i], int(c)) for i, c in zip(draws.case, draws.cls, strict=True)]
    assert set(drawn) <= set(rows)
    assert chisquare([drawn.get(row, 0) for row in rows], draws.probability * 50 * batches).pvalue > 0.001


def test_each_place_of_a_batch_has_its_share_of_what_is_declared(labels: PartialLabels) -> None:
    """'cmd_anywhere', a tenth unlabelled: of two places the second is centred, the first one time in five."""
    scan = AnnotationSet("scans", "scans", "MR", {0: SPACE.everything})
    labels = PartialLabels(SPACE, {**labels.sets, "scans": scan}, {**labels.cases, "c4": "scans", "c5": "scans"})
    sampling = replace(SAMPLINGS["cmd_anywhere"], unlabelled_share=0.1)
    made = loader(labels, sampling, patch=(1, 1, 1))
    made._rng = np.random.default_rng(11)
    drawn: list[dict[tuple[str, int], int]] = [{}, {}]
    batches = 10_000
    for _ in range(batches):
        made.get_indices()
        for place, pair in enumerate(made._drawn):
            drawn[place][pair] = drawn[place].get(pair, 0) + 1
    declared = made.draws
    rows = [(declared.cases[i], int(c)) for i, c in zip(declared.case, declared.cls, strict=True)]
    centred = declared.cls >= 0
    assert declared.probability[centred].sum() == pytest.approx(0.6)
    assert declared.marginal("source")["scans"] == pytest.approx(0.1)
    second = np.where(centred, declared.probability / 0.6, 0)
    for found, probability in zip(drawn, (2 * declared.probability - second, second), strict=True):
        possible = [row for row, p in zip(rows, probability, strict=True) if p > 1e-9]
        assert set(found) == set(possible)
        expected = probability[probability > 1e-9] * batches
        assert chisquare([found[row] for row in possible], expected).pvalue > 0.001
    both = [sum(found.get(row, 0) for found in drawn) for row in rows]
    assert chisquare(both, declared.probability * 2 * batches).pvalue > 0.001


def test_last_places_of_every_batch_are_centred(labels: PartialLabels) -> None:
    for sampling, batch, centred in ((CaseSampling(), 2, 1), (CaseSampling(foreground_share=0.5), 5, 3)):
        made = loader(labels, sampling, batch=batch, patch=(1, 1, 1))
        for _ in range(50):
            classes = next(made)["classes"]
            assert (classes[: batch - centred] == -1).all()
            assert (classes[batch - centred :] >= 0).all()


def test_a_share_between_two_places_is_met_on_average(labels: PartialLabels) -> None:
    empty = FakeDataset()
    for case in empty.identifiers[1:]:
        empty.label_maps[case][:] = 0
    made = loader(labels, CaseSampling(power=0.0, foreground_share=0.5), dataset=empty, patch=(1, 1, 1))
    found = [next(made)["classes"].tolist() for _ in range(600)]
    assert made.draws.centred_share == pytest.approx(1 / 6)
    assert np.mean([classes[1] >= 0 for classes in found]) == pytest.approx(2 / 6, abs=0.06)
    assert not any(classes[0] >= 0 for classes in found)


def test_ranks_share_the_places_of_a_batch(labels: PartialLabels) -> None:
    """Of five places three are centred: of the first rank's three one, of the second rank's two both."""
    sampling = CaseSampling(foreground_share=0.5)
    first = loader(labels, sampling, batch=3, places=5, rank=0)
    second = loader(labels, sampling, batch=2, places=5, rank=1, first_place=3)
    for _ in range(20):
        assert (next(first)["classes"] >= 0).tolist() == [False, False, True]
        assert (next(second)["classes"] >= 0).tolist() == [True, True]


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(found["keys"]) == list(expected["keys"])
    assert np.array_equal(found["classes"], expected["classes"])
    assert torch.equal(found["data"], expected["data"])
    assert torch.equal(found["target"], expected["target"])


def test_batches_follow_from_their_number_alone(labels: PartialLabels) -> None:
    whole = loader(labels)
    batches = [next(whole) for _ in range(6)]
    resumed = loader(labels, first=4)
    for expected in batches[4:]:
        assert_same(next(resumed), expected)


@pytest.mark.parametrize("workers", [1, 2, 3])
# batches still under way when the workers stop cannot be received any more
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_worker_processes_share_the_numbers(labels: PartialLabels, workers: int) -> None:
    whole = loader(labels, batch=3)
    background = MultiThreadedAugmenter(loader(labels, batch=3, workers=workers), None, workers, 2, wait_time=0.002)
    for _ in range(7):
        found = next(background)
        assert found["classes"].dtype == np.int64
        assert_same(found, next(whole))
    background._finish()


@pytest.mark.parametrize("changes", [{"seed": 8}, {"stream": 1}, {"rank": 1}])
def test_seed_stream_and_rank_make_other_batches(labels: PartialLabels, changes: dict[str, int]) -> None:
    def places(**settings: Any) -> set[tuple[float, ...]]:
        made = loader(labels, UNIFORM, patch=(1, 1, 1), batch=4, **settings)
        return {tuple(next(made)["data"].ravel().tolist()) for _ in range(100)}

    ours = places()
    assert len(ours) == 100
    assert ours.isdisjoint(places(**changes))


def values_by_class(made: PartialDataLoader) -> dict[int, set[int]]:
    """Label values of patches of one voxel, by the class they were drawn for."""
    values: dict[int, set[int]] = {}
    for batch in (next(made) for _ in range(60)):
        for target, class_ in zip(batch["target"].ravel().tolist(), batch["classes"].tolist(), strict=True):
            values.setdefault(class_, set()).add(target)
    return values


def test_a_value_without_places_gives_way_to_others_of_the_class(labels: PartialLabels) -> None:
    dataset = FakeDataset()
    for places in dataset.locations.values():
        places[1] = []
        del places[2]
    made = loader(labels, HierarchicalSampling(("source",)), dataset=dataset, patch=(1, 1, 1))
    assert values_by_class(made) == {0: {3}, 1: {3}, 2: {4}}


def test_a_class_without_places_is_looked_up_in_the_label_map(labels: PartialLabels) -> None:
    dataset = FakeDataset()
    dataset.locations = {case: {2: places[2]} for case, places in dataset.locations.items()}
    made = loader(labels, HierarchicalSampling(), dataset=dataset, patch=(1, 1, 1))
    assert values_by_class(made) == {0: {1, 3}, 1: {3}, 2: {4}}


def test_counts_that_do_not_fit_the_data_are_an_error(labels: PartialLabels) -> None:
    dataset = FakeDataset(1)
    made = loader(labels, HierarchicalSampling(), dataset=dataset)
    dataset.label_maps["c0"][:] = 2
    dataset.locations["c0"] = {2: np.argwhere(dataset.label_maps["c0"] == 2)}
    with pytest.raises(LabelError, match=r"case 'c0': no voxel of class '(liver|spleen)' \(label values \[.*3\]\)"):
        next(made)


def test_the_self_timing_blur_is_switched_off() -> None:
    blur = GaussianBlurTransform(benchmark=True)
    pipeline = ComposeTransforms([RandomTransform(blur, apply_probability=0.5)])
    assert make_reproducible(pipeline) is pipeline
    assert blur.benchmark is False
