"""A procedural CT phantom of an abdominal trunk with a label for every voxel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_partial.errors import PartialError
from nnunet_partial.phantoms.anatomy import Anatomy
from nnunet_partial.phantoms.levelsets import (
    Ellipsoid,
    Field,
    Points,
    ellipse_column,
    rotation_matrix,
    triple,
    tube,
)

ATOMS: tuple[str, ...] = (
    "background",
    "liver_tissue",
    "liver_tumour",
    "spleen",
    "kidney_left",
    "kidney_right",
    "aorta",
    "pancreas",
)

NOMINAL_HU: dict[str, float] = {
    "liver_tissue": 110.0,
    "liver_tumour": 45.0,
    "spleen": 125.0,
    "kidney_left": 170.0,
    "kidney_right": 170.0,
    "aorta": 230.0,
    "pancreas": 85.0,
}

_SOFT_TISSUE_HU = 50.0
_PSF_SD_VOXELS = 0.6
_NOISE_CORRELATION_VOXELS = 0.45
_SMALLEST_SHAPE = 8

_Mask: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Phantom:
    """One CT volume and its truth.

    Attributes:
        hu: Hounsfield units, int16, shape (X, Y, Z), within [-1024, 1500].
        atoms: index into `ATOMS`, uint8, shape (X, Y, Z).
        affine: voxel index to RAS+ world coordinates in mm, float64, shape (4, 4).
    """

    hu: NDArray[np.int16]
    atoms: NDArray[np.uint8]
    affine: NDArray[np.float64]


class _Canvas:
    """The volume while it is painted: later paint covers earlier paint, so each voxel is exactly one atom."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.hu = np.full(shape, -1000, dtype=np.float32)
        self.atoms = np.zeros(shape, dtype=np.uint8)

    def paint(self, where: _Mask, hu: float | Field, atom: str = "background") -> None:
        self.hu[where] = hu if isinstance(hu, int | float) else hu[where]
        self.atoms[where] = ATOMS.index(atom)


def _checked(shape: Sequence[int], spacing_mm: Sequence[float], tumours: int | None, noise_hu: float) -> None:
    if len(shape) != 3 or min(shape) < _SMALLEST_SHAPE:
        raise PartialError(f"phantom shape: expected three sizes of at least {_SMALLEST_SHAPE}, found {tuple(shape)}")
    if len(spacing_mm) != 3 or not min(spacing_mm) > 0:
        raise PartialError(f"phantom spacing_mm: expected three lengths above 0, found {tuple(spacing_mm)}")
    if tumours is not None and tumours < 0:
        raise PartialError(f"phantom tumours: expected 0 or more (None draws 1 to 3), found {tumours}")
    if not noise_hu >= 0:
        raise PartialError(f"phantom noise_hu: expected a standard deviation of 0 or more, found {noise_hu}")


def _draw_affine(
    rng: np.random.Generator, shape: Sequence[int], spacing_mm: Sequence[float], tilt_degrees: float | None
) -> NDArray[np.float64]:
    drawn_tilt = float(rng.uniform(-8, 8))
    turn = rotation_matrix(rng.normal(size=3), drawn_tilt if tilt_degrees is None else tilt_degrees)
    facing = -1.0 if rng.random() < 0.5 else 1.0
    centre = rng.uniform((-15, -160, -700), (15, -100, -300))
    affine = np.eye(4)
    affine[:3, :3] = turn * (np.array([facing, facing, 1.0]) * np.asarray(spacing_mm, dtype=np.float64))
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


def _points_around_centre(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> Points:
    steps = np.ogrid[: shape[0], : shape[1], : shape[2]]
    centred = [(step - (size - 1) / 2) for step, size in zip(steps, shape, strict=True)]
    # Sums instead of a matrix product: BLAS may round differently with another number of threads.
    return triple(
        (row[0] * centred[0] + row[1] * centred[1] + row[2] * centred[2]).astype(np.float32) for row in affine[:3, :3]
    )


def _paint_surroundings(canvas: _Canvas, anatomy: Anatomy, world: Points, points: Points) -> None:
    """Table, fat, muscle wall and lungs."""
    back = -4 - (92 + 0.6 * anatomy.fat_mm) * anatomy.size[1]
    canvas.paint((np.abs(world[1] - np.float32(back - 7)) < 3) & (np.abs(world[0]) < 190), -250)
    skin = anatomy.skin(points)
    cavity = anatomy.cavity(points)
    canvas.paint(skin < 0, -100)
    canvas.paint((skin < 0) & (skin > -3), -20)
    canvas.paint((cavity < 11) & (skin < -4), _SOFT_TISSUE_HU)
    for side in (-1, 1):
        canvas.paint(ellipse_column(points, (side * 30, -72), (27, 19), 2.0) < 0, _SOFT_TISSUE_HU + 5)
    canvas.paint(cavity < 0, -95)
    height = anatomy.above_diaphragm(points)
    canvas.paint((cavity < 0) & (height > -4), _SOFT_TISSUE_HU)
    mediastinum = ellipse_column(points, (-2, -18), (28, 26), 2.0)
    canvas.paint((cavity < -1) & (height > 0) & (mediastinum > 0), -850)


def _paint_distractors(canvas: _Canvas, anatomy: Anatomy, points: Points, contrast: float) -> None:
    """Heart, bowel, stomach, gallbladder, muscles, bones and vena cava: background that looks like organs."""

    def blood(hu: float) -> float:
        return _SOFT_TISSUE_HU + contrast * (hu - _SOFT_TISSUE_HU)

    x, y, z = points
    below = (anatomy.cavity(points) < -4) & (anatomy.above_diaphragm(points) < -8)
    heart = Ellipsoid((-22, 34, 122), (48, 38, 34), np.eye(3)).distance(points)
    canvas.paint((anatomy.cavity(points) < -2) & (heart < 0), blood(140))
    below &= tube(points, *anatomy.pancreas) > 4
    loops = anatomy.bowel.at(points)
    room = below & (y > -22 + 0.25 * np.abs(z)) & (z < 25)
    canvas.paint(room & (loops > 0.02), 60)
    canvas.paint(room & (loops > 0.16), np.where(x + 20 * loops > 20, np.float32(25), np.float32(95)))
    canvas.paint(room & (loops > 0.26) & (y > 25), -700)
    tilted = rotation_matrix(np.array([0.0, 1.0, 0.0]), 20)
    stomach = Ellipsoid((-48, 34, 34), (38, 30, 42), tilted).distance(points)
    stomach = stomach + np.float32(0.5) * anatomy.outline.at(points)
    canvas.paint(below & (stomach < 0), 70)
    canvas.paint(below & (stomach < -5), np.where(y > 44, np.float32(-800), np.float32(25)))
    canvas.paint(Ellipsoid((46, 40, -14), (14, 15, 24), np.eye(3)).distance(points) < 0, 12)
    for side in (-1, 1):
        psoas = ellipse_column(points, (side * 33, -42), (15, 15), 2.0)
        canvas.paint((psoas < 0) & (z < 0) & (z > -150), _SOFT_TISSUE_HU + 8)
    bone, disc, canal = anatomy.vertebrae(points)
    canvas.paint(bone < 0, 400)
    canvas.paint(bone < -5, 260)
    canvas.paint(disc < 0, 95)
    canvas.paint(canal < 0, 30)
    canvas.paint(anatomy.ribs(points) < 0, 380)
    canvas.paint(anatomy.vena_cava(points) < 0, blood(140))


def _paint_organs(
    canvas: _Canvas, anatomy: Anatomy, points: Points, tumours: Sequence[Ellipsoid], hu: dict[str, float]
) -> None:
    liver = anatomy.liver(points) < 0
    canvas.paint(liver, hu["liver_tissue"], "liver_tissue")
    for tumour in tumours:
        canvas.paint(liver & (tumour.distance(points) < 0), hu["liver_tumour"], "liver_tumour")
    taken = canvas.atoms > 0
    spleen = anatomy.spleen.distance(points) + np.float32(0.5) * anatomy.outline.at(points)
    inside = (anatomy.cavity(points) < -2) & (anatomy.above_diaphragm(points) < -3)
    canvas.paint((spleen < 0) & inside & ~taken, hu["spleen"], "spleen")
    canvas.paint((tube(points, *anatomy.pancreas) < 0) & (canvas.atoms == 0), hu["pancreas"], "pancreas")
    for side, atom in enumerate(("kidney_left", "kidney_right")):
        kidney, pelvis = anatomy.kidney(points, side)
        canvas.paint(kidney < 0, hu[atom], atom)
        canvas.paint(pelvis < 0, hu[atom] - 0.5 * (hu[atom] - _SOFT_TISSUE_HU), atom)
    canvas.paint(tube(points, *anatomy.aorta) < 0, hu["aorta"], "aorta")


def _draw_organ_hu(rng: np.random.Generator, contrast: float) -> dict[str, float]:
    shifts = {atom: float(rng.uniform(-8, 8)) for atom in NOMINAL_HU}
    # One patient's kidneys enhance alike, and a tumour keeps its distance from its liver.
    shifts["kidney_right"] = shifts["kidney_left"]
    shifts["liver_tumour"] = shifts["liver_tissue"] + 5 * shifts["liver_tumour"] / 8
    return {
        atom: _SOFT_TISSUE_HU + contrast * (nominal + shifts[atom] - _SOFT_TISSUE_HU)
        for atom, nominal in NOMINAL_HU.items()
    }


def _acquire(rng: np.random.Generator, hu: Field, noise_hu: float) -> NDArray[np.int16]:
    blurred = ndimage.gaussian_filter(hu, _PSF_SD_VOXELS, mode="nearest")
    noise = ndimage.gaussian_filter(
        rng.standard_normal(hu.shape, dtype=np.float32), _NOISE_CORRELATION_VOXELS, mode="wrap"
    )
    noisy = blurred + noise * np.float32(noise_hu / noise.std())
    return np.clip(np.rint(noisy), -1024, 1500).astype(np.int16)


def make_phantom(
    seed: int,
    *,
    shape: tuple[int, int, int] = (72, 56, 48),
    spacing_mm: tuple[float, float, float] = (4.5, 4.5, 4.5),
    tilt_degrees: float | None = None,
    noise_hu: float = 12.0,
    tumours: int | None = None,
    contrast: float = 1.0,
) -> Phantom:
    """Makes one abdominal CT with its truth; the same arguments give the same volume to the bit.

    The anatomy is laid out in millimetres around the volume's centre, and depends on the seed and `tumours`
    only: another shape, spacing or tilt shows the same patient through another window.

    Args:
        seed: 0 or more.
        shape: voxels along left-right, anterior-posterior, inferior-superior; at least 8 each.
        spacing_mm: voxel size along these axes, in mm.
        tilt_degrees: angle between the array axes and the patient's; None draws it within +-8 degrees.
        noise_hu: standard deviation of the noise, in HU.
        tumours: number of liver tumours; None draws 1 to 3.
        contrast: factor on each organ's distance from soft tissue (50 HU).

    Returns:
        The phantom. Axes 0 and 1 run in the RAS+ or the LPS+ directions, as the seed has it.

    Raises:
        PartialError: An argument is out of range.
    """
    _checked(shape, spacing_mm, tumours, noise_hu)
    # One stream a purpose, so that one option never changes what another part draws.
    streams = [np.random.default_rng(s) for s in np.random.default_rng(seed).integers(2**63, size=5)]
    for_body, for_tumours, for_hu, for_affine, for_noise = streams
    anatomy = Anatomy.draw(for_body)
    drawn_count = int(for_tumours.integers(1, 4))
    lesions = anatomy.draw_tumours(for_tumours, drawn_count if tumours is None else tumours)
    affine = _draw_affine(for_affine, shape, spacing_mm, tilt_degrees)

    world = _points_around_centre(shape, affine)
    points = anatomy.reference(world)
    canvas = _Canvas(shape)
    _paint_surroundings(canvas, anatomy, world, points)
    _paint_distractors(canvas, anatomy, points, contrast)
    _paint_organs(canvas, anatomy, points, lesions, _draw_organ_hu(for_hu, contrast))
    return Phantom(_acquire(for_noise, canvas.hu, noise_hu), canvas.atoms, affine)
