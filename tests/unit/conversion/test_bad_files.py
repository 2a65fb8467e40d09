"""Damaged and wrong files: one clear error each, the other cases are done, and a repaired download is completed."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.errors import ProblemsError
from tests.unit.conversion.conftest import Toy

Damage = Callable[[Path], object]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flip_bits_of_the_checksum(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-6] ^= 255
    path.write_bytes(content)


def flip_bits_inside(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 20):
        content[place] ^= 90
    path.write_bytes(content)


def cut_the_voxels(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-100]))


def cut_the_header(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:200]))


def make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").write_text("else")


def header(**fields: object) -> Damage:
    def damage(path: Path) -> None:
        content = bytearray(gzip.decompress(path.read_bytes()))
        image_header = nib.Nifti1Header(bytes(content[:348]), check=False)
        for name, value in fields.items():
            image_header[name] = value
        content[:348] = image_header.binaryblock
        path.write_bytes(gzip.compress(bytes(content)))

    return damage


def voxels(change: Callable[[np.ndarray], np.ndarray], dtype: object = None) -> Damage:
    def damage(path: Path) -> None:
        image = nib.load(path)
        array = change(np.asarray(image.dataobj).copy())
        nib.save(nib.Nifti1Image(array.astype(dtype) if dtype else array, image.affine), path)

    return damage


def affine(change: Callable[[np.ndarray], object]) -> Damage:
    def damage(path: Path) -> None:
        image = nib.load(path)
        matrix = image.affine.copy()
        change(matrix)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj).copy(), matrix), path)

    return damage


def set_first(value: float, dtype: object) -> Damage:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(dtype)
        array.flat[0] = value
        return array

    return voxels(change)


def one_coordinate(row: int, column: int, change: Callable[[float], float]) -> Damage:
    def edit(matrix: np.ndarray) -> None:
        matrix[row, column] = change(matrix[row, column])

    return affine(edit)


RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
BOTH: dict[str, tuple[Damage, str]] = {
    "truncated": (truncate, "the compressed file is damaged or cut short .*download it again"),
    "wrong checksum": (flip_bits_of_the_checksum, "the compressed file is damaged"),
    "bits turned over": (flip_bits_inside, "the compressed file is damaged|not a NIfTI image"),
    "empty": (lambda path: path.write_bytes(b""), r"the file is empty \(0 bytes\)"),
    "text": (lambda path: path.write_text("<html>please log in</html>" * 40), "not a NIfTI image"),
    "packed text": (lambda path: path.write_bytes(gzip.compress(b"<html>" * 100)), "not a NIfTI image"),
    "voxels missing": (cut_the_voxels, "the file is cut short"),
    "header cut": (cut_the_header, "not a NIfTI image"),
    "a folder": (make_a_folder, "cannot be read|Is a directory"),
    "no voxels": (header(dim=[3, 0, 8, 7, 1, 1, 1, 1]), "expected voxels along every axis"),
    "unknown voxel type": (header(datatype=9999), "not a NIfTI image"),
    "no voxel type": (header(datatype=0), "not a NIfTI image .its header says 0 for the type"),
    "voxels before the file": (header(vox_offset=-100), "voxels are said to begin at byte -100"),
    "voxels in the header": (header(vox_offset=0), "voxels are said to begin at byte 0, but its header takes 348"),
    "more voxels than can be counted": (header(dim=[7, *[32767] * 7]), "the file is cut short: .* asks for [0-9]{30}"),
    "axes of no length": (header(srow_x=0, srow_y=0, srow_z=0), "the header's axes make no sense"),
    "axes that are no numbers": (header(srow_x=np.nan), "the header's axes make no sense"),
    "four dimensions": (voxels(lambda array: np.stack([array] * 2, -1)), "expected a 2D or 3D image"),
}
IMAGES: dict[str, tuple[Damage, str]] = {
    "two dimensions": (voxels(lambda array: array[..., 0]), r"expected 3 dimensions, found shape \(9, 8\)"),
    "not a number": (set_first(np.nan, np.float32), "1 voxels are NaN or infinite"),
    "infinite": (set_first(np.inf, np.float32), "1 voxels are NaN or infinite"),
    "complex": (voxels(lambda array: array.astype(np.complex64)), "expected one intensity a voxel, found complex64"),
    "coloured": (voxels(lambda array: np.zeros(array.shape, RGB)), "expected one intensity a voxel"),
    "other shape": (voxels(lambda array: array[:, :, 1:]), "the image has shape .* the label map"),
}
LABELS: dict[str, tuple[Damage, str]] = {
    "other shape": (voxels(lambda array: array[1:]), "does not lie on its image a.nii.gz: the image has shape"),
    "two dimensions": (voxels(lambda array: array[..., 0]), "does not lie on its image"),
    "other spacing": (affine(lambda m: m.__setitem__((slice(3), slice(3)), m[:3, :3] * 1.1)), "corners lie up to"),
    "shifted": (one_coordinate(0, 3, lambda x: x + 1.5), "corners lie up to 1.5 mm apart"),
    "turned by a header": (one_coordinate(0, 0, lambda x: -x), "corners lie up to"),
    "sheared": (one_coordinate(0, 1, lambda x: x + 0.2), "corners lie up to"),
    "fractions": (set_first(0.5, np.float32), "label values must be whole numbers, found 0.5 in 1 voxels"),
    "not a number": (set_first(np.nan, np.float32), "label values must be whole numbers, found nan in 1 voxels"),
    "infinite": (set_first(np.inf, np.float32), "whole numbers, found inf|expected label values, found inf"),
    "far too large": (set_first(1e12, np.float64), r"expected label values, found 1e\+12"),
    "negative": (set_first(-1, np.int16), r"unknown label values \(-1 in 1 voxels\), known are \[0, 1, 2, 3\]"),
    "unknown": (set_first(9, np.uint8), r"unknown label values \(9 in 1 voxels\), known are \[0, 1, 2, 3\]"),
    "coloured": (voxels(lambda array: np.zeros(array.shape, RGB)), "expected one label a voxel"),
    "intensities": (voxels(lambda array: np.arange(array.size).reshape(array.shape), np.int32), "unknown label values"),
}
CASES = [
    *[("image", name, *entry) for name, entry in {**BOTH, **IMAGES}.items()],
    *[("label", name, *entry) for name, entry in {**BOTH, **LABELS}.items()],
]


@pytest.mark.parametrize(("kind", "name", "damage", "message"), CASES, ids=[f"{k}: {n}" for k, n, _, _ in CASES])
def test_one_bad_file(
    kind: str,
    name: str,
    damage: Damage,
    message: str,
    download: Toy,
    content: Callable[[Path], dict[str, bytes]],
) -> None:
    bad = download.image("a") if kind == "image" else download.label("a")
    good = bad.read_bytes()
    damage(bad)
    with pytest.raises(ProblemsError, match=message) as caught:
        download.convert()
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith("case 'a': ")
    assert bad.name in caught.value.problems[0]
    assert "1 of 3 cases of Toy failed, the others are done" in str(caught.value)
    assert not download.target.exists()
    assert not (download.building / "labelsTr" / "a.nii.gz").exists()
    assert {p.stem for p in (download.building / "records").iterdir()} == {"b", "c"}
    assert not [p for p in download.building.rglob(".*") if p.is_file()]
    finished = {n: c for n, c in content(download.building).items() if "/b" in n or "/c" in n}

    if bad.is_dir():
        (bad / "something").unlink()
        bad.rmdir()
    bad.write_bytes(good)
    folder = download.convert().folder
    converted = content(folder)
    assert {n: c for n, c in converted.items() if n in finished} == {
        n: c for n, c in finished.items() if not n.startswith("records")
    }
    assert sorted(n for n in converted if "Tr" in n) == [
        *(f"imagesTr/{case}_0000.nii.gz" for case in "abc"),
        *(f"labelsTr/{case}.nii.gz" for case in "abc"),
    ]
    np.testing.assert_array_equal(
        np.asarray(nib.load(folder / "labelsTr" / "a.nii.gz").dataobj),
        np.asarray(nib.load(download.label("a")).dataobj),
    )


def test_a_bad_case_can_be_left_out(download: Toy) -> None:
    truncate(download.label("b"))
    with pytest.raises(ProblemsError):
        download.convert()
    result = download.convert(exclude=("b",))
    assert sorted(p.name for p in (result.folder / "labelsTr").iterdir()) == ["a.nii.gz", "c.nii.gz"]
    assert sorted(p.name for p in (result.folder / "imagesTr").iterdir()) == ["a_0000.nii.gz", "c_0000.nii.gz"]
    assert dict(result.plan.left_out) == {"b": "left out by --exclude"}


def test_all_bad_cases_are_named_at_once(download: Toy) -> None:
    truncate(download.label("b"))
    download.image("c").write_bytes(b"")
    with pytest.raises(ProblemsError, match="2 of 3 cases of Toy failed") as caught:
        download.convert(processes=2)
    assert [line.split(":")[0] for line in caught.value.problems] == ["case 'b'", "case 'c'"]
