"""What the loader calls foreground, and the batches it seeds."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform

from nnunet_partial.labels import AnnotationSet, LabelSpace, PartialLabels
from nnunet_partial.sampling import AnnotatedDataset, PartialDataLoader, make_reproducible

SPACE = LabelSpace({"anatomy": ("background", "liver", "spleen")}, {n: frozenset({n}) for n in ("liver", "spleen")})
VALUES = {
    0: SPACE.everything,
    1: frozenset({"liver"}),
    2: frozenset({"background", "spleen"}),  # annotated slice without liver
    3: frozenset({"liver", "spleen"}),  # one or the other: a structure, though neither class is sure
}


class FakeDataset:
    """Cases in memory, in the form of nnU-Net's datasets."""

    def __init__(self, cases: int) -> None:
        self.identifiers = [f"c{i}" for i in range(cases)]

    def load_case(self, identifier: str) -> tuple[Any, Any, None, dict[str, Any]]:
        seed = int(identifier[1:])
        data = np.full((1, 8, 8, 8), seed, np.float32)
        labels = np.random.default_rng(seed).integers(0, 4, (1, 8, 8, 8)).astype(np.int16)
        locations = {v: np.argwhere(labels == v) for v in (1, 2, 3)}
        return data, labels, None, {"class_locations": locations}


@pytest.fixture
def labels() -> PartialLabels:
    annotation_set = AnnotationSet("sparse", "sparse", "CT", VALUES)
    return PartialLabels(SPACE, {"sparse": annotation_set}, {f"c{i}": "sparse" for i in range(6)})


class NoIgnore:
    """The part of nnU-Net's label manager that its loader reads."""

    all_labels: ClassVar[list[int]] = [0, 1, 2]
    has_ignore_label = False


def loader(labels: PartialLabels, **changes: Any) -> PartialDataLoader:
    settings: dict[str, Any] = {"seed": 7, "stream": 0, **changes}
    dataset = AnnotatedDataset(FakeDataset(6), labels)  # type: ignore[arg-type]
    return PartialDataLoader(
        dataset, 2, (4, 4, 4), (4, 4, 4), NoIgnore(), oversample_foreground_percent=0.5, **settings
    )


def test_only_structures_are_foreground(labels: PartialLabels) -> None:
    *_, properties = AnnotatedDataset(FakeDataset(6), labels).load_case("c0")  # type: ignore[arg-type]
    assert sorted(properties["class_locations"]) == [1, 3]


def test_batches_follow_from_their_number_alone(labels: PartialLabels) -> None:
    whole = loader(labels)
    batches = [next(whole) for _ in range(6)]
    resumed = loader(labels, first=4)
    for expected in batches[4:]:
        found = next(resumed)
        assert list(found["keys"]) == list(expected["keys"])
        assert torch.equal(found["data"], expected["data"])
        assert torch.equal(found["target"], expected["target"])


def test_workers_share_the_numbers(labels: PartialLabels) -> None:
    whole = loader(labels)
    expected = [list(next(whole)["keys"]) for _ in range(6)]
    found: dict[int, list[str]] = {}
    for worker in range(3):
        part = loader(labels, workers=3)
        part.set_thread_id(worker)
        for turn in range(2):
            found[worker + 3 * turn] = list(next(part)["keys"])
    assert [found[k] for k in range(6)] == expected


@pytest.mark.parametrize("changes", [{"seed": 8}, {"stream": 1}, {"rank": 1}])
def test_seed_stream_and_rank_make_other_batches(labels: PartialLabels, changes: dict[str, int]) -> None:
    def keys(**settings: Any) -> list[list[str]]:
        made = loader(labels, **settings)
        return [list(next(made)["keys"]) for _ in range(8)]

    assert keys() != keys(**changes)


def test_probabilities_reach_the_draw(labels: PartialLabels) -> None:
    probabilities = np.array([0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    only = loader(labels, sampling_probabilities=probabilities)
    assert {key for _ in range(5) for key in next(only)["keys"]} == {"c2"}


def test_the_self_timing_blur_is_switched_off() -> None:
    blur = GaussianBlurTransform(benchmark=True)
    pipeline = ComposeTransforms([RandomTransform(blur, apply_probability=0.5)])
    assert make_reproducible(pipeline) is pipeline
    assert blur.benchmark is False
