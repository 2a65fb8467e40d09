"""Phantoms that tell training methods apart: low contrast, look-alikes nobody annotates, a tiny organ, two modalities.

The anatomy is that of the easy phantoms (`anatomy`), painted once as a map of tissues; a modality is a table of
intensities of these tissues. Every decoy looks exactly like an organ, so that only its place gives it away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_partial.errors import PartialError
from nnunet_partial.phantoms.anatomy import Anatomy
from nnunet_partial.phantoms.levelsets import (
    Ellipsoid,
    Field,
    Points,
    Waves,
    ellipse_column,
    rotation_matrix,
    triple,
    tube,
)

HARD_ATOMS: tuple[str, ...] = (
    "background",
    "liver_tissue",
    "liver_tumour",
    "spleen",
    "kidney_left",
    "kidney_right",
    "pancreas",
    "adrenal",
)
MODALITIES = ("CT", "MR")

_SMALLEST_SHAPE = 16
_PSF_SD_MM = 2.5
_NOISE_SD_MM = 2.0
_FINE_MM, _COARSE_MM = 3.5, 10.0
_PATIENT_SHIFT = 6.0
_TILT_DEGREES = 6.0
_LARGEST_OFFSET_MM = 12.0
_BIAS = 0.1


@dataclass(frozen=True)
class Tissue:
    """How a tissue looks, before a patient's own shift.

    Attributes:
        ct: Mean in HU.
        mr: Mean in arbitrary units.
        fine: Standard deviation of its fine-grained texture, in either unit.
        coarse: Standard deviation of its coarse-grained texture.
        like: Tissue whose patient's shift it shares; None for one of its own.
    """

    ct: float
    mr: float
    fine: float = 0.0
    coarse: float = 0.0
    like: str | None = None


# Liver and spleen differ in texture more than in mean. CT enhances kidneys; on MR fat is bright, the spleen is darker
# than the liver and kidneys lie in between.
TISSUES: dict[str, Tissue] = {
    "air": Tissue(-1000, 0),
    "fat": Tissue(-100, 200, fine=5),
    "muscle": Tissue(55, 65, fine=6),
    "lung": Tissue(-850, 5),
    "bone": Tissue(260, 40, coarse=40),
    "vessel": Tissue(130, 20),
    "stomach": Tissue(96, 118, fine=10),
    "bowel": Tissue(80, 95, coarse=12),
    "liver_tissue": Tissue(100, 130, fine=12),
    "liver_tumour": Tissue(60, 85, fine=8, like="liver_tissue"),
    "spleen": Tissue(104, 80, coarse=10),
    "kidney_left": Tissue(135, 98, coarse=8),
    "kidney_right": Tissue(135, 98, coarse=8, like="kidney_left"),
    "pancreas": Tissue(80, 150, fine=6),
    "adrenal": Tissue(65, 60),
    "decoy_kidney": Tissue(135, 98, coarse=8, like="kidney_left"),
    "decoy_pancreas": Tissue(80, 150, fine=6, like="pancreas"),
    "decoy_adrenal": Tissue(65, 60, like="adrenal"),
}
_NAMES = tuple(TISSUES)


@dataclass(frozen=True)
class HardPhantom:
    """One volume, its truth, and what was painted.

    Attributes:
        image: HU for CT, arbitrary units of 0 or more for MR; float32, shape (X, Y, Z), axes RAS+.
        atoms: Index into `HARD_ATOMS`, uint8, shape (X, Y, Z).
        tissues: Index into the keys of `TISSUES`, uint8, shape (X, Y, Z); tells decoys from background.
        modality: 'CT' or 'MR'.
        spacing_mm: Voxel size along x, y, z.
    """

    image: NDArray[np.float32]
    atoms: NDArray[np.uint8]
    tissues: NDArray[np.uint8]
    modality: str
    spacing_mm: tuple[float, float, float]


class _TissueMap:
    """The tissues while they are painted: later paint covers earlier paint."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.index = np.zeros(shape, np.uint8)

    def paint(self, where: NDArray[np.bool_], tissue: str) -> None:
        self.index[where] = _NAMES.index(tissue)

    def free(self, *covered: str) -> NDArray[np.bool_]:
        """Voxels that hold none but the given tissues."""
        return np.isin(self.index, [_NAMES.index(tissue) for tissue in covered])


def _checked(
    seed: int, shape: Sequence[int], spacing_mm: Sequence[float], *, modality: str, tumours: int | None, noise: float
) -> None:
    if seed < 0:
        raise PartialError(f"hard phantom seed: expected 0 or more, found {seed}")
    if len(shape) != 3 or min(shape) < _SMALLEST_SHAPE:
        raise PartialError(
            f"hard phantom shape: expected three sizes of at least {_SMALLEST_SHAPE}, found {tuple(shape)}"
        )
    if len(spacing_mm) != 3 or not min(spacing_mm) > 0:
        raise PartialError(f"hard phantom spacing_mm: expected three lengths above 0, found {tuple(spacing_mm)}")
    if modality not in MODALITIES:
        raise PartialError(f"hard phantom modality: expected one of {', '.join(MODALITIES)}, found {modality!r}")
    if tumours is not None and tumours < 0:
        raise PartialError(f"hard phantom tumours: expected 0 or more (None draws 2 to 4), found {tumours}")
    if not noise >= 0:
        raise PartialError(f"hard phantom noise: expected a standard deviation of 0 or more, found {noise}")


def _points(rng: np.random.Generator, shape: Sequence[int], spacing_mm: Sequence[float]) -> Points:
    """Patient's coordinates in mm of all voxels: the scanner's window is shifted and slightly turned."""
    turn = rotation_matrix(rng.normal(size=3), float(rng.uniform(-_TILT_DEGREES, _TILT_DEGREES)))
    offset = rng.uniform(-_LARGEST_OFFSET_MM, _LARGEST_OFFSET_MM, size=3)
    steps = np.ogrid[: shape[0], : shape[1], : shape[2]]
    centred = [(s - (n - 1) / 2) * mm for s, n, mm in zip(steps, shape, spacing_mm, strict=True)]
    # Sums instead of a matrix product: BLAS may round differently with another number of threads.
    return triple(
        (row[0] * centred[0] + row[1] * centred[1] + row[2] * centred[2] + shift).astype(np.float32)
        for row, shift in zip(turn, offset, strict=True)
    )


def _paint_surroundings(canvas: _TissueMap, anatomy: Anatomy, points: Points) -> NDArray[np.bool_]:
    """Body wall, lungs, spine and ribs. Returns the room for organs below the diaphragm."""
    skin, cavity, height = anatomy.skin(points), anatomy.cavity(points), anatomy.above_diaphragm(points)
    canvas.paint(skin < 0, "fat")
    canvas.paint((cavity < 11) & (skin < -4), "muscle")
    canvas.paint(cavity < 0, "fat")
    canvas.paint((cavity < 0) & (height > -4), "muscle")
    canvas.paint((cavity < -1) & (height > 0), "lung")
    for side in (-1, 1):
        canvas.paint(ellipse_column(points, (side * 33, -42), (15, 15), 2.0) < 0, "muscle")
    canvas.paint(anatomy.vertebrae(points)[0] < 0, "bone")
    canvas.paint(anatomy.ribs(points) < 0, "bone")
    return (cavity < -4) & (height < -8)


def _paint_bowel(canvas: _TissueMap, anatomy: Anatomy, points: Points, room: NDArray[np.bool_]) -> None:
    """Bowel and stomach, whose intensities are close to those of pancreas and liver."""
    y, z = points[1:]
    front = room & (y > -15 + 0.2 * np.abs(z)) & (z < 25)
    canvas.paint(front & (anatomy.bowel.at(points) > 0.05), "bowel")
    stomach = Ellipsoid((-48, 34, 34), (36, 28, 40), rotation_matrix(np.array([0.0, 1.0, 0.0]), 20)).distance(points)
    canvas.paint(room & (stomach + np.float32(0.5) * anatomy.outline.at(points) < 0), "stomach")


def _paint_decoys(
    canvas: _TissueMap, rng: np.random.Generator, anatomy: Anatomy, points: Points, room: NDArray[np.bool_]
) -> None:
    """Structures that look like organs and lie elsewhere in the abdomen; organs are painted over them."""
    centre = triple(float(v) for v in rng.uniform((-65, 5, -75), (65, 40, -50)))
    radii = triple(float(v) for v in rng.uniform((20, 18, 24), (28, 25, 34)))
    turn = rotation_matrix(rng.normal(size=3), float(rng.uniform(0, 180)))
    canvas.paint(room & (Ellipsoid(centre, radii, turn).distance(points) < 0), "decoy_kidney")
    knots = np.linspace((-70, 10, -30), (70, 10, -60), 6) + rng.uniform(-20, 20, size=(6, 3))
    canvas.paint(room & (tube(points, knots, np.full(6, rng.uniform(9, 12))) < 0), "decoy_pancreas")
    aorta = anatomy.aorta[0]
    for knot in rng.choice(aorta[1:-1], size=3, replace=False):
        node = triple(float(v) for v in knot + rng.uniform((-32, 8, -25), (32, 24, 25)))
        canvas.paint(room & (Ellipsoid(node, (11, 9, 13), np.eye(3)).distance(points) < 0), "decoy_adrenal")


def _adrenal(rng: np.random.Generator, anatomy: Anatomy, points: Points, side: int) -> Field:
    """Signed distance to the adrenal gland of a side (0 left, 1 right): a bent rod on the kidney's upper pole."""
    kidney = anatomy.kidneys[side]
    inwards = 1.0 if side == 0 else -1.0
    pole = np.add(kidney.centre, (inwards * 16, 10, kidney.radii[2] * 0.92)) + rng.uniform(-3, 3, size=3)
    knots = pole + np.array([(-inwards * 9, -6, -9), (0, 0, 3), (inwards * 8, -8, -6)])
    return tube(points, knots, np.array([8.0, 9.5, 8.0]) * rng.uniform(0.9, 1.1))


def _paint_organs(
    canvas: _TissueMap, rng: np.random.Generator, anatomy: Anatomy, points: Points, tumours: Sequence[Ellipsoid]
) -> None:
    liver = anatomy.liver(points) < 0
    canvas.paint(liver, "liver_tissue")
    for tumour in tumours:
        canvas.paint(liver & (tumour.distance(points) < 0), "liver_tumour")
    spleen = anatomy.spleen.distance(points) + np.float32(0.5) * anatomy.outline.at(points)
    inside = (anatomy.cavity(points) < -2) & (anatomy.above_diaphragm(points) < -3)
    canvas.paint((spleen < 0) & inside & ~liver, "spleen")
    taken = canvas.free("liver_tissue", "liver_tumour", "spleen")
    canvas.paint((tube(points, *anatomy.pancreas) < 0) & ~taken, "pancreas")
    canvas.paint(anatomy.vena_cava(points) < 0, "vessel")
    canvas.paint(tube(points, *anatomy.aorta) < 0, "vessel")
    for side, organ in enumerate(("kidney_left", "kidney_right")):
        # a gland may press into liver or spleen, never into its kidney or the great vessels
        canvas.paint((_adrenal(rng, anatomy, points, side) < 0) & ~canvas.free("vessel", "bone"), "adrenal")
        canvas.paint(anatomy.kidney(points, side)[0] < 0, organ)


def _texture(
    rng: np.random.Generator, shape: tuple[int, ...], sd_mm: float, spacing_mm: Sequence[float]
) -> NDArray[np.float32]:
    """A smooth random field of unit standard deviation."""
    field = rng.standard_normal(shape, dtype=np.float32)
    field = ndimage.gaussian_filter(field, [sd_mm / mm for mm in spacing_mm], mode="wrap")
    return np.asarray(field / field.std(), np.float32)


def _acquire(
    rng: np.random.Generator,
    tissues: NDArray[np.uint8],
    points: Points,
    spacing_mm: Sequence[float],
    *,
    modality: str,
    noise: float,
) -> NDArray[np.float32]:
    """The image of a tissue map: this patient's intensities, texture, blur, noise, and on MR a bias field and gain."""
    own = {name: float(rng.uniform(-_PATIENT_SHIFT, _PATIENT_SHIFT)) for name in _NAMES}
    looks = [
        ((t.ct if modality == "CT" else t.mr) + own[t.like or name], t.fine, t.coarse) for name, t in TISSUES.items()
    ]
    mean, fine, coarse = (np.array(column, np.float32)[tissues] for column in zip(*looks, strict=True))
    for amplitude, length_mm in ((fine, _FINE_MM), (coarse, _COARSE_MM)):
        mean += amplitude * _texture(rng, tissues.shape, length_mm, spacing_mm)
    image = ndimage.gaussian_filter(mean, [_PSF_SD_MM / mm for mm in spacing_mm], mode="nearest")
    if modality == "MR":
        image *= np.float32(rng.uniform(0.6, 1.6)) * (1 + Waves.draw(rng, 3, (250.0, 500.0), _BIAS).at(points))
        noise *= float(image.mean() / 90)
    image += _texture(rng, tissues.shape, _NOISE_SD_MM, spacing_mm) * np.float32(noise)
    low, high = (-1024, 1500) if modality == "CT" else (0, np.inf)
    return np.clip(image, low, high).astype(np.float32)


def make_hard_phantom(
    seed: int,
    *,
    shape: tuple[int, int, int] = (64, 48, 40),
    spacing_mm: tuple[float, float, float] = (5.0, 5.0, 5.0),
    modality: str = "CT",
    tumours: int | None = None,
    noise: float = 10.0,
) -> HardPhantom:
    """Makes one abdominal volume with its truth; the same arguments give the same volume to the bit.

    The patient depends on the seed and `tumours` only: both modalities show the same tissues.

    Args:
        seed: 0 or more.
        shape: Voxels along left-right, posterior-anterior, inferior-superior; at least 16 each.
        spacing_mm: Voxel size along these axes.
        modality: 'CT' (HU) or 'MR' (bright fat, another order of the organs, a bias field and a random gain).
        tumours: Number of liver tumours; None draws 2 to 4.
        noise: Standard deviation of the noise in HU; on MR it is scaled with the mean of the image.

    Returns:
        The phantom.

    Raises:
        PartialError: An argument is out of range.
    """
    _checked(seed, shape, spacing_mm, modality=modality, tumours=tumours, noise=noise)
    # One stream a purpose, so that one option never changes what another part draws.
    streams = [np.random.default_rng(s) for s in np.random.default_rng((seed, 1)).integers(2**63, size=6)]
    for_body, for_tumours, for_window, for_decoys, for_organs, for_image = streams
    anatomy = Anatomy.draw(for_body)
    drawn_count = int(for_tumours.integers(2, 5))
    lesions = anatomy.draw_tumours(for_tumours, drawn_count if tumours is None else tumours)
    world = _points(for_window, shape, spacing_mm)
    points = anatomy.reference(world)
    canvas = _TissueMap(shape)
    room = _paint_surroundings(canvas, anatomy, points)
    _paint_bowel(canvas, anatomy, points, room)
    _paint_decoys(canvas, for_decoys, anatomy, points, room)
    _paint_organs(canvas, for_organs, anatomy, points, lesions)
    atom_of_tissue = np.array([HARD_ATOMS.index(n) if n in HARD_ATOMS else 0 for n in _NAMES], np.uint8)
    image = _acquire(for_image, canvas.index, world, spacing_mm, modality=modality, noise=noise)
    return HardPhantom(image, atom_of_tissue[canvas.index], canvas.index, modality, spacing_mm)
