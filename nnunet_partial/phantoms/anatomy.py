"""Procedural anatomy of an abdominal trunk: where each organ lies, in millimetres.

Coordinates are x to the patient's right, y anterior, z superior, with the origin in the middle of the trunk.
They belong to a reference patient; `Anatomy.reference` maps a patient's points there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_partial.phantoms.levelsets import (
    Ellipsoid,
    Field,
    Points,
    Vector,
    Waves,
    ellipse_column,
    rotation_matrix,
    smooth_union,
    triple,
    tube,
)

_CAVITY_CENTRE = (0.0, 6.0)
_CAVITY_AXES = (116.0, 72.0)
_TUMOUR_CANDIDATES = 300
# Room between a tumour and the liver's surface: wider than the default voxel, so that a rim of liver shows.
_TUMOUR_MARGIN_MM = 6.5


def _jittered(rng: np.random.Generator, centre: Vector, radii: Vector, turn: NDArray[np.float64]) -> Ellipsoid:
    moved = np.array(centre) + rng.uniform(-5, 5, size=3)
    resized = np.array(radii) * rng.uniform(0.92, 1.07) * rng.uniform(0.95, 1.05, size=3)
    wobble = rotation_matrix(rng.normal(size=3), float(rng.uniform(-10, 10)))
    return Ellipsoid(triple(float(v) for v in moved), triple(float(v) for v in resized), turn @ wobble)


def _draw_aorta(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    heights = np.linspace(-160, 160, 7)
    bend = rng.uniform(3, 7) * np.sin(heights / 90 + rng.uniform(-0.5, 0.5))
    x = -10 - bend + rng.uniform(-3, 3)
    y = -9 + 2 * np.cos(heights / 100 + rng.uniform(-0.5, 0.5)) + rng.uniform(-1, 2)
    radii = rng.uniform(10.5, 12) + heights * 0.008
    return np.stack([x, y, heights], axis=1), radii


def _draw_pancreas(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # Head, neck in front of the great vessels, body, tail towards the hilum of the spleen.
    knots = np.array(
        [(32, 14, -30), (30, 17, -14), (16, 25, -2), (-4, 29, 4), (-26, 24, 9), (-46, 12, 15), (-63, 0, 21)],
        dtype=np.float64,
    )
    knots += rng.uniform(-4, 4, size=3) + rng.uniform(-2, 2, size=knots.shape)
    radii = np.array([13, 14, 11.5, 11, 11.5, 11.5, 10]) * rng.uniform(0.95, 1.1)
    return knots, radii


@dataclass(frozen=True)
class Anatomy:
    """One patient's organs.

    Attributes:
        size: factor along x, y, z from the reference patient to this one.
        bending: three fields of displacement, one an axis, in mm.
        fat_mm: thickness of the fat under the skin at the flanks.
        lobes: right and left lobe of the liver.
        spleen: the spleen.
        kidneys: left and right kidney.
        aorta: knots and radii of the aorta in mm, shapes (n, 3) and (n,).
        pancreas: knots and radii of the pancreas in mm, shapes (n, 3) and (n,).
        outline: irregularity of the organs' surfaces, in mm.
        bowel: field whose high values are bowel loops.
        disc_phase: position of the intervertebral discs, as a share of a vertebra's height.
    """

    size: NDArray[np.float64]
    bending: tuple[Waves, Waves, Waves]
    fat_mm: float
    lobes: tuple[Ellipsoid, Ellipsoid]
    spleen: Ellipsoid
    kidneys: tuple[Ellipsoid, Ellipsoid]
    aorta: tuple[NDArray[np.float64], NDArray[np.float64]]
    pancreas: tuple[NDArray[np.float64], NDArray[np.float64]]
    outline: Waves
    bowel: Waves
    disc_phase: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Anatomy:
        """A random patient.

        Args:
            rng: source of the draw.

        Returns:
            The drawn anatomy.
        """

        def organ(centre: Vector, radii: Vector, axis: Vector = (0, 0, 1), degrees: float = 0.0) -> Ellipsoid:
            return _jittered(rng, centre, radii, rotation_matrix(np.array(axis, dtype=np.float64), degrees))

        return cls(
            size=rng.uniform(0.94, 1.06) * rng.uniform(0.98, 1.02, size=3),
            bending=triple(Waves.draw(rng, 3, (150.0, 300.0), 8.0) for _ in range(3)),
            fat_mm=float(rng.uniform(6, 22)),
            lobes=(organ((60, 6, 30), (60, 62, 70)), organ((4, 36, 46), (64, 29, 36), (0, 1, 0), 12)),
            spleen=organ((-88, -18, 38), (25, 39, 47), (0, 1, 0), -18),
            kidneys=(
                organ((-60, -27, -26), (27, 25, 51), (0, 1, 0), -10),
                organ((62, -27, -36), (27, 25, 50), (0, 1, 0), 10),
            ),
            aorta=_draw_aorta(rng),
            pancreas=_draw_pancreas(rng),
            outline=Waves.draw(rng, 5, (45.0, 100.0), 7.0),
            bowel=Waves.draw(rng, 6, (42.0, 70.0), 1.0),
            disc_phase=float(rng.uniform()),
        )

    def reference(self, points: Points) -> Points:
        """Maps a patient's points to the reference patient.

        Args:
            points: x, y, z in mm, relative to the middle of the trunk.

        Returns:
            x, y, z in mm in the reference patient, of the same shape.
        """
        return triple(
            (point + waves.at(points)) / np.float32(factor)
            for point, waves, factor in zip(points, self.bending, self.size, strict=True)
        )

    def skin(self, points: Points) -> Field:
        """Signed distance to the outside of the trunk."""
        half_axes = (_CAVITY_AXES[0] + 12 + self.fat_mm, 92 + 0.6 * self.fat_mm)
        return ellipse_column(points, (0.0, -4.0), half_axes, 2.3)

    def cavity(self, points: Points) -> Field:
        """Signed distance to the abdominal and thoracic cavity, inside the muscle wall."""
        return ellipse_column(points, _CAVITY_CENTRE, _CAVITY_AXES, 2.2)

    def above_diaphragm(self, points: Points) -> Field:
        """Height above the two domes of the diaphragm, in mm."""
        x, y, _ = points
        domes = [
            height - ((x - middle) / np.float32(62)) ** 2 * 34 - ((y - 8) / np.float32(62)) ** 2 * 22
            for middle, height in ((58.0, 90.0), (-58.0, 80.0))
        ]
        return points[2] - np.maximum(domes[0], domes[1])

    def vertebrae(self, points: Points) -> tuple[Field, Field, Field]:
        """Signed distances to the vertebrae with their processes, to the discs and to the spinal canal."""
        x, y, z = points
        column = ellipse_column(points, (0.0, -42.0), (22.0, 18.0), 2.0)
        phase = np.mod(z / np.float32(36) + np.float32(self.disc_phase), 1)
        discs = np.maximum(column, (np.abs(phase - np.float32(0.5)) - np.float32(0.11)) * 36)
        canal = ellipse_column(points, (0.0, -67.0), (10.0, 8.0), 2.0)
        arch = ellipse_column(points, (0.0, -67.0), (17.0, 14.0), 2.0)
        spinous = np.maximum(np.abs(x) - 5, np.abs(y + 84) - 11)
        transverse = np.maximum(np.abs(x) - 38, np.abs(y + 66) - 5)
        wings = np.maximum(np.minimum(spinous, transverse), (phase - np.float32(0.4)) * 36)
        processes = np.minimum(arch, wings)
        return np.minimum(column, processes), discs, canal

    def ribs(self, points: Points) -> Field:
        """Signed distance to the ribs, oblique hoops in the wall of the upper cavity."""
        _, y, z = points
        phase = np.mod((z - np.float32(0.45) * y) / np.float32(30), 1)
        hoops = (np.abs(phase - np.float32(0.5)) - np.float32(0.17)) * 30
        shell = np.abs(self.cavity(points) - 5) - 3.5
        return np.maximum(np.maximum(hoops, shell), np.maximum(-25 - z, y - 50)).astype(np.float32)

    def kidney(self, points: Points, side: int) -> tuple[Field, Field]:
        """Signed distances to a kidney and to its pelvis.

        Args:
            points: x, y, z in mm in the reference patient.
            side: 0 for left, 1 for right.

        Returns:
            Distance to the whole kidney and to the pelvis, which is a part of it.
        """
        body = self.kidneys[side]
        inwards = 1.0 if side == 0 else -1.0
        x, y, z = body.centre
        hilum = Ellipsoid((x + inwards * 27, y + 8, z), (13, 11, 17), np.eye(3))
        pelvis = Ellipsoid((x + inwards * 9, y + 3, z), (10, 8, 22), np.eye(3))
        outline = body.distance(points) + np.float32(0.3) * self.outline.at(points)
        kidney = np.maximum(outline, -hilum.distance(points))
        return kidney, np.maximum(kidney, pelvis.distance(points))

    def vena_cava(self, points: Points) -> Field:
        """Signed distance to the inferior vena cava, to the right of the aorta."""
        knots, _ = self.aorta
        return tube(points, knots[[0, 2, -1]] * (-1, 1, 1) + (14, 1, 0), np.array([10.0, 11.0, 12.0]))

    def liver(self, points: Points) -> Field:
        """Signed distance to the liver, which kidney, pancreas, great vessels and spine indent."""
        lobes = smooth_union(self.lobes[0].distance(points), self.lobes[1].distance(points), 18.0)
        lobes = lobes + self.outline.at(points)
        limits = [self.cavity(points) + 2, self.above_diaphragm(points) + 3]
        neighbours = [
            self.kidney(points, 1)[0],
            self.vena_cava(points),
            tube(points, *self.aorta),
            tube(points, *self.pancreas),
            self.vertebrae(points)[0],
        ]
        for limit in (*limits, *(3 - neighbour for neighbour in neighbours)):
            lobes = np.maximum(lobes, limit)
        return lobes

    def draw_tumours(self, rng: np.random.Generator, count: int) -> tuple[Ellipsoid, ...]:
        """Random tumours inside the liver.

        Args:
            rng: source of the draw.
            count: number of tumours, 0 or more.

        Returns:
            The tumours, apart from each other where the liver leaves room for it.
        """
        directions = np.random.default_rng(0).normal(size=(48, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        directions = np.concatenate([directions, np.zeros((1, 3))])
        tumours: list[Ellipsoid] = []
        for index in range(count):
            # The first is never of the smallest, so that every phantom has enough tumour to learn from.
            radius = float(rng.uniform(11.5 if index == 0 else 9.0, 16.0))
            centres = rng.uniform((-30, -45, -35), (115, 65, 70), size=(_TUMOUR_CANDIDATES, 3))
            probes = centres[:, None] + (radius + _TUMOUR_MARGIN_MM) * directions
            inside = self.liver(triple(np.moveaxis(probes, -1, 0).astype(np.float32))) < 0
            score = inside.mean(axis=1)
            for other in tumours:
                apart = np.linalg.norm(centres - other.centre, axis=1) > radius + max(other.radii) + 4
                score -= 0.05 * ~apart
            radii = radius * rng.uniform(0.9, 1.0, size=3)
            radii[int(rng.integers(3))] = radius
            turn = rotation_matrix(rng.normal(size=3), float(rng.uniform(0, 180)))
            centre = triple(float(v) for v in centres[int(score.argmax())])
            tumours.append(Ellipsoid(centre, triple(float(v) for v in radii), turn))
        return tuple(tumours)
