"""Segmentations are read by Slicer's own Python package as they were meant."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import slicerio

from nnunet_partial.inference.reading.image_reader import read_image
from nnunet_partial.inference.writing.segmentation_nrrd import Segment, layers_of_masks, write_segmentation_nrrd

AFFINE = np.array([[-0.8, 0, 0, 12.5], [0, 0.7, 0, -30], [0, 0, 2.5, 7], [0, 0, 0, 1]])


def opened(path: Path) -> dict[str, object]:
    found: dict[str, object] = slicerio.read_segmentation(str(path))
    return found


@pytest.mark.parametrize("overlapping", [False, True])
def test_names_colours_places_and_masks(overlapping: bool, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((6, 5, 4), np.int16), AFFINE), tmp_path / "a_0000.nii.gz")
    image = read_image([tmp_path / "a_0000.nii.gz"], "SimpleITKIO")
    masks = {"liver": np.zeros((4, 5, 6), bool), "tumour": np.zeros((4, 5, 6), bool)}
    masks["liver"][1:3, 2:4, 1:5] = True
    masks["tumour"][2, 3, 4 if overlapping else 5] = True
    layers, segments = layers_of_masks(masks.items())
    assert len(layers) == 1 + overlapping
    write_segmentation_nrrd(layers, segments, image, tmp_path / "a.seg.nrrd", {"tumour": (1.0, 0.5, 0.0)})

    found = opened(tmp_path / "a.seg.nrrd")
    assert slicerio.segment_names(found) == ["liver", "tumour"]
    assert slicerio.segment_from_name(found, "tumour")["color"] == [1.0, 0.5, 0.0]
    voxels = np.asarray(found["voxels"])
    for name, mask in masks.items():
        segment = slicerio.segment_from_name(found, name)
        layer = voxels[segment["layer"]] if overlapping else voxels
        np.testing.assert_array_equal(layer == segment["labelValue"], mask.T)
    # LPS, as Slicer keeps it; nibabel's affine is RAS
    np.testing.assert_allclose(found["ijkToLPS"], np.diag([-1, -1, 1, 1]) @ AFFINE, atol=1e-6)


def test_values_beyond_a_byte(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((3, 2, 2), np.int16), AFFINE), tmp_path / "a_0000.nii.gz")
    image = read_image([tmp_path / "a_0000.nii.gz"], "SimpleITKIO")
    labels = np.zeros((2, 2, 3), np.uint16)
    labels[0, 1, 2] = 300
    write_segmentation_nrrd(labels, [Segment("vertebra", 300)], image, tmp_path / "a.seg.nrrd")
    found = opened(tmp_path / "a.seg.nrrd")
    assert slicerio.segment_from_name(found, "vertebra")["labelValue"] == 300
    assert np.argwhere(np.asarray(found["voxels"]) == 300).tolist() == [[2, 1, 0]]
