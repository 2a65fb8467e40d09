"""Which axis lies across slices, and nnU-Net's own augmentation with slices that were annotated differently."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_partial.errors import PartialError
from nnunet_partial.training.slice_axes import SLICES, RotationInSlices, axis_across

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


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_augmentation_keeps_slices_whole(axis: int) -> None:
    """Slices are labelled for one of two structures in turn; a patch slice must never hold labels of both."""
    labels = np.moveaxis(np.broadcast_to(1 + np.arange(30)[:, None, None] % 2, (30, 30, 30)), 0, axis)
    case = {"image": torch.zeros(1, 30, 30, 30), "segmentation": torch.from_numpy(labels.astype(np.int16))[None]}
    mixed = {}
    for rotation in (RotationInSlices(axis, (-0.5, 0.5)), (-0.5, 0.5)):
        transforms = nnUNetTrainer.get_training_transforms(np.array((20, 20, 20)), rotation, None, (0, 1, 2), False)
        spatial = transforms.transforms[0]
        spatial.p_rotation = 1.0
        spatial.p_scaling = 0.0
        np.random.seed(0)  # noqa: NPY002 - the generator that nnU-Net's augmentation uses
        found = [spatial(**{k: v.clone() for k, v in case.items()})["segmentation"][0] for _ in range(5)]
        slices = [patch.select(axis, n) for patch in found for n in range(20)]
        mixed[rotation] = sum(len({*piece.unique().tolist()} - {-1}) > 1 for piece in slices)
    kept, tilted = mixed.values()
    assert kept == 0
    assert tilted > 50


def test_rotation_is_about_one_axis() -> None:
    rotation = RotationInSlices(1, (0.2, 0.3))
    angles = [rotation(image=None, dim=dim) for dim in range(3)]
    assert angles[0] == angles[2] == 0
    assert 0.2 <= angles[1] <= 0.3
