"""Which axis lies across slices, and nnU-Net's own augmentation with slices that were annotated differently."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, resample_data_or_seg_to_shape
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_partial.errors import PartialError
from nnunet_partial.training.slice_axes import (
    SLICES,
    RotationInSlices,
    axis_across,
    keep_slices_whole,
    mixed_by_resampling,
)

IDENTITY = np.eye(3)
SAGITTAL_FIRST = IDENTITY[:, [1, 2, 0]]
"""x of the file runs front-back, y up-down, z left-right: slices of an MR scanner that were stored as they came."""


def by_sitk(directions: np.ndarray) -> dict:
    return {"sitk_stuff": {"direction": tuple(directions.ravel())}}


def by_nibabel(directions: np.ndarray, **more: np.ndarray) -> dict:
    affine = np.eye(4)
    affine[:3, :3] = directions * (0.8, 0.9, 5)
    return {"nibabel_stuff": {"original_affine": affine, **more}}


@pytest.mark.parametrize("properties", [by_sitk, by_nibabel])
@pytest.mark.parametrize("slices", SLICES)
def test_axis_by_the_header(properties, slices: str) -> None:
    upright = {"axial": 0, "coronal": 1, "sagittal": 2}
    turned = {"axial": 1, "coronal": 2, "sagittal": 0}
    assert axis_across(slices, [("a", properties(IDENTITY)), ("b", properties(-IDENTITY))]) == upright[slices]
    assert axis_across(slices, [("a", properties(SAGITTAL_FIRST))]) == turned[slices]
    tilted = np.array([[1, 0, 0], [0, np.cos(0.4), -np.sin(0.4)], [0, np.sin(0.4), np.cos(0.4)]])
    assert axis_across(slices, [("a", properties(tilted))]) == upright[slices]


def test_a_reader_that_turns_images_says_how_they_lie_now() -> None:
    properties = by_nibabel(SAGITTAL_FIRST, reoriented_affine=np.eye(4))
    assert axis_across("axial", [("a", properties)]) == 0


@pytest.mark.parametrize("properties", [{}, {"sitk_stuff": {"direction": (1, 0, 0, 1)}}])
def test_an_image_that_does_not_say(properties: dict) -> None:
    assert [axis_across(slices, [("a", properties)]) for slices in ("axial", "coronal", "sagittal")] == [0, 1, 2]


def test_different_orientations_are_refused() -> None:
    images = [("a", by_sitk(IDENTITY)), ("b", by_sitk(SAGITTAL_FIRST)), ("c", by_sitk(IDENTITY))]
    with pytest.raises(PartialError, match="axial slices lie across axis 0 in 'a' and axis 1 in 'b'; bring all"):
        axis_across("axial", images)


def seed() -> None:
    """All that nnU-Net's augmentation draws from."""
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    random.seed(0)


def numbered_slices(size: int, axis: int) -> torch.Tensor:
    """Label map (1, size, size, size): slice n holds 2n + 1 and 2n + 2, with an edge where its neighbours have none."""
    number, row, column = np.ogrid[:size, :size, :size]
    labels = 2 * number + 1 + (row + column > size + 4 * (number % 2))
    return torch.from_numpy(np.moveaxis(labels, 0, axis).astype(np.int16).copy())[None]


def slices_of(patch: torch.Tensor, axis: int) -> list[list[int]]:
    """Slices of `numbered_slices` from which each slice of a patch got labels; value 0 is outside."""
    found = [piece.unique() for piece in patch[0].unbind(axis)]
    return [((values[values > 0] - 1) // 2).unique().tolist() for values in found]


def augmented(axis: int, size: int, *, whole: bool, dummy_2d: bool = False) -> list[torch.Tensor]:
    """Targets, in full and half resolution, of all that nnU-Net does to patches, always turned and scaled."""
    rotation = (0.0 if axis else 0.5) if dummy_2d else RotationInSlices(axis, (-0.5, 0.5))
    transforms = nnUNetTrainer.get_training_transforms(
        np.array((20, 20, 20)), rotation, [(1, 1, 1), (0.5, 0.5, 0.5)], (0, 1, 2), dummy_2d
    )
    spatial = next(t for t in transforms.transforms if isinstance(t, SpatialTransform))
    spatial.p_rotation = spatial.p_scaling = 1.0
    if whole:
        transforms = keep_slices_whole(transforms, axis, dummy_2d)
    shape = (20, size, size) if dummy_2d else (size, size, size)
    labels = numbered_slices(size, axis)[:, : shape[0]]
    seed()
    found = [transforms(image=torch.zeros(1, *shape), segmentation=labels.clone()) for _ in range(8)]
    return [target for sample in found for target in sample["segmentation"]]


@pytest.mark.parametrize("size", [30, 31])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_augmentation_keeps_slices_whole(axis: int, size: int) -> None:
    whole = [slices_of(patch, axis) for patch in augmented(axis, size, whole=True)]
    assert max(len(piece) for patch in whole for piece in patch) == 1
    for patch in whole:
        order = [n for piece in patch for n in piece]
        assert order in (sorted(order), sorted(order, reverse=True))  # mirrored
    mixed = [slices_of(patch, axis) for patch in augmented(axis, size, whole=False)]
    assert sum(len(piece) > 1 for patch in mixed for piece in patch) > 25


@pytest.mark.parametrize("axis", [1, 2])
def test_two_dimensional_augmentation_keeps_slices_whole(axis: int) -> None:
    for whole in (True, False):
        patches = augmented(axis, 31, whole=whole, dummy_2d=True)
        assert (max(len(piece) for patch in patches for piece in slices_of(patch, axis)) == 1) == whole


def test_two_dimensional_augmentation_never_mixes_slices_of_its_own() -> None:
    patches = augmented(0, 31, whole=True, dummy_2d=True)
    assert max(len(piece) for patch in patches for piece in slices_of(patch, 0)) == 1
    for ours, theirs in zip(patches, augmented(0, 31, whole=False, dummy_2d=True), strict=True):
        assert torch.equal(ours, theirs)


def test_slices_are_scaled_and_turned_as_ever() -> None:
    """Against nnU-Net's augmentation only edges move, by as much as they differ from slice to slice."""
    patches = augmented(0, 30, whole=True), augmented(0, 30, whole=False)
    for ours, theirs in zip(*patches, strict=True):
        inside = (ours > 0) & (theirs > 0)
        assert inside.float().mean() > 0.5
        assert ((ours % 2 == theirs % 2) | ~inside).float().mean() > 0.97
    scaled = [patch for patch in patches[0] if patch.shape[-1] == 20]
    lengths = {len({n for piece in slices_of(patch, 0) for n in piece}) for patch in scaled}
    assert min(lengths) < 18 and max(lengths) == 20


def test_images_are_interpolated_as_ever() -> None:
    image = torch.rand(1, 31, 31, 31, generator=torch.Generator().manual_seed(0))
    found = []
    for axis in (None, 1):
        transforms = nnUNetTrainer.get_training_transforms(
            np.array((20, 20, 20)), RotationInSlices(1, (0.4, 0.4)), None, (), False
        )
        spatial = transforms.transforms[0]
        spatial.p_rotation = spatial.p_scaling = 1.0
        transform = keep_slices_whole(transforms, axis, False).transforms[0]
        seed()
        found.append(transform(image=image.clone(), segmentation=numbered_slices(31, 1))["image"])
    assert torch.equal(*found)


def test_rotation_is_about_one_axis() -> None:
    rotation = RotationInSlices(1, (0.2, 0.3))
    angles = [rotation(image=None, dim=dim) for dim in range(3)]
    assert angles[0] == angles[2] == 0
    assert 0.2 <= angles[1] <= 0.3


THICK = (5.0, 0.8, 0.8)
EVEN = (2.0, 1.5, 1.5)


@pytest.mark.parametrize(
    ("spacing", "target", "axis", "whole"),
    [
        (THICK, (2.5, 0.8, 0.8), 0, True),  # thick slices by the nearest one
        (THICK, (2.5, 0.8, 0.8), 1, True),  # nothing happens across these
        (THICK, (5.0, 1.0, 1.0), 1, False),  # and here it does, within the thick ones
        (EVEN, (1.3, 1.0, 1.0), 0, False),
        (EVEN, (2.0, 1.0, 1.0), 0, True),
        (EVEN, (2.0, 1.0, 1.0), 2, False),
        (EVEN, (6.0, 1.0, 1.0), 0, True),  # to thick slices
    ],
)
def test_resampling_that_mixes_slices(spacing: tuple, target: tuple, axis: int, whole: bool) -> None:
    """What is said of a case must be what nnU-Net's own resampling does to labels of numbered slices."""
    labels = numbered_slices(12, axis).numpy()
    options = {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None}
    shape = compute_new_shape(labels.shape[1:], spacing, target)
    resampled = resample_data_or_seg_to_shape(labels, shape, spacing, target, **options)
    assert (max(len(piece) for piece in slices_of(torch.from_numpy(resampled), axis)) == 1) == whole
    # transposed as an image of which the file has the last axis first
    properties = {"spacing": np.roll(spacing, -1), "shape_after_cropping_and_before_resampling": labels.shape[1:]}
    configuration = {
        "spacing": list(target),
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": options,
    }
    assert mixed_by_resampling([("a", properties)], axis, (2, 0, 1), configuration) == ([] if whole else ["a"])


@pytest.mark.parametrize(
    "change",
    [
        {"resampling_fn_seg": "resample_torch_simple"},
        {"resampling_fn_seg_kwargs": {"order_z": 1, "force_separate_z": None}},
        {"resampling_fn_seg_kwargs": {"force_separate_z": False}},
    ],
)
def test_other_resampling_mixes_thick_slices_too(change: dict) -> None:
    properties = {"spacing": THICK, "shape_after_cropping_and_before_resampling": (12, 12, 12)}
    configuration = {
        "spacing": [2.5, 0.8, 0.8],
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {"force_separate_z": None},
    }
    assert mixed_by_resampling([("a", properties)], 0, (0, 1, 2), configuration) == []
    assert mixed_by_resampling([("a", properties)], 0, (0, 1, 2), configuration | change) == ["a"]
