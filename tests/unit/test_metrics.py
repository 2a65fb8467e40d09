"""Confusion, Dice and surface scores against closed forms and a brute-force computation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from skimage.measure import marching_cubes, mesh_surface_area

from nnunet_partial.evaluation import Confusion, confusion, dice, iou, normalised_surface_distance


def box(shape, low, high):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def element_size(code, spacing):
    """Area (3D) or length (2D) of the surface inside a cell of 2 x 2 (x 2) voxels; `code` holds their values."""
    # the surface of a cell is that of its complement, with the fewer corners inside choosing how it is joined
    inside = code if code.sum() <= code.size / 2 else ~code
    if len(spacing) == 3:
        vertices, faces, *_ = marching_cubes(inside.astype(float), 0.5, spacing=spacing, method="lorensen")
        return mesh_surface_area(vertices, faces)
    diagonal = math.hypot(*spacing) / 2
    if inside.sum() == 1:
        return diagonal
    if inside[0, 0] == inside[1, 1]:
        return 2 * diagonal
    return spacing[0] if inside[0, 0] == inside[1, 0] else spacing[1]


def surface(mask, spacing):
    """Centres in mm and sizes of all surface elements."""
    padded = np.pad(mask, 1)
    centres, sizes = [], []
    for corner in itertools.product(*(range(n - 1) for n in padded.shape)):
        code = padded[tuple(slice(c, c + 2) for c in corner)]
        if code.any() and not code.all():
            centres.append(np.array(corner) * spacing)
            sizes.append(element_size(code, spacing))
    return np.array(centres), np.array(sizes)


def brute_force(reference, prediction, spacing, tolerance):
    (a, size_a), (b, size_b) = surface(reference, spacing), surface(prediction, spacing)
    distances = cdist(a, b)
    good = size_a[distances.min(1) <= tolerance].sum() + size_b[distances.min(0) <= tolerance].sum()
    return good / (size_a.sum() + size_b.sum())


def blob(seed, shape):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.2)
    return noise > np.quantile(noise, 0.6)


def test_confusion_counts_every_voxel_once():
    reference = np.array([1, 1, 1, 0, 0, 0, 0], bool)
    prediction = np.array([1, 1, 0, 1, 0, 0, 0], bool)
    assert confusion(reference, prediction) == Confusion(tp=2, fp=1, fn=1, tn=3)


def test_confusion_counts_known_voxels_only():
    reference = np.array([1, 1, 1, 0, 0, 0, 0], bool)
    prediction = np.array([1, 1, 0, 1, 0, 1, 0], bool)
    known = np.array([1, 0, 1, 0, 1, 1, 0], bool)
    assert confusion(reference, prediction, known) == Confusion(tp=1, fp=1, fn=1, tn=1)


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        confusion(np.zeros((2, 3), bool), np.zeros((3, 2), bool))
    with pytest.raises(ValueError, match="one spacing an axis"):
        normalised_surface_distance(np.zeros((2, 3), bool), np.zeros((2, 3), bool), (1, 1, 1))


@pytest.mark.parametrize(
    ("counts", "expected_dice", "expected_iou"),
    [((2, 1, 1, 9), 4 / 6, 2 / 4), ((5, 0, 0, 0), 1, 1), ((0, 3, 0, 9), 0, 0), ((0, 0, 3, 9), 0, 0)],
)
def test_dice_and_iou(counts, expected_dice, expected_iou):
    assert dice(Confusion(*counts)) == pytest.approx(expected_dice)
    assert iou(Confusion(*counts)) == pytest.approx(expected_iou)


def test_dice_of_nothing_against_nothing_is_undefined():
    assert math.isnan(dice(Confusion(0, 0, 0, 100)))
    assert math.isnan(iou(Confusion(0, 0, 0, 100)))


def test_nsd_of_shifted_boxes_has_its_closed_form():
    """Two cubes of 10 voxels of 1 mm, 3 mm apart along x, at a tolerance of 2 mm."""
    shape = (20, 14, 14)
    reference, prediction = box(shape, (2, 2, 2), (12, 12, 12)), box(shape, (5, 2, 2), (15, 12, 12))
    face, edge, corner = 9 * 9, 9 * math.sqrt(0.5), math.sqrt(3) / 8
    whole = 6 * face + 12 * edge + 8 * corner
    # the layer of surface elements that sticks out is 3 mm away from the other cube
    outer = face + 4 * edge + 4 * corner
    # the opposite face lies inside of the other cube; 5 x 5 of its elements are more than 2 mm from every side
    inner = 5 * 5
    expected = 1 - (outer + inner) / whole
    assert normalised_surface_distance(reference, prediction, (1, 1, 1), 2.0) == pytest.approx(expected, abs=1e-5)
    assert normalised_surface_distance(reference, prediction, (1, 1, 1), 3.0) == pytest.approx(1.0)


def test_nsd_of_shifted_rectangles_has_its_closed_form():
    """The same in 2D, with pixels of 1 x 0.5 mm: lengths instead of areas."""
    reference, prediction = box((20, 30), (2, 4), (12, 24)), box((20, 30), (5, 4), (15, 24))
    corner = math.hypot(1, 0.5) / 2
    along_x, along_y = 9 * 1.0, 19 * 0.5
    whole = 2 * along_x + 2 * along_y + 4 * corner
    # elements of the inner side lie 0.5, 1.0, ..., 4.5, 5.0, 4.5, ..., 0.5 mm from the long sides: 11 beyond 2 mm
    bad = (along_y + 2 * corner) + 11 * 0.5
    score = normalised_surface_distance(reference, prediction, (1, 0.5), 2.0)
    assert score == pytest.approx(1 - bad / whole, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tolerance", [0.0, 0.9, 2.0])
def test_nsd_equals_brute_force_in_3d(seed, tolerance):
    spacing = (0.7, 1.3, 2.1)
    reference, prediction = blob(seed, (11, 9, 8)), blob(seed + 100, (11, 9, 8))
    expected = brute_force(reference, prediction, spacing, tolerance)
    assert 0 < expected < 1
    score = normalised_surface_distance(reference, prediction, spacing, tolerance)
    assert score == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_nsd_equals_brute_force_in_2d(seed):
    spacing = (0.8, 1.7)
    reference, prediction = blob(seed, (24, 20)), blob(seed + 100, (24, 20))
    expected = brute_force(reference, prediction, spacing, 1.0)
    assert 0 < expected < 1
    assert normalised_surface_distance(reference, prediction, spacing, 1.0) == pytest.approx(expected, abs=1e-5)


def test_nsd_does_not_depend_on_empty_space_around():
    reference, prediction = blob(1, (11, 9, 8)), blob(2, (11, 9, 8))
    padded = [np.pad(mask, ((30, 5), (0, 40), (7, 7))) for mask in (reference, prediction)]
    expected = normalised_surface_distance(reference, prediction, (1, 2, 3), 1.0)
    assert normalised_surface_distance(*padded, (1, 2, 3), 1.0) == pytest.approx(expected)


def test_nsd_where_masks_are_empty():
    empty, some = np.zeros((6, 6, 6), bool), box((6, 6, 6), (1, 1, 1), (4, 4, 4))
    assert math.isnan(normalised_surface_distance(empty, empty, (1, 1, 1)))
    assert normalised_surface_distance(some, empty, (1, 1, 1)) == 0.0
    assert normalised_surface_distance(empty, some, (1, 1, 1)) == 0.0


def test_structures_have_a_surface_where_the_image_ends():
    whole = np.ones((12, 12, 12), bool)
    inner = box(whole.shape, (3, 3, 3), (9, 9, 9))
    assert normalised_surface_distance(whole, whole, (1, 1, 1)) == 1.0
    assert normalised_surface_distance(whole, inner, (1, 1, 1), 2.0) == 0.0


def test_single_slice_of_a_volume_counts_as_2d():
    reference, prediction = blob(5, (20, 18)), blob(6, (20, 18))
    expected = normalised_surface_distance(reference, prediction, (1.0, 1.5), 1.0)
    assert 0 < expected < 1
    score = normalised_surface_distance(reference[:, None], prediction[:, None], (1.0, 5.0, 1.5), 1.0)
    assert score == pytest.approx(expected)


def test_rounded_spacing_does_not_move_a_surface_out_of_tolerance():
    reference, prediction = box((9, 12, 12), (1, 2, 2), (5, 10, 10)), box((9, 12, 12), (3, 2, 2), (7, 10, 10))
    spacing = (1.0000001, 1.0, 1.0)
    assert normalised_surface_distance(reference, prediction, spacing, 2.0) == pytest.approx(1.0)
