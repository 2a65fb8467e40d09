"""Signed distances of simple solids, from which the phantom's anatomy is put together.

Every function takes points as three arrays (x, y, z) in millimetres and returns an approximate signed
distance in millimetres, negative inside. Union is a minimum, intersection a maximum, complement a change
of sign.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Field: TypeAlias = NDArray[np.float32]
Points: TypeAlias = tuple[Field, Field, Field]
Vector: TypeAlias = tuple[float, float, float]

_T = TypeVar("_T")


def triple(items: Iterable[_T]) -> tuple[_T, _T, _T]:
    """Exactly three items as a tuple whose type says so."""
    first, second, third = items
    return first, second, third


def rotation_matrix(axis: NDArray[np.float64], degrees: float) -> NDArray[np.float64]:
    """Rotation about an axis by Rodrigues' formula.

    Args:
        axis: direction, shape (3,), any length above zero.
        degrees: angle, right-handed about the axis.

    Returns:
        Rotation matrix, shape (3, 3), determinant +1.
    """
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    angle = np.deg2rad(degrees)
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * (cross @ cross))


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid that may be turned about its centre.

    Attributes:
        centre: centre in mm.
        radii: half axes in mm, above zero.
        rotation: rows are the directions of the half axes, shape (3, 3).
    """

    centre: Vector
    radii: Vector
    rotation: NDArray[np.float64]

    def distance(self, points: Points) -> Field:
        """First-order signed distance, f / |grad f| with f = |q| - 1 (Taubin, 1994).

        Args:
            points: x, y, z in mm, of one common shape.

        Returns:
            Signed distance in mm, of that shape.
        """
        offsets = [point - np.float32(middle) for point, middle in zip(points, self.centre, strict=True)]
        squared_norm = np.zeros_like(offsets[0])
        squared_slope = np.zeros_like(offsets[0])
        for row, radius in zip(self.rotation.astype(np.float32), self.radii, strict=True):
            along = row[0] * offsets[0] + row[1] * offsets[1] + row[2] * offsets[2]
            along = (along * np.float32(1.0 / radius)) ** 2
            squared_norm += along
            squared_slope += along * np.float32(1.0 / radius**2)
        norm = np.sqrt(squared_norm)
        distance = (norm - 1) * norm / np.sqrt(squared_slope + np.float32(1e-12))
        # The quotient vanishes at the very centre, which is inside.
        return np.where(norm < 1e-3, np.float32(-min(self.radii)), distance).astype(np.float32)


def ellipse_column(points: Points, centre: tuple[float, float], half_axes: tuple[float, float], power: float) -> Field:
    """Signed distance to an upright column with a superelliptic cross-section.

    Args:
        points: x, y, z in mm.
        centre: x and y of the axis in mm.
        half_axes: half width along x and half depth along y in mm.
        power: 2 for an ellipse, larger for a boxier outline.

    Returns:
        Approximate signed distance in mm, scaled by the smaller half axis.
    """
    across = np.abs((points[0] - np.float32(centre[0])) / np.float32(half_axes[0])) ** np.float32(power)
    deep = np.abs((points[1] - np.float32(centre[1])) / np.float32(half_axes[1])) ** np.float32(power)
    radius: Field = (across + deep) ** np.float32(1.0 / power)
    return (radius - 1) * np.float32(min(half_axes))


def tube(points: Points, knots: NDArray[np.float64], radii: NDArray[np.float64]) -> Field:
    """Signed distance to a chain of tapered segments.

    Args:
        points: x, y, z in mm.
        knots: centre line in mm, shape (n, 3), n at least 2.
        radii: radius at each knot in mm, shape (n,); linear in between.

    Returns:
        Signed distance in mm (exact where the radius is constant).
    """
    nearest = np.full_like(points[0], np.inf)
    for start, end, first, last in zip(knots[:-1], knots[1:], radii[:-1], radii[1:], strict=True):
        way = (end - start).astype(np.float32)
        offsets = [point - np.float32(origin) for point, origin in zip(points, start, strict=True)]
        share = (offsets[0] * way[0] + offsets[1] * way[1] + offsets[2] * way[2]) / np.dot(way, way)
        share = np.clip(share, 0, 1)
        squared = sum((offset - share * step) ** 2 for offset, step in zip(offsets, way, strict=True))
        radius = np.float32(first) + share * np.float32(last - first)
        nearest = np.minimum(nearest, np.sqrt(squared) - radius)
    return nearest


def smooth_union(first: Field, second: Field, width: float) -> Field:
    """Union of two solids with a fillet, by a quadratic blend of their distances.

    Args:
        first: signed distance in mm.
        second: signed distance in mm, of the same shape.
        width: distance over which the two blend, in mm, above zero.

    Returns:
        Signed distance in mm, of the same shape.
    """
    overlap = np.maximum(np.float32(width) - np.abs(first - second), 0) / np.float32(width)
    blended: Field = np.minimum(first, second) - overlap * overlap * np.float32(width / 4)
    return blended


@dataclass(frozen=True)
class Waves:
    """A smooth random field: a sum of plane sine waves.

    Attributes:
        vectors: wave vectors in rad/mm, shape (n, 3).
        phases: phases in rad, shape (n,).
        amplitude: bound of the absolute value of the field.
    """

    vectors: NDArray[np.float64]
    phases: NDArray[np.float64]
    amplitude: float

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int, wavelengths: tuple[float, float], amplitude: float) -> Waves:
        """Waves in random directions.

        Args:
            rng: source of the draw.
            count: number of waves, at least 1.
            wavelengths: shortest and longest wavelength in mm.
            amplitude: bound of the absolute value of the field.

        Returns:
            The drawn waves.
        """
        directions = rng.normal(size=(count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = rng.uniform(*wavelengths, size=(count, 1))
        return cls(2 * np.pi * directions / lengths, rng.uniform(0, 2 * np.pi, size=count), amplitude)

    def at(self, points: Points) -> Field:
        """Values of the field at points.

        Args:
            points: x, y, z in mm, of one common shape.

        Returns:
            Field in [-amplitude, amplitude], of that shape.
        """
        total = np.zeros_like(points[0])
        for vector, phase in zip(self.vectors.astype(np.float32), self.phases, strict=True):
            angle = vector[0] * points[0] + vector[1] * points[1] + vector[2] * points[2]
            total += np.sin(angle + np.float32(phase))
        total *= np.float32(self.amplitude / len(self.phases))
        return total
