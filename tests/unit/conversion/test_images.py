"""Images in converted datasets: linked, copied or written anew, from every format; channels and pictures."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from nnunet_partial.conversion import Case, Converter, LabelMap, Masks
from nnunet_partial.conversion.image_writing import resized_labels
from nnunet_partial.errors import LabelError, ProblemsError
from nnunet_partial.labels import load_dataset_json
from tests.conversion_fakes.scene import numbered, write_nifti, write_picture
from tests.unit.conversion.conftest import (
    NAMES,
    Toy,
    canonical,
    cases_with,
    toy,
)

VALUES = numbered(NAMES)


# images


def test_images_are_copied_bit_by_bit_or_linked(download: Toy) -> None:
    result = download.convert()
    assert dict(result.images) == {"copied": 3}
    copy = result.folder / "imagesTr" / "a_0000.nii.gz"
    assert not copy.is_symlink()
    assert copy.read_bytes() == download.image("a").read_bytes()
    result = download.convert(link=True, overwrite=True)
    assert dict(result.images) == {"linked": 3}
    assert copy.resolve() == download.image("a").resolve()


def test_turned_images_are_written_anew(download: Toy) -> None:
    write_nifti(download.image("b"), download.scenes["b"].image, download.scenes["b"].affine, "RAS")
    result = download.convert(link=True, orientation="RAS")
    assert dict(result.images) == {"converted": 2, "linked": 1}
    for case, scene in download.scenes.items():
        image = nib.load(result.folder / "imagesTr" / f"{case}_0000.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj), scene.image)
        np.testing.assert_allclose(image.affine, scene.affine)
        label = nib.load(result.folder / "labelsTr" / f"{case}.nii.gz")
        np.testing.assert_array_equal(np.asarray(label.dataobj), scene.values(VALUES))
        np.testing.assert_allclose(label.affine, scene.affine)


@pytest.mark.parametrize("ending", [".nii", ".nrrd", ".mha", ".mhd", ".NII.GZ"])
def test_other_formats_become_compressed_nifti(ending: str, download: Toy) -> None:
    scene = download.scenes["a"]
    image, label = (download.download / f"{kind}{ending}" for kind in ("image", "label"))
    for path, array in ((image, scene.image), (label, scene.values(VALUES))):
        if ending.lower().startswith(".nii"):
            content = nib.Nifti1Image(array, scene.affine).to_bytes()
            path.write_bytes(gzip.compress(content) if ending == ".NII.GZ" else content)
        else:
            stored = sitk.GetImageFromArray(array.T)
            stored.SetSpacing(np.diag(scene.affine)[:3].tolist())
            stored.SetDirection(np.diag([-1.0, -1.0, 1.0]).ravel().tolist())
            stored.SetOrigin((scene.affine[:3, 3] * [-1, -1, 1]).tolist())
            sitk.WriteImage(stored, str(path))

    def cases(root: Path) -> Iterator[Case]:
        yield Case("a", image=image, label=LabelMap(label))

    result = download.convert(toy(cases=cases), link=True)
    assert dict(result.images) == {"converted": 1}
    for folder, expected in (("imagesTr/a_0000.nii.gz", scene.image), ("labelsTr/a.nii.gz", scene.values(VALUES))):
        np.testing.assert_array_equal(canonical(result.folder / folder), expected)
    np.testing.assert_allclose(nib.load(result.folder / "imagesTr" / "a_0000.nii.gz").affine, scene.affine, atol=1e-5)
    sources = json.loads((result.folder / "conversion.json").read_text())["cases"]["a"]["sources"]
    assert len(sources) == (4 if ending == ".mhd" else 2)


@pytest.mark.parametrize(
    ("stored", "scale", "dtype"),
    [
        (np.uint16, (1, -1024), np.int16),
        (np.int32, None, np.int16),
        (np.float64, (0.5, 0), np.float32),
        (np.uint8, None, np.uint8),
    ],
)
def test_intensities_are_kept_in_a_small_type(
    stored: type, scale: tuple[float, float] | None, dtype: type, download: Toy
) -> None:
    array = np.random.default_rng(0).integers(0, 200, (9, 8, 7, 1)).astype(stored)  # a fourth axis of one volume
    image = nib.Nifti1Image(array, download.scenes["a"].affine)
    if scale:
        image.header.set_slope_inter(*scale)
    nib.save(image, download.image("a"))
    expected = np.asarray(nib.load(download.image("a")).dataobj)[..., 0]
    write_nifti(download.label("a"), download.scenes["a"].values(VALUES), download.scenes["a"].affine)
    result = download.convert(exclude=("b", "c"))
    written = nib.load(result.folder / "imagesTr" / "a_0000.nii.gz")
    assert written.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asarray(written.dataobj), expected)


def test_big_endian_and_nifti_2(download: Toy) -> None:
    scene = download.scenes["a"]
    nib.save(nib.Nifti2Image(scene.image, scene.affine), download.image("a"))
    header = nib.Nifti1Header(endianness=">")
    label = nib.Nifti1Image(scene.values(VALUES, np.int16), scene.affine, header)
    nib.save(label, download.label("a"))
    assert gzip.decompress(download.label("a").read_bytes())[:4] == b"\0\0\x01\x5c"
    result = download.convert(orientation="RAS")
    np.testing.assert_array_equal(canonical(result.folder / "imagesTr" / "a_0000.nii.gz"), scene.image)
    np.testing.assert_array_equal(canonical(result.folder / "labelsTr" / "a.nii.gz"), scene.values(VALUES))


def test_channels_are_files_of_one_case(download: Toy) -> None:
    cases = cases_with(a={"image": (download.image("a"), download.image("a"))})
    with pytest.raises(LabelError, match="1 images for the channels"):
        download.convert(toy(cases=cases, channels=("CT", "PET")))
    both = toy(cases=lambda root: list(cases(root))[:1], channels=("CT", "PET"))
    folder = download.convert(both).folder
    assert {p.name for p in (folder / "imagesTr").iterdir()} == {"a_0000.nii.gz", "a_0001.nii.gz"}
    assert load_dataset_json(folder)["channel_names"] == {"0": "CT", "1": "PET"}
    moved = nib.load(download.image("b"))
    nib.save(nib.Nifti1Image(np.asarray(moved.dataobj), moved.affine * 2), download.image("b"))
    cases = cases_with(a={"image": (download.image("a"), download.image("b"))})
    with pytest.raises(ProblemsError, match="does not lie on the first channel of the case: corners lie up to"):
        download.convert(toy(cases=lambda root: list(cases(root))[:1], channels=("CT", "PET")), overwrite=True)


# pictures


def pictures(download: Toy, size: tuple[int, int] = (6, 5)) -> Converter:
    rng = np.random.default_rng(0)
    for case in "ab":
        write_picture(download.download / f"{case}.png", rng.integers(0, 256, (*size, 3)).astype(np.uint8))
        mask = np.zeros(size, np.uint8)
        mask[1:4, 2:] = 255
        write_picture(download.download / f"{case}_liver.png", np.stack([mask] * 3, -1))
        mask[:3], mask[3:] = 255, 0
        write_picture(download.download / f"{case}_spleen.png", mask)

    def cases(root: Path) -> Iterator[Case]:
        for case in "ab":
            files = {name: root / f"{case}_{name}.png" for name in ("liver", "spleen")}
            yield Case(case, image=root / f"{case}.png", label=Masks(files))

    return toy(cases=cases, labels=["liver", "spleen"], file_ending=".png", modality="RGB", channels=("R", "G", "B"))


def picture(path: Path) -> np.ndarray:
    return np.swapaxes(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), 0, 1)


def test_pictures(download: Toy) -> None:
    result = download.convert(pictures(download), link=True)
    assert dict(result.images) == {"linked": 2}
    dataset = load_dataset_json(result.folder)
    assert dataset["overwrite_image_reader_writer"] == "NaturalImage2DIO"
    assert dataset["labels"] == {"background": 0, "liver": 1, "spleen": 2, "liver+spleen": 3}
    labels = picture(result.folder / "labelsTr" / "a.png")
    liver, spleen = (picture(download.download / f"a_{name}.png") for name in ("liver", "spleen"))
    np.testing.assert_array_equal(labels, (liver[..., 0] > 0) + 2 * (spleen > 0).astype(int))


def test_pictures_of_another_size(download: Toy) -> None:
    result = download.convert(pictures(download), link=True, size=(12, 10))
    assert dict(result.images) == {"converted": 2}
    assert picture(result.folder / "imagesTr" / "a_0000.png").shape == (12, 10, 3)
    labels = picture(result.folder / "labelsTr" / "a.png")
    liver, spleen = (picture(download.download / f"a_{name}.png") for name in ("liver", "spleen"))
    small = (liver[..., 0] > 0) + 2 * (spleen > 0).astype(int)
    np.testing.assert_array_equal(labels, small.repeat(2, 0).repeat(2, 1))
    flat = np.full((6, 5, 3), 77, np.uint8)
    write_picture(download.download / "a.png", flat)
    result = download.convert(pictures(download), size=(3, 9), overwrite=True)
    assert picture(result.folder / "imagesTr" / "a_0000.png").shape == (3, 9, 3)


LARGE, SMALL = (1920, 1080), (640, 512)
PIXEL = LARGE[0] / SMALL[0] * LARGE[1] / SMALL[1]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("place", range(500, 506))
def test_lines_along_an_axis_survive_shrinking(place: int, axis: int) -> None:
    labels = np.zeros(LARGE, np.uint16)
    labels[(slice(None),) * axis + (slice(place, place + 2),)] = 3
    found = resized_labels(labels, SMALL, [[3]])
    np.testing.assert_array_equal((found == 3).sum(axis), 1)
    assert set(np.unique(found)) == {0, 3}


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("angle", [7, 30, 45, 63, 88, 120, 151])
def test_lines_of_any_direction_stay_whole(angle: float, width: int) -> None:
    x, y = (np.indices(LARGE).T - np.array([960.2, 540.3])).T
    along, across = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    line = (np.abs(x * across - y * along) <= width / 2) & (np.abs(x * along + y * across) < 400)
    found = resized_labels(line.astype(np.uint16), SMALL, [[1]])
    assert ndimage.label(found, np.ones((3, 3)))[1] == 1
    reach = np.ptp(np.argwhere(found), axis=0) * [LARGE[0] / SMALL[0], LARGE[1] / SMALL[1]]
    np.testing.assert_allclose(np.hypot(*reach), 800, atol=12)
    far = ndimage.distance_transform_edt(~ndimage.zoom(found > 0, (3, 1080 / 512), order=0))[line]
    assert far.max() < 5


def test_areas_of_large_structures_stay() -> None:
    x, y = np.indices(LARGE)
    labels = np.zeros(LARGE, np.uint16)
    labels[(x - 500) ** 2 + (y - 400) ** 2 < 200**2] = 1
    labels[(x - 1300) ** 2 / 4 + (y - 600) ** 2 < 150**2] = 2
    labels[301:1004, 700:911] = 3
    labels[1000:1150, 500:700] = 65535  # ignored
    before = labels.copy()
    labels[620:1400, 403:405] = 4  # a line through 1 and background, and above 2
    found = resized_labels(labels, SMALL, [[1], [2], [3], [4]])
    for value in (0, 1, 2, 3, 65535):
        np.testing.assert_allclose((found == value).sum() * PIXEL, (labels == value).sum(), rtol=0.01)
    plain = resized_labels(before, SMALL, [[1], [2], [3]])
    np.testing.assert_array_equal(found[found != 4], plain[found != 4])
    np.testing.assert_array_equal((found == 4).sum(1), [206 < pixel < 467 for pixel in range(640)])


def test_what_two_structures_share_is_no_thin_structure() -> None:
    """Masks that overlap by a line: the line has a value of its own, but neither of them is thin."""
    labels = np.zeros(LARGE, np.uint16)
    labels[300:901], labels[901:1500] = 1, 2
    labels[900] = 3
    found = resized_labels(labels, SMALL, [[1, 3], [2, 3]])
    assert not (found == 3).any()
    assert (resized_labels(labels, SMALL, [[1], [2], [3]]) == 3).any()


def test_specks_are_kept_where_they_fill_half_a_pixel() -> None:
    labels = np.zeros((60, 60), np.uint16)
    labels[9:12, 9:11], labels[30, 30] = 1, 2  # two thirds and a ninth of a box
    labels[39:42, 39], labels[39:42, 40] = 5, 6  # alike: the first
    found = resized_labels(labels, (20, 20), [[1], [2], [5], [6]])
    assert {tuple(at): found[tuple(at)] for at in np.argwhere(found).tolist()} == {(3, 3): 1, (13, 13): 5}
    half = np.array([[1, 0], [0, 0], [1, 1], [0, 0]], np.uint16)  # a fourth, and a half: ties are foreground
    np.testing.assert_array_equal(resized_labels(half, (2, 1), [[1]]), [[0], [1]])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:80]), "cannot be read as an image"),
        (lambda path: path.write_bytes(b""), r"the file is empty \(0 bytes\)"),
        (
            lambda path: write_picture(path, np.zeros((6, 5), np.uint8)),
            "expected a picture of 3 colour channels, found 1",
        ),
        (
            lambda path: write_picture(path, np.zeros((6, 4, 3), np.uint8)),
            r"the image has shape \(6, 4\), the label map",
        ),
    ],
    ids=["truncated", "empty", "grey", "other size"],
)
def test_pictures_that_cannot_be_used(harm: Callable[[Path], object], message: str, download: Toy) -> None:
    converter = pictures(download)
    harm(download.download / "b.png")
    with pytest.raises(ProblemsError, match=f"case 'b': .*{message}"):
        download.convert(converter)
