"""Abdomens as a laparoscope sees them: six structures, look-alikes that nobody annotates, and fat in front of them.

A surgery is a flat map of one patient's abdomen, 230 by 200 mm, seen from the front: right of the patient on the left,
head on top. Cameras (`frames`) look at parts of it. Solids are those of the phantoms, cut at z = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline

from nnunet_partial.phantoms.levelsets import Ellipsoid, Field, Points, Waves, ellipse_column, rotation_matrix, tube

__all__ = ["FRAME_ATOMS", "TISSUES", "Surgery", "Tissue", "TissueMap"]

FRAME_ATOMS: tuple[str, ...] = (
    "background",
    "abdominal_wall",
    "colon",
    "liver",
    "pancreas",
    "small_intestine",
    "stomach",
)


@dataclass(frozen=True)
class Tissue:
    """How a tissue looks, before a patient's own tint.

    Attributes:
        colour: Red, green and blue in [0, 1].
        fine: Standard deviation of its fine-grained texture.
        coarse: Standard deviation of its coarse-grained texture.
        like: Tissue whose patient's tint it shares; None for one of its own.
    """

    colour: tuple[float, float, float]
    fine: float
    coarse: float
    like: str | None = None


# Stomach and bowels differ less from each other than patients do, and the pancreas little from fat.
TISSUES: dict[str, Tissue] = {
    "fat": Tissue((0.80, 0.65, 0.40), 0.03, 0.05),
    "abdominal_wall": Tissue((0.66, 0.38, 0.34), 0.02, 0.06),
    "colon": Tissue((0.78, 0.56, 0.44), 0.02, 0.04),
    "liver": Tissue((0.46, 0.20, 0.17), 0.03, 0.02),
    "pancreas": Tissue((0.78, 0.58, 0.40), 0.05, 0.03),
    "small_intestine": Tissue((0.80, 0.47, 0.42), 0.02, 0.04),
    "stomach": Tissue((0.78, 0.53, 0.51), 0.02, 0.03),
    "spleen": Tissue((0.46, 0.20, 0.17), 0.03, 0.02, like="liver"),
    "duodenum": Tissue((0.80, 0.47, 0.42), 0.02, 0.04, like="small_intestine"),
    "bladder": Tissue((0.78, 0.53, 0.51), 0.02, 0.03, like="stomach"),
    "node": Tissue((0.78, 0.58, 0.40), 0.05, 0.03, like="pancreas"),
    "retroperitoneum": Tissue((0.66, 0.38, 0.34), 0.02, 0.06, like="abdominal_wall"),
    "instrument": Tissue((0.52, 0.54, 0.57), 0.01, 0.03),
}
_NAMES = tuple(TISSUES)

_FLEXURES = ((-90, -95), (-86, -50), (-82, -4), (-42, -36), (0, -48), (42, -34), (84, 8), (88, -45), (84, -95))
_STOMACH = ((56, 46), (40, 16), (4, 0), (-22, 12))
_STOMACH_RADII_MM = (23, 21, 15, 9)
_PANCREAS = ((-30, -14), (0, -20), (32, -10), (62, 4))
_PANCREAS_RADII_MM = (12, 10, 9, 7)
_DUODENUM = ((-26, 12), (-40, -2), (-38, -24))
_COIL_ROWS_MM = (-68, -82, -96)
_SEGMENTS_A_KNOT = 4
_HAUSTRUM_MM = 16.0


class TissueMap:
    """The tissues that a camera sees, while they are painted: later paint covers earlier paint.

    Args:
        shape: Of all arrays.

    Attributes:
        index: Index into the keys of `TISSUES`, uint8.
        depth_mm: Distance to the border of the tissue's solid, float32; 0 or more.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.index = np.zeros(shape, np.uint8)
        self.depth_mm = np.full(shape, 10, np.float32)

    def paint(self, distance: Field, tissue: str, where: NDArray[np.bool_] | None = None) -> None:
        """Paints a solid.

        Args:
            distance: Signed distance in mm, negative inside.
            tissue: One of `TISSUES`.
            where: Only here; None for everywhere.
        """
        inside = distance < 0 if where is None else (distance < 0) & where
        self.index[inside] = _NAMES.index(tissue)
        self.depth_mm[inside] = -distance[inside]

    def holds(self, *tissues: str) -> NDArray[np.bool_]:
        """Where one of these tissues is seen."""
        return np.isin(self.index, [_NAMES.index(tissue) for tissue in tissues])

    def atoms(self) -> NDArray[np.int16]:
        """Index into `FRAME_ATOMS`; look-alikes, fat and instruments are background."""
        atom_of_tissue = [FRAME_ATOMS.index(name) if name in FRAME_ATOMS else 0 for name in _NAMES]
        return np.array(atom_of_tissue, np.int16)[self.index]


@dataclass(frozen=True)
class _Tube:
    knots: NDArray[np.float64]
    radii: NDArray[np.float64]

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        points: Sequence[tuple[float, float]],
        radii_mm: Sequence[float],
        *,
        jitter_mm: float = 6.0,
        folds: float = 0.0,
    ) -> _Tube:
        """A smooth tube along shifted points; `folds` is the part of the radius by which haustra narrow it."""
        middle = np.array(points, float) + rng.uniform(-jitter_mm, jitter_mm, size=(len(points), 2))
        at = np.linspace(0, len(points) - 1, _SEGMENTS_A_KNOT * (len(points) - 1) + 1)
        if folds:
            at = np.linspace(0, len(points) - 1, 3 * len(at))
        path = make_interp_spline(np.arange(len(points)), middle, k=2)(at)
        way_mm = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
        radii = np.interp(at, np.arange(len(points)), radii_mm) * rng.uniform(0.85, 1.15)
        radii *= 1 - folds * np.cos(np.pi * way_mm / _HAUSTRUM_MM) ** 4
        return cls(np.pad(path, ((0, 0), (0, 1))), radii)

    def distance(self, points: Points) -> Field:
        return tube(points, self.knots, self.radii)


def _disc(rng: np.random.Generator, centre: tuple[float, float], radii: tuple[float, float], turn: float) -> Ellipsoid:
    """An ellipse near a place, turned by about so many degrees."""
    x, y = np.array(centre) + rng.uniform(-8, 8, size=2)
    across, along = np.array(radii) * rng.uniform(0.8, 1.2, size=2)
    upright = np.array([0.0, 0.0, 1.0])
    return Ellipsoid((x, y, 0), (across, along, 1), rotation_matrix(upright, turn + float(rng.uniform(-12, 12))))


def _coils(rng: np.random.Generator) -> list[tuple[float, float]]:
    """Knots of the small intestine: to and fro between the parts of the colon."""
    knots = []
    for row, height in enumerate(_COIL_ROWS_MM):
        across = np.linspace(-62, 62, 5) * (1 if row % 2 == 0 else -1)
        knots += [(float(x), float(height + rng.uniform(-5, 5))) for x in across]
    return knots


@dataclass(frozen=True)
class Surgery:
    """One patient's abdomen, and how its tissues are tinted.

    Attributes:
        tints: What is added to the colours of all tissues, (tissues, 3).
    """

    tints: NDArray[np.float32]
    _cavity: tuple[float, float, float]
    _outline: Waves
    _omentum: Waves
    _omentum_level: float
    _discs: dict[str, Ellipsoid]
    _tubes: dict[str, _Tube]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Surgery:
        """A random patient.

        Args:
            rng: Source of the draw.
        """
        own = {name: rng.normal(0, 0.012, size=3) for name in _NAMES}
        everywhere = rng.normal(0, 0.015, size=3)
        tints = np.array([own[tissue.like or name] + everywhere for name, tissue in TISSUES.items()], np.float32)
        node = (float(rng.uniform(-60, 60)), float(rng.uniform(-50, 30)))
        return cls(
            tints=tints,
            _cavity=(float(rng.uniform(96, 108)), float(rng.uniform(82, 92)), float(rng.uniform(2.0, 3.0))),
            _outline=Waves.draw(rng, 6, (25.0, 60.0), 7.0),
            _omentum=Waves.draw(rng, 8, (20.0, 60.0), 1.0),
            _omentum_level=float(rng.uniform(0.25, 0.4)),
            _discs={
                "liver": _disc(rng, (-58, 42), (54, 30), -18),
                "spleen": _disc(rng, (82, 40), (20, 27), 10),
                "bladder": _disc(rng, (10, -106), (30, 17), 0),
                "retroperitoneum": _disc(rng, (float(rng.choice([-1, 1])) * 62, -52), (14, 20), 0),
            },
            _tubes={
                "stomach": _Tube.draw(rng, _STOMACH, _STOMACH_RADII_MM),
                "colon": _Tube.draw(rng, _FLEXURES, [14] * len(_FLEXURES), folds=0.3),
                "pancreas": _Tube.draw(rng, _PANCREAS, _PANCREAS_RADII_MM),
                "duodenum": _Tube.draw(rng, _DUODENUM, (9, 9, 8)),
                "small_intestine": _Tube.draw(rng, _coils(rng), [7.5] * 15, jitter_mm=4),
                "node": _Tube.draw(rng, [node, (node[0] + 14, node[1] - 4), (node[0] + 24, node[1] + 6)], (8, 9, 7)),
            },
        )

    def tissues(self, points: Points) -> TissueMap:
        """What is seen at points, without instruments.

        Args:
            points: x, y and z = 0 in mm, of one common shape.
        """
        seen = TissueMap(points[0].shape)
        uneven: Field = self._outline.at(points)
        width, height, power = self._cavity
        seen.paint(-(ellipse_column(points, (0.0, -17.0), (width, height), power) + uneven), "abdominal_wall")
        for name in ("retroperitoneum", "bladder"):
            seen.paint(self._discs[name].distance(points) + np.float32(0.5) * uneven, name)
        for name in ("pancreas", "node", "duodenum", "small_intestine", "colon", "stomach"):
            seen.paint(self._tubes[name].distance(points) + np.float32(0.25) * uneven, name)
        for name in ("spleen", "liver"):
            seen.paint(self._discs[name].distance(points) + np.float32(0.5) * uneven, name)
        # the omentum hangs down from stomach and colon
        apron = (np.float32(self._omentum_level) - self._omentum.at(points)) * 20
        seen.paint(apron, "fat", ~seen.holds("abdominal_wall", "liver", "spleen"))
        return seen
