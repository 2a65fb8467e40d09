"""Outside of the image nothing is known in cases with an ignore label; all others stay as in stock nnU-Net."""

from __future__ import annotations

import multiprocessing
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from threadpoolctl import threadpool_limits

from nnunet_partial.labels import AnnotationSet, LabelSpace, PartialLabels, one_axis_per_source
from nnunet_partial.losses import AmbiguityAwareLoss
from nnunet_partial.sampling import Draws, PartialDataLoader, VoxelCounts, make_reproducible, outside_values
from nnunet_partial.training.slice_axes import RotationInSlices

NAMES = ("background", "liver", "spleen")
SPACE = LabelSpace({"anatomy": NAMES}, {n: frozenset({n}) for n in NAMES[1:]})
ALL = SPACE.everything
NO_LIVER = frozenset({"background", "spleen"})
IGNORE = 3
SETS = {
    "complete": {0: NO_LIVER, 1: frozenset({"liver"})},
    "ignore": {0: NO_LIVER, 1: frozenset({"liver"}), IGNORE: ALL},
    "scans": {0: ALL},
    "slices": {0: ALL, 1: frozenset({"liver"}), 2: NO_LIVER, IGNORE: ALL},
    "one or the other": {0: frozenset({"background"}), 2: frozenset({"liver", "spleen"})},
}
LABELS = PartialLabels(
    SPACE,
    {name: AnnotationSet(name, name, "CT", possible) for name, possible in SETS.items()},
    {name: name for name in SETS},
)
SIDE, PATCH, SLICE = 24, 16, 12
SCALES = [[1.0, 1.0, 1.0], [0.5, 0.5, 0.5]]


def test_only_an_ignore_label_replaces_0() -> None:
    assert outside_values(LABELS).tolist() == [0, IGNORE, 0, 0, 0]


def test_an_ignore_label_stays_one_where_every_source_has_its_own_axis() -> None:
    apart = one_axis_per_source(LABELS)
    values = outside_values(apart)
    assert {case: int(values[apart.row_of(case)]) for case in SETS} == dict(
        zip(SETS, [0, IGNORE, 0, 0, 0], strict=True)
    )


class OneCase:
    """A cube of 24 voxels a side of one case, of which some slices were looked at."""

    def __init__(self, case: str, looked_at: tuple[int, ...] = (SLICE,), axis: int = 0) -> None:
        self.identifiers = [case]
        self.label_map = np.full((1, SIDE, SIDE, SIDE), IGNORE, np.int16)
        planes = np.moveaxis(self.label_map[0], axis, 0)
        planes[list(looked_at)] = 0
        planes[list(looked_at), 8:16, 8:16] = 1

    def load_case(self, identifier: str) -> tuple[Any, Any, None, dict[str, Any]]:
        return np.ones(self.label_map.shape, np.float32), self.label_map, None, {"class_locations": {}}


class NoIgnore:
    all_labels: ClassVar[list[int]] = [0, 1, 2]
    has_ignore_label = False


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnunetv2.training.dataloading.data_loader.threadpool_limits", lambda **_: nullcontext())


def training(axis: int, scales: Any = SCALES) -> Any:
    """nnU-Net's augmentation, every patch of which is turned about one axis."""
    rotation = RotationInSlices(axis, (0.4, 0.8))
    patch = np.array([PATCH] * 3)
    transforms = make_reproducible(nnUNetTrainer.get_training_transforms(patch, rotation, scales, (0, 1, 2), False))
    transforms.transforms[0].p_rotation, transforms.transforms[0].p_scaling = 1.0, 0.0
    return transforms


def validation() -> Any:
    return nnUNetTrainer.get_validation_transforms(SCALES)


def loader(dataset: OneCase, transforms: Any, patch: int = 26) -> PartialDataLoader:
    case = dataset.identifiers[0]
    counts = VoxelCounts(4, {case: np.bincount(np.maximum(dataset.label_map, 0).ravel(), minlength=4)})
    draws = Draws.anywhere([case], LABELS)
    more = {"draws": draws, "labels": LABELS, "counts": counts, "seed": 3, "stream": 0, "transforms": transforms}
    return PartialDataLoader(dataset, 2, (patch,) * 3, (PATCH,) * 3, NoIgnore(), **more)


def possible(case: str, batch: int = 2) -> torch.Tensor:
    return torch.from_numpy(LABELS.possible[[LABELS.row_of(case)] * batch])


def told(target: torch.Tensor, case: str) -> torch.Tensor:
    """Where anything is known of a voxel, (B, *S)."""
    assert (target >= 0).all()
    vague = torch.from_numpy(LABELS.possible[LABELS.row_of(case)].all(-1))
    return ~vague[target[:, 0].long()]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_that_nobody_looked_at_tell_nothing_when_patches_are_turned(axis: int) -> None:
    """Corners are rotated in from beyond the image; only the one slice that was looked at may tell anything."""
    made = loader(OneCase("ignore", axis=axis), training(axis))
    found = []
    for _ in range(6):
        for level in next(made)["target"]:
            slices = told(level, "ignore").movedim(1 + axis, 1).flatten(2).any(2).sum(1)
            found.append(slices.max().item())
    assert max(found) == 1


def test_a_patch_that_nobody_looked_at_has_the_entropy_of_one() -> None:
    """It reaches beyond the image, which says no more than the ignore label in it."""
    loss = AmbiguityAwareLoss(smoothing=1e-5, slice_axis=0)
    for transforms in (training(0), validation()):
        made = loader(OneCase("ignore", ()), transforms)
        for _ in range(3):
            target = next(made)["target"][0]
            assert loss.annotated_samples(target, possible("ignore")).tolist() == [False, False]
            logits = torch.zeros(2, 3, *target.shape[2:], dtype=torch.float64)
            assert loss(logits, target, possible("ignore")).item() == pytest.approx(3 * np.log(3), abs=1e-9)


@pytest.mark.parametrize("kind", ["training", "validation", "training without deep supervision"])
@pytest.mark.parametrize("case", ["complete", "one or the other", "scans", "slices"])
def test_all_other_cases_are_those_of_stock_nnunet(case: str, kind: str) -> None:
    def transforms() -> Any:
        return validation() if kind == "validation" else training(0, None if "without" in kind else SCALES)

    dataset = OneCase(case)
    dataset.label_map[dataset.label_map == IGNORE] = 0
    dataset.label_map[:, :, :3] = -1  # nnU-Net's nonzero mask
    ours, stock = loader(dataset, transforms()), loader(dataset, None)
    stock.transforms = transforms()
    assert any(isinstance(t, RemoveLabelTransform) for t in stock.transforms.transforms)
    for _ in range(4):
        found, expected = next(ours), next(stock)
        assert torch.equal(found["data"], expected["data"])
        levels = zip(found["target"], expected["target"], strict=True)
        assert all(torch.equal(a, b) for a, b in levels)


def test_every_level_of_a_case_with_an_ignore_label_is_that_of_its_own_map() -> None:
    """Outside of the image, -1 becomes the ignore label at all resolutions; all other voxels are nnU-Net's."""
    dataset = OneCase("ignore", tuple(range(SIDE)))
    dataset.label_map[:, 0] = -1
    ours, stock = loader(dataset, training(0)), loader(dataset, None)
    stock.transforms = training(0)
    outside = 0
    for _ in range(4):
        for found, expected in zip(next(ours)["target"], next(stock)["target"], strict=True):
            assert found.dtype == expected.dtype == torch.int16
            changed = found != expected
            assert (found[changed] == IGNORE).all()
            assert (expected[changed] == 0).all()
            outside += int(changed.sum())
    assert outside > 100


def flat_loader(patch: tuple[int, int]) -> PartialDataLoader:
    dataset = OneCase("ignore")
    counts = VoxelCounts(4, {"ignore": np.bincount(np.maximum(dataset.label_map, 0).ravel(), minlength=4)})
    draws = Draws.anywhere(["ignore"], LABELS)
    more = {"draws": draws, "labels": LABELS, "counts": counts, "seed": 0, "stream": 0}
    return PartialDataLoader(dataset, 2, patch, patch, NoIgnore(), **more)


def test_without_transforms_and_with_a_flat_patch() -> None:
    target = next(flat_loader((40, 40)))["target"]
    assert target.shape == (2, 1, 40, 40)
    assert set(target.unique().tolist()) <= {0, 1, IGNORE}
    assert (target == IGNORE).sum() >= 2 * (40**2 - SIDE**2)


def test_a_forked_worker_does_not_wait_for_threads_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's threads of the parent are not there after a fork; nnU-Net limits itself to one for that reason."""
    monkeypatch.setattr("nnunetv2.training.dataloading.data_loader.threadpool_limits", threadpool_limits)
    made = flat_loader((512, 512))  # large enough for PyTorch to share it among threads
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.ones(1 << 22).add_(1)  # starts them
        worker = multiprocessing.get_context("fork").Process(target=next, args=(made,), daemon=True)
        worker.start()
        worker.join(60)
        exit_code = worker.exitcode
        worker.kill()
    finally:
        torch.set_num_threads(before)
    assert exit_code == 0
