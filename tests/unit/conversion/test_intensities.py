"""Intensities in small types, and CT images that are not in Hounsfield units."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from nnunet_partial.conversion.intensities import compact, doubt_of_hounsfield, scaled
from tests.conversion_fakes.scene import numbered, write_nifti
from tests.unit.conversion.conftest import NAMES, Toy, toy

ORDERS = [(0, 1, 2), (2, 1, 0), (1, 2, 0)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("values", "stored", "expected"),
    [
        ([0, 1, 1], bool, np.uint8),
        ([0, 200], np.uint8, np.uint8),
        ([-32768, 32767], np.int32, np.int16),
        ([-32768, 32768], np.int32, np.int32),
        ([0, 65535], np.uint16, np.uint16),
        ([0, 2**31], np.uint32, np.float64),
        ([-5, 2**40], np.int64, np.float64),
        ([-32768, 32767], np.float64, np.int16),
        ([-32768, 32767], ">f4", np.int16),
        ([0, 32768], np.float64, np.float32),
        ([0.5, 7], np.float64, np.float32),
        ([0.5, 7], np.float16, np.float32),
    ],
)
def test_compact_keeps_the_values(values: list[float], stored: str, expected: type, order: tuple[int, ...]) -> None:
    array = np.resize(np.array(values, stored), (4, 3, 5)).transpose(order)[::-1]
    found = compact(array)
    assert found.dtype == expected
    np.testing.assert_array_equal(found, array)


def test_compact_copies_nothing_that_is_small() -> None:
    for dtype in (np.int16, np.uint16, np.uint8):
        array = np.zeros((2, 3), dtype)
        assert compact(array) is array
    fractions = np.full((2, 3), 0.5, np.float32)
    assert compact(fractions) is fractions


@pytest.mark.parametrize(
    ("values", "stored", "slope", "intercept", "expected"),
    [
        ([0, 4095], np.uint16, 1, -1024, np.int16),
        ([0, 65535], np.uint16, 1, -1024, np.int32),
        ([0, 255], np.uint8, -3, 7, np.int16),
        ([-32768, 32767], ">i2", 2, 0, np.int32),
        ([0, 2**32 - 1], np.uint32, 1, -(2**31) + 1, np.float32),
        ([0, 2**32 - 2], np.uint32, 1, -(2**31) + 1, np.int32),
        ([0, 0], np.int16, 2.0**70, 3, np.float32),
        ([0, 100], np.int16, 0.5, 0, np.float32),
        ([0, 100], np.int16, 1, 0.25, np.float32),
        ([0, 1.5], np.float64, 2, 1, np.float32),
    ],
)
def test_scaled_is_slope_and_intercept(
    values: list[float], stored: str, slope: float, intercept: float, expected: type
) -> None:
    array = np.resize(np.array(values, stored), (4, 3, 2))
    for turned in (array, array.T, array[0]):
        found = scaled(turned, float(slope), float(intercept))
        assert found.dtype == expected
        exact = turned.astype(np.float64) * slope + intercept
        np.testing.assert_array_equal(found, exact.astype(np.float32) if expected is np.float32 else exact)


# Hounsfield units


def abdomen(fat: float = 0.4) -> np.ndarray:
    """A body in air, with fat, soft tissue, lungs and bone, and noise."""
    x, y, z = np.indices((48, 40, 30))
    across = ((x - 24) / 20) ** 2 + ((y - 20) / 13) ** 2
    rng = np.random.default_rng(0)
    image = np.full(x.shape, -1000.0)
    image[across < 1] = 50
    image[(across < 1) & (rng.random(x.shape) < fat)] = -100
    image[(across < 0.3) & (z > 24)] = -850
    bone = ((x - 24) ** 2 + (y - 29) ** 2) < 9
    image[bone] = rng.uniform(100, 1500, int(bone.sum()))
    return np.rint(image + rng.normal(0, 25, x.shape)).astype(np.int16)


def padded(image: np.ndarray, value: int) -> np.ndarray:
    found = image.copy()
    found[:6], found[-6:] = value, value
    return found


def masked(image: np.ndarray) -> np.ndarray:
    return np.where(abdomen() > -500, image, 0)


BODY = (slice(18, 31), slice(14, 27), slice(0, 24))
BONE = (slice(22, 27), slice(27, 32), slice(None))
WHOLE = (slice(None),)


@pytest.mark.parametrize("part", [WHOLE, BODY], ids=["whole", "cropped"])
@pytest.mark.parametrize("offset", [1000, 1024])
@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32])
def test_an_offset_is_found(part: tuple[slice, ...], offset: int, dtype: type) -> None:
    image = np.maximum(abdomen() + offset, 0).astype(dtype)[part]
    assert "between 850 and 1200" in doubt_of_hounsfield(image)
    assert "between 850 and 1200" in doubt_of_hounsfield(image[:, :, 0])


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image,
        lambda image: image[BODY],
        lambda image: image[BONE],
        lambda image: padded(image, -1024),
        lambda image: padded(image, -2000),
        lambda image: padded(image[BODY], 0),
        masked,
        lambda image: np.maximum(image, 0),
        lambda image: np.clip(image, -160, 240),
        lambda image: np.clip(image, -160, 240) + 160,
        lambda image: image / 1000,
        np.zeros_like,
        lambda image: np.random.default_rng(0).normal(1000, 250, image.shape),
    ],
    ids=[
        *("as it is", "body", "bone", "padded with air", "padded with -2000", "padded with 0", "masked with 0"),
        *("negative cut off", "windowed", "windowed from 0", "small numbers", "nothing", "dense bone alone"),
    ],
)
def test_no_other_image_is_doubted(change: Callable[[np.ndarray], np.ndarray]) -> None:
    assert doubt_of_hounsfield(change(abdomen())) == ""


def test_large_images_are_looked_at_here_and_there() -> None:
    image = (abdomen() + 1024).repeat(3, 0).repeat(3, 1).repeat(3, 2)
    assert image.size > 1_000_000
    assert doubt_of_hounsfield(image)
    assert doubt_of_hounsfield(image - 1024) == ""


def test_doubts_are_recorded_and_returned(download: Toy) -> None:
    """Only of images that nnU-Net will take for CT, also where the conversion is up to date."""
    for case, offset in (("a", 0), ("b", 1024), ("c", 1024)):
        scene = download.scenes[case]
        scene.image[:] = np.random.default_rng(0).normal(20 + offset, 40, scene.image.shape)
        write_nifti(download.image(case), scene.image, scene.affine)
        write_nifti(download.label(case), scene.values(numbered(NAMES)), scene.affine)
    for written in (True, False):
        result = download.convert()
        assert result.written == written
        assert set(result.doubts) == {"b", "c"}
    record = json.loads((result.folder / "conversion.json").read_text())["cases"]
    assert "intensities" not in record["a"]
    assert record["b"]["intensities"].startswith("0.5 % of the voxels lie below 9")
    assert download.convert(toy(modality="MR"), overwrite=True).doubts == {}
