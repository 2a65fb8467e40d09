"""Toy downloads whose organs of both sides have one label, for the tests of `--split-sides`."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np

from nnunet_partial.conversion import Case, Converter, LabelMap
from nnunet_partial.conversion.engine import ConversionResult
from nnunet_partial.labels import load_dataset_json
from nnunet_partial.labels.verify import verify_dataset
from tests.conversion_fakes.scene import write_nifti
from tests.unit.conversion.conftest import Toy, canonical, one_case

SHAPE = (40, 24, 20)
"""Axes run to the right, to the front and up; the middle of the body lies between voxels 21 and 22 of the first."""
LEFT, RIGHT = (slice(8, 14), slice(6, 12), slice(5, 13)), (slice(30, 36), slice(6, 12), slice(6, 14))
SPACING = np.diag([1.5, 1.5, 2.0, 1.0])
KITS = {"labels": ["kidney_tissue", "kidney_tumor", "kidney_cyst"], "classes": ("kidneys", "kidney_mass")}

Region = tuple[slice, ...]


def body() -> np.ndarray:
    """Tissue in air, to the right of the middle of the image."""
    image = np.full(SHAPE, -1000, np.int16)
    image[4:40, 3:21] = 40
    image[10:12, 8:10] = 300
    return image


def drawn(**regions: Region | list[Region]) -> dict[str, np.ndarray]:
    """Structure to its voxels; later ones take the place of earlier ones."""
    found: dict[str, np.ndarray] = {}
    for name, listed in regions.items():
        mask = np.zeros(SHAPE, bool)
        for region in listed if isinstance(listed, list) else [listed]:
            mask[region] = True
        found = {other: earlier & ~mask for other, earlier in found.items()} | {name: mask}
    return found


def box(x: int, y: int, z: int, size: int = 1) -> Region:
    return tuple(slice(first, first + size) for first in (x, y, z))


def write(
    download: Toy, structures: dict[str, np.ndarray], names: list[str], affine: np.ndarray = SPACING, axes: str = "RAS"
) -> None:
    values = sum((mask * (names.index(name) + 1) for name, mask in structures.items()), np.zeros(SHAPE, int))
    write_nifti(download.image("a"), body(), affine, axes)
    write_nifti(download.label("a"), values.astype(np.uint8), affine, axes)


def converter_of(download: Toy, **table: Any) -> Converter:
    """Of case a."""
    return one_case(lambda root: Case("a", image=download.image("a"), label=LabelMap(download.label("a"))), **table)


def split(
    download: Toy, structures: dict[str, np.ndarray], table: dict[str, Any], affine: np.ndarray = SPACING, **how: Any
) -> tuple[dict[str, np.ndarray], ConversionResult]:
    """Label to its voxels after splitting, for labels that occur; and the dataset."""
    write(download, structures, table["labels"], affine, how.pop("axes", "RAS"))
    result = download.convert(converter_of(download, **table), split_sides=True, **how)
    assert verify_dataset(result.folder).problems == []
    return marked(result), result


def marked(result: ConversionResult, case: str = "a") -> dict[str, np.ndarray]:
    values = load_dataset_json(result.folder)["labels"]
    image = nib.load(result.folder / "labelsTr" / f"{case}.nii.gz")
    labels = canonical(result.folder / "labelsTr" / f"{case}.nii.gz")
    assert image.ndim == 3
    found = {name: labels == value for name, value in values.items() if name != "background"}
    return {name: mask for name, mask in found.items() if mask.any()}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, mask in expected.items():
        np.testing.assert_array_equal(found[name], mask, err_msg=name)


def turned(degrees: float, axis: int) -> np.ndarray:
    """A rotation of world coordinates."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    first, second = (other for other in range(3) if other != axis)
    rotation = np.eye(4)
    rotation[[first, first, second, second], [first, second, first, second]] = cosine, -sine, sine, cosine
    return rotation


def outcome(result: ConversionResult) -> dict[str, dict[str, int]]:
    return {organ: dict(counts) for organ, counts in result.sides.items()}
