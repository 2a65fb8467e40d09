"""Pictures: where things stand on them."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest

from nnunet_partial.evaluation import save_overlay, to_ras

SHAPE, SPACING = (40, 32, 20), (1.0, 1.0, 2.0)


def ball(centre):
    grid = np.stack(np.indices(SHAPE), -1) * SPACING
    return np.linalg.norm(grid - np.array(centre) * SPACING, axis=-1) < 7


def panels(picture):
    """Columns of the two panels' pixels: the picture, split in halves."""
    half = picture.shape[1] // 2
    return picture[:, :half, :3], picture[:, half:, :3]


def saturated(panel):
    return (panel.max(-1) - panel.min(-1)) > 0.2


def test_picture_shows_reference_left_and_prediction_right(tmp_path):
    image = np.zeros(SHAPE, np.int16)
    path = tmp_path / "case.png"
    save_overlay(path, image, {"liver": ball((28, 20, 10))}, {}, spacing_mm=SPACING, title="a case")
    picture = matplotlib.image.imread(path)
    assert picture.shape[0] > 600 and picture.shape[1] == 1200
    # the legend stands in the middle of the lowest tenth
    left, right = (saturated(p[: int(len(p) * 0.9)]).sum() for p in panels(picture))
    assert left > 1000 and right == 0
    assert [p.name for p in tmp_path.iterdir()] == ["case.png"]


def test_patient_right_is_shown_left_and_front_on_top(tmp_path):
    image = np.full(SHAPE, -1000.0)
    # a bright voxel column at the patient's right (high x), front (high y), along all of z
    image[36:39, 28:31] = 1000
    path = tmp_path / "case.png"
    save_overlay(path, image, {"spot": ball((37, 29, 10))}, {}, spacing_mm=SPACING)
    left, _ = panels(matplotlib.image.imread(path))
    rows, columns = np.nonzero(saturated(left[: len(left) // 3]))
    assert len(rows)
    assert columns.mean() < left.shape[1] * 0.25
    assert rows.mean() < len(left) / 3 * 0.5


def test_pixels_are_as_long_as_their_spacing(tmp_path):
    path = tmp_path / "case.png"
    save_overlay(path, np.zeros(SHAPE), {"ball": ball((20, 16, 10))}, {}, spacing_mm=SPACING)
    left, _ = panels(matplotlib.image.imread(path))
    filled = saturated(left[: int(len(left) * 0.93)])
    rows = np.flatnonzero(filled.any(1))
    sections = np.split(rows, np.flatnonzero(np.diff(rows) > 5) + 1)
    assert len(sections) == 3
    for section in sections:
        # a ball looks round on all three slices, although its voxels are twice as long along z
        width = np.ptp(np.flatnonzero(filled[section].any(0))) + 1
        assert len(section) / width == pytest.approx(1, abs=0.12)


def test_picture_without_structures_is_written(tmp_path):
    save_overlay(tmp_path / "case.png", np.zeros(SHAPE), {}, {"liver": np.zeros(SHAPE, bool)}, spacing_mm=SPACING)
    assert (tmp_path / "case.png").stat().st_size > 0


def test_mask_of_another_shape_is_refused(tmp_path):
    with pytest.raises(ValueError, match="class 'liver'"):
        save_overlay(tmp_path / "x.png", np.zeros(SHAPE), {"liver": np.zeros((2, 2, 2))}, {}, spacing_mm=SPACING)
    assert list(tmp_path.iterdir()) == []


def test_to_ras_turns_axes_and_spacing():
    # stored axes: z down, x to the left, y to the front; spacing 3, 1 and 2 mm
    affine = np.array([[0, -1.0, 0, 5], [0, 0, 2.0, 7], [-3.0, 0, 0, 9], [0, 0, 0, 1]])
    stored = np.arange(24).reshape(2, 3, 4)
    turned, spacing_mm = to_ras(stored, affine)
    assert spacing_mm == (1.0, 2.0, 3.0)
    assert np.array_equal(turned, stored[::-1, ::-1].transpose(1, 2, 0))
