"""Laparoscopic frames: a camera's view of a surgery, with instruments, uneven light, highlights, blood and noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_partial.errors import PartialError
from nnunet_partial.phantoms.levelsets import Field, Points, Waves, tube
from tests.bench.methods.surgeries import FRAME_ATOMS, TISSUES, Surgery, TissueMap

__all__ = ["Frame", "make_frame"]

_HALF_HEIGHT_MM = (28.0, 48.0)
_LARGEST_ROLL = 20.0
_AIM_ERROR_MM = 15.0
_SMALLEST_SHARE = 0.03
_TRIES = 50
_GRID_MM = 4.0
_EXTENT_MM = (104.0, 100.0)
_FINE_MM, _COARSE_MM = 1.5, 7.0
_RIM_MM = 5.0
_BLUR = 0.6
_NOISE = (0.02, 0.04)
_BLOOD = np.array((0.42, 0.08, 0.07), np.float32)


@dataclass(frozen=True)
class Frame:
    """One frame and its truth.

    Attributes:
        image: Red, green and blue in [0, 1], float32 (3, H, W), the first row on top.
        atoms: Index into `FRAME_ATOMS`, int16 (H, W).
    """

    image: NDArray[np.float32]
    atoms: NDArray[np.int16]


@dataclass(frozen=True)
class _Camera:
    """Where it looks, in mm, how far it sees from the middle of the frame to its upper rim, and its roll in degrees."""

    centre: NDArray[np.float64]
    half_height_mm: float
    roll: float

    def points(self, shape: tuple[int, int]) -> Points:
        rows, columns = np.ogrid[: shape[0], : shape[1]]
        mm = 2 * self.half_height_mm / shape[0]
        right, up = (columns - (shape[1] - 1) / 2) * mm, ((shape[0] - 1) / 2 - rows) * mm
        cosine, sine = np.cos(np.deg2rad(self.roll)), np.sin(np.deg2rad(self.roll))
        x = (self.centre[0] + cosine * right - sine * up).astype(np.float32)
        y = (self.centre[1] + sine * right + cosine * up).astype(np.float32)
        return x, y, np.zeros_like(x)


@lru_cache(maxsize=64)
def _surgery(number: int) -> tuple[Surgery, dict[str, NDArray[np.float64]]]:
    """A surgery, and for each structure places at which it is seen."""
    surgery = Surgery.draw(np.random.default_rng((number, 21)))
    axes = [np.arange(-reach, reach, _GRID_MM, dtype=np.float32) for reach in _EXTENT_MM]
    x, y = np.meshgrid(*axes, indexing="ij")
    atoms = surgery.tissues((x, y, np.zeros_like(x))).atoms()
    return surgery, {name: np.stack([x[atoms == i], y[atoms == i]], 1) for i, name in enumerate(FRAME_ATOMS)}


def _paint_instruments(rng: np.random.Generator, seen: TissueMap, points: Points, camera: _Camera) -> None:
    """Up to two shafts that reach in from outside of the frame, and end near its middle."""
    reach_mm = 2.5 * camera.half_height_mm
    for _ in range(rng.integers(3)):
        angle = rng.uniform(0, 2 * np.pi)
        tip = camera.centre + rng.normal(0, 0.4 * camera.half_height_mm, size=2)
        outside = camera.centre + reach_mm * np.array((np.cos(angle), np.sin(angle)))
        thickness = rng.uniform(2.5, 4.5)
        knots = np.pad(np.stack([tip, tip + 0.15 * (outside - tip), outside]), ((0, 0), (0, 1)))
        seen.paint(tube(points, knots, np.array([0.4, 1.0, 1.0]) * thickness), "instrument")


def _texture(rng: np.random.Generator, shape: tuple[int, int], length: float) -> Field:
    """A smooth random field of unit standard deviation; the length is in pixels."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), length, mode="wrap")
    return np.asarray(field / field.std(), np.float32)


def _light(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
    """Brightness: most where the light points, a fraction of it in the corners."""
    rows, columns = (np.linspace(-n / shape[0], n / shape[0], n, dtype=np.float32) for n in shape)
    aim = rng.uniform(-0.5, 0.5, size=2)
    squared = (rows[:, None] - np.float32(aim[0])) ** 2 + (columns - np.float32(aim[1])) ** 2
    brightness: Field = np.float32(rng.uniform(0.85, 1.25)) / (1 + squared * np.float32(rng.uniform(0.2, 0.7)))
    return brightness


def _render(rng: np.random.Generator, surgery: Surgery, seen: TissueMap, mm_a_pixel: float) -> NDArray[np.float32]:
    shape = (seen.index.shape[0], seen.index.shape[1])
    looks = list(TISSUES.values())
    colours = np.array([tissue.colour for tissue in looks], np.float32) + surgery.tints
    grain = np.zeros(shape, np.float32)
    for amplitudes, length_mm in (([t.fine for t in looks], _FINE_MM), ([t.coarse for t in looks], _COARSE_MM)):
        amplitude = np.array(amplitudes, np.float32)[seen.index]
        grain += amplitude * _texture(rng, shape, max(length_mm / mm_a_pixel, 0.5))
    image = colours[seen.index] + grain[..., None]
    blood = np.clip(_texture(rng, shape, 8 / mm_a_pixel) - np.float32(rng.uniform(1.2, 2.4)), 0, 1)[..., None]
    image += np.float32(0.8) * blood * (_BLOOD - image)
    # solids are round: they face the light in their middle and turn away from it at the rim
    facing = np.clip(seen.depth_mm / _RIM_MM, 0, 1)
    image *= ((np.float32(0.72) + np.float32(0.28) * facing) * _light(rng, shape))[..., None]
    shiny = (_texture(rng, shape, 1.5 / mm_a_pixel) > 2.2) & (facing > 0.6)
    image[shiny] = 1
    image = ndimage.gaussian_filter(image, (_BLUR, _BLUR, 0), mode="nearest")
    image += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(*_NOISE))
    return np.asarray(np.clip(image, 0, 1).transpose(2, 0, 1), np.float32)


def make_frame(surgery: int, focus: str, number: int, shape: tuple[int, int]) -> Frame:
    """Makes one frame; the same arguments give the same frame to the bit.

    The camera points at a place where the structure is seen, and misses it by a little. The structure fills at least
    3 % of the frame.

    Args:
        surgery: Which surgery, 0 or more; its frames share the patient's anatomy and tints.
        focus: The structure of interest, one of `FRAME_ATOMS[1:]`.
        number: Which frame of this surgery and structure, 0 or more.
        shape: Rows and columns.

    Returns:
        The frame.

    Raises:
        PartialError: No such structure, or no view of it was found.
    """
    if focus not in FRAME_ATOMS[1:]:
        raise PartialError(f"frame: expected a structure out of {', '.join(FRAME_ATOMS[1:])}, found {focus!r}")
    rng = np.random.default_rng((surgery, FRAME_ATOMS.index(focus), number, 22))
    patient, places = _surgery(surgery)
    for _ in range(_TRIES if len(places[focus]) else 0):
        aim = rng.choice(places[focus]) + rng.normal(0, _AIM_ERROR_MM, size=2)
        roll = float(rng.uniform(-_LARGEST_ROLL, _LARGEST_ROLL))
        camera = _Camera(aim, float(rng.uniform(*_HALF_HEIGHT_MM)), roll)
        points = camera.points(shape)
        # tissue moves between frames
        moved = [axis + Waves.draw(rng, 4, (40.0, 90.0), 6.0).at(points) for axis in points[:2]]
        seen = patient.tissues((moved[0], moved[1], points[2]))
        _paint_instruments(rng, seen, points, camera)
        atoms = seen.atoms()
        if (atoms == FRAME_ATOMS.index(focus)).mean() >= _SMALLEST_SHARE:
            return Frame(_render(rng, patient, seen, 2 * camera.half_height_mm / shape[0]), atoms)
    raise PartialError(f"frame: surgery {surgery} has no place where the {focus} is seen well")
