"""How labels are laid on their image: by their header, by the converter, or as the image tells; DICOM and pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.conversion import (
    ALL_FLIPS,
    Above,
    Case,
    Converter,
    Dicom,
    Intensity,
    LabelMap,
    LeftRight,
    Slices,
    Uniform,
)
from nnunet_partial.errors import ProblemsError
from tests.conversion_fakes.scene import (
    Scene,
    make_scene,
    numbered,
    write_dicom,
    write_nifti,
    write_picture,
)
from tests.unit.conversion.conftest import NAMES, Toy, labels_of, one_case, with_label

VALUES = numbered(NAMES)
SERIES = "series ä"


def with_intensities(scene: Scene) -> Scene:
    """The liver at 100 and the spleen in air, so that an image tells how its labels are turned."""
    image = np.full(scene.image.shape, -1000, np.int16)
    image[scene.structures["liver"]] = 100
    return Scene(image, scene.structures, scene.affine)


# placement


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAR", "IPL"])
def test_labels_are_brought_into_the_axes_of_their_image(axes: str, download: Toy) -> None:
    scene = download.scenes["a"]
    write_nifti(download.label("a"), scene.values(VALUES), scene.affine, axes)
    result = download.convert(with_label(lambda root: LabelMap(download.label("a"))))
    np.testing.assert_array_equal(labels_of(result), scene.values(VALUES))


def test_labels_with_the_right_directions_and_a_wrong_origin(download: Toy) -> None:
    scene = download.scenes["a"]
    wrong = scene.affine.copy()
    wrong[:3, 3] += 20
    write_nifti(download.label("a"), scene.values(VALUES), wrong, "SRA")
    with pytest.raises(ProblemsError, match="corners lie up to"):
        download.convert(with_label(lambda root: LabelMap(download.label("a"))))
    result = download.convert(with_label(lambda root: LabelMap(download.label("a"), grid="axes")))
    np.testing.assert_array_equal(labels_of(result), scene.values(VALUES))


def test_labels_without_any_header_worth_the_name(download: Toy) -> None:
    """As in LiTS: the array is right, its affine the identity."""
    scene = download.scenes["a"]
    stored = nib.load(download.label("a"))
    nib.save(nib.Nifti1Image(np.asarray(stored.dataobj), np.eye(4)), download.label("a"))
    result = download.convert(with_label(lambda root: LabelMap(download.label("a"), grid="image")))
    np.testing.assert_array_equal(labels_of(result), scene.values(VALUES))
    converted = nib.load(result.folder / "labelsTr" / "a.nii.gz")
    np.testing.assert_allclose(converted.affine, nib.load(download.image("a")).affine)


@pytest.mark.parametrize("flip", ALL_FLIPS)
def test_the_image_tells_how_its_labels_are_turned(flip: str, download: Toy) -> None:
    scene = with_intensities(download.scenes["a"])
    write_nifti(download.image("a"), scene.image, scene.affine)
    stored = np.flip(scene.values(VALUES), tuple("xyz".index(axis) for axis in flip)) if flip else scene.values(VALUES)
    write_nifti(download.label("a"), np.ascontiguousarray(stored), np.eye(4))
    label = LabelMap(download.label("a"), grid="image", flips=ALL_FLIPS)
    result = download.convert(with_label(lambda root: label, checks=(Intensity("liver", 0, 200, 0.9),)))
    np.testing.assert_array_equal(labels_of(result), scene.values(VALUES))


def test_transposed_labels(download: Toy) -> None:
    scene = download.scenes["a"]
    write_nifti(download.image("a"), scene.image, scene.affine)
    write_nifti(download.label("a"), scene.values(VALUES).transpose(1, 0, 2)[:, :, ::-1].copy(), np.eye(4))
    label = LabelMap(download.label("a"), grid="image", axes=("yxz",), flips=("z",))
    result = download.convert(with_label(lambda root: label))
    np.testing.assert_array_equal(labels_of(result), scene.values(VALUES))


@pytest.mark.parametrize("axes", ["xyz", "yxz"])
@pytest.mark.parametrize("flip", ["", "z"])
def test_the_image_tells_the_order_of_axes_as_well(axes: str, flip: str, download: Toy) -> None:
    scene = with_intensities(make_scene(1, NAMES, (8, 8, 7)))
    write_nifti(download.image("a"), scene.image, scene.affine)
    stored = scene.values(VALUES).transpose(["xyz".index(axis) for axis in axes])
    write_nifti(download.label("a"), np.ascontiguousarray(np.flip(stored, 2) if flip else stored), np.eye(4))
    label = LabelMap(download.label("a"), grid="image", axes=("xyz", "yxz"), flips=("", "z"))
    result = download.convert(with_label(lambda root: label, checks=(Intensity("liver", 0, 200, 0.9),)))
    np.testing.assert_array_equal(labels_of(result), scene.values(VALUES))
    turned = [f"axes {axes}"] * (axes != "xyz") + [f"flipped {flip}"] * bool(flip)
    assert dict(result.placements) == {", ".join(["on the grid of the image", *turned]): 1}


def test_orders_of_axes_of_another_shape_are_passed_over(download: Toy) -> None:
    scene = download.scenes["a"]
    write_nifti(download.image("a"), scene.image, scene.affine)
    write_nifti(download.label("a"), scene.values(VALUES).transpose(1, 0, 2).copy(), np.eye(4))
    orders = with_label(lambda root: LabelMap(download.label("a"), grid="image", axes=("xyz", "yxz", "zxy")))
    result = download.convert(orders)
    np.testing.assert_array_equal(labels_of(result), scene.values(VALUES))
    assert dict(result.placements) == {"on the grid of the image, axes yxz": 1}
    none = with_label(lambda root: LabelMap(download.label("a"), grid="image", axes=("xyz", "zxy")))
    with pytest.raises(ProblemsError, match=r"the image has shape \(9, 8, 7\), the label map \(8, 9, 7\)"):
        download.convert(none, overwrite=True)


def test_an_image_that_cannot_tell(download: Toy) -> None:
    scene = download.scenes["a"]
    write_nifti(download.image("a"), np.full(scene.image.shape, 100, np.int16), scene.affine)
    label = LabelMap(download.label("a"), grid="image", flips=("", "z"))
    for checks in ((), (Intensity("liver", 0, 200),)):
        with pytest.raises(ProblemsError, match="the image does not tell how its labels are turned"):
            download.convert(with_label(lambda root: label, checks=checks))


def test_labels_that_look_the_same_turned_around_need_no_decision(download: Toy) -> None:
    write_nifti(download.label("a"), np.zeros(download.scenes["a"].image.shape, np.uint8), np.eye(4))
    label = LabelMap(download.label("a"), grid="image", flips=ALL_FLIPS)
    converter = with_label(lambda root: label, checks=(Intensity("liver", 0, 200),))
    assert not labels_of(download.convert(converter)).any()


def test_an_image_that_contradicts_its_labels(download: Toy) -> None:
    scene = with_intensities(download.scenes["a"])
    write_nifti(download.image("a"), -1 - scene.image, scene.affine)
    write_nifti(download.label("a"), scene.values(VALUES), scene.affine)
    converter = with_label(lambda root: LabelMap(download.label("a")), checks=(Intensity("liver", 0, 200, 0.6),))
    message = "the image contradicts the labels: 0% of 'liver' have intensities of 0 to 200, expected at least 60%"
    with pytest.raises(ProblemsError, match=message):
        download.convert(converter)
    with pytest.raises(ProblemsError, match=message):  # the liver is not converted, but says that all labels lie wrong
        download.convert(converter, labels=("spleen",))


def test_structures_of_one_intensity(download: Toy) -> None:
    scene = download.scenes["a"]
    liver = np.argwhere(scene.structures["liver"])
    scene.image[:] = -1000
    scene.image[scene.structures["liver"]] = 80
    for place, value in zip(liver[:4], (40, 120, 39, 121), strict=True):
        scene.image[tuple(place)] = value
    write_nifti(download.image("a"), scene.image, scene.affine, "LPS")
    label, share = LabelMap(download.label("a")), (len(liver) - 2) / len(liver)
    fits = Uniform("liver", within=40, share=share)
    np.testing.assert_array_equal(
        labels_of(download.convert(with_label(lambda root: label, checks=(fits,)))), scene.values(VALUES)
    )
    message = f"{share:.0%} of 'liver' have intensities within 40 of their median, expected at least 90%"
    with pytest.raises(ProblemsError, match=message):
        download.convert(with_label(lambda root: label, checks=(Uniform("liver", 40, 0.9),)), overwrite=True)
    empty = np.zeros(scene.image.shape, bool)
    assert fits.measure(lambda name: empty, scene.image, scene.affine) is None
    before = scene.image.copy()
    assert fits.measure(lambda name: scene.structures["liver"], scene.image, scene.affine) == share
    np.testing.assert_array_equal(scene.image, before)


def test_above_lies_above(download: Toy) -> None:
    scene = make_scene(1, ["liver", "kidneys"])
    for name, slices in (("liver", slice(4, 7)), ("kidneys", slice(0, 3))):
        scene.structures[name][:] = False
        scene.structures[name][2:5, 2:4, slices] = True
    write_nifti(download.image("a"), scene.image, scene.affine, "LIP")
    table: dict[str, Any] = {"labels": list(scene.structures), "checks": (Above("liver", "kidneys"),)}
    label = LabelMap(download.label("a"))
    write_nifti(download.label("a"), scene.values({"liver": 1, "kidneys": 2}), scene.affine, "PSR")
    assert download.convert(with_label(lambda root: label, **table)).written
    write_nifti(download.label("a"), scene.values({"liver": 2, "kidneys": 1}), scene.affine, "PSR")
    with pytest.raises(ProblemsError, match="'liver' lies below 'kidneys'"):
        download.convert(with_label(lambda root: label, **table), overwrite=True)


def test_left_lies_on_the_left(download: Toy) -> None:
    scene = make_scene(1, ["kidney_left", "kidney_right"])
    for name, columns in (("kidney_left", slice(0, 3)), ("kidney_right", slice(6, 9))):
        scene.structures[name][:] = False
        scene.structures[name][columns, 2:4, 2:5] = True
    write_nifti(download.image("a"), scene.image, scene.affine, "LPS")
    table: dict[str, Any] = {"labels": list(scene.structures), "checks": (LeftRight("kidney_left", "kidney_right"),)}
    label = LabelMap(download.label("a"))
    write_nifti(download.label("a"), scene.values({"kidney_left": 1, "kidney_right": 2}), scene.affine, "PSR")
    assert download.convert(with_label(lambda root: label, **table)).written
    write_nifti(download.label("a"), scene.values({"kidney_left": 2, "kidney_right": 1}), scene.affine, "PSR")
    with pytest.raises(ProblemsError, match="'kidney_left' lies on the patient's right of 'kidney_right'"):
        download.convert(with_label(lambda root: label, **table), overwrite=True)
    write_nifti(download.label("a"), scene.values({"kidney_left": 2}), scene.affine, "PSR")  # one of them is not there
    assert download.convert(with_label(lambda root: label, **table), overwrite=True).written


# DICOM and pictures


def with_series(label: Callable[[Path], Any], **table: Any) -> Converter:
    return one_case(lambda root: Case("a", image=Dicom(root / SERIES), label=label(root)), **table)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_dicom_series_with_labels_in_nifti(backwards: bool, download: Toy) -> None:
    scene = download.scenes["a"]
    write_dicom(download.download / SERIES / "study 1", scene, backwards=backwards)
    (download.download / SERIES / "readme.txt").write_text("from the archive")
    write_nifti(download.label("a"), scene.values(VALUES), scene.affine, "RAS")
    result = download.convert(with_series(lambda root: LabelMap(download.label("a"))))
    np.testing.assert_array_equal(labels_of(result), scene.values(VALUES))
    image = nib.as_closest_canonical(nib.load(result.folder / "imagesTr" / "a_0000.nii.gz"))
    np.testing.assert_array_equal(np.asarray(image.dataobj), scene.image)
    np.testing.assert_allclose(image.affine, scene.affine, atol=1e-4)
    assert image.get_data_dtype() == np.int16


@pytest.mark.parametrize("backwards", [False, True])
def test_a_stack_of_pictures_beside_a_dicom_series(backwards: bool, download: Toy) -> None:
    """As in CHAOS: which way the pictures run is found in the image."""
    scene = with_intensities(download.scenes["a"])
    write_dicom(download.download / SERIES, scene)
    stored = scene.values({"liver": 63, "spleen": 126})[::-1, ::-1]
    files = []
    for index in range(stored.shape[2]):
        files.append(download.download / "ground" / f"{index:03d}.png")
        write_picture(files[-1], stored[:, :, stored.shape[2] - 1 - index if backwards else index])
    labels = {**dict.fromkeys(range(55, 71), "liver"), **dict.fromkeys(range(110, 136), "spleen")}
    slices = Slices(tuple(files), flips=("", "z"))
    result = download.convert(with_series(lambda root: slices, labels=labels, checks=(Intensity("liver", 0, 200),)))
    np.testing.assert_array_equal(labels_of(result), scene.values({"liver": 1, "spleen": 2}))


def stack(download: Toy, arrays: list[np.ndarray]) -> Converter:
    write_dicom(download.download / SERIES, download.scenes["a"])
    files = [download.download / "ground" / f"{index:03d}.png" for index in range(len(arrays))]
    for file, array in zip(files, arrays, strict=True):
        write_picture(file, array)
    return with_series(lambda root: Slices(tuple(files)))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([np.zeros((9, 8), np.uint8)] * 6, r"the image has shape \(9, 8, 7\), the label map \(9, 8, 6\)"),
        ([np.zeros((9, 8), np.uint8)] * 6 + [np.zeros((8, 9), np.uint8)], "the pictures of the slices differ in size"),
        ([np.arange(9 * 8 * 3, dtype=np.uint8).reshape(9, 8, 3)] * 7, "expected a grey picture .*, found colours"),
        ([], "expected the pictures of the slices of a label map, found none"),
    ],
    ids=["too few", "other sizes", "coloured", "none"],
)
def test_stacks_that_do_not_fit(arrays: list[np.ndarray], message: str, download: Toy) -> None:
    with pytest.raises(ProblemsError, match=message):
        download.convert(stack(download, arrays))


def test_grey_values_stored_as_colours(download: Toy) -> None:
    scene = download.scenes["a"]
    drawn = scene.values(VALUES)[::-1, ::-1]
    arrays = [np.stack([drawn[:, :, z]] * 3 + [np.full(drawn.shape[:2], 255)], -1).astype(np.uint8) for z in range(7)]
    np.testing.assert_array_equal(labels_of(download.convert(stack(download, arrays))), scene.values(VALUES))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda files: files[3].unlink(), "unevenly spaced: 2.5 mm apart mostly, but 5 mm after the slice at"),
        (lambda files: files[3].write_bytes(files[3].read_bytes()[:300]), "cannot be read"),
        (lambda files: files[3].with_name("copy.dcm").write_bytes(files[3].read_bytes()), "lie where another one lies"),
        (
            lambda files: [file.unlink() for file in files] and files[0].write_text("x"),
            "expected a folder with one DICOM series, found no DICOM image in it",
        ),
    ],
    ids=["slice missing", "slice damaged", "slice twice", "no DICOM"],
)
def test_series_that_cannot_be_used(harm: Callable[[list[Path]], object], message: str, download: Toy) -> None:
    files = write_dicom(download.download / SERIES, download.scenes["a"])
    harm(files)
    with pytest.raises(ProblemsError, match=message):
        download.convert(with_series(lambda root: LabelMap(download.label("a"))))


def test_several_series_need_a_choice(download: Toy) -> None:
    for series, case in (("1.2.3", "a"), ("1.2.4", "b")):
        write_dicom(download.download / SERIES, download.scenes[case], series=series)
    write_nifti(download.label("b"), download.scenes["b"].values(VALUES), download.scenes["b"].affine)
    with pytest.raises(ProblemsError, match=r"expected one DICOM series, found 2") as caught:
        download.convert(with_series(lambda root: LabelMap(download.label("b"))))
    assert "1.2.4: 7 files" in str(caught.value)
    chosen = one_case(
        lambda root: Case("b", image=Dicom(root / SERIES, series="1.2.4"), label=LabelMap(download.label("b")))
    )
    np.testing.assert_array_equal(labels_of(download.convert(chosen), "b"), download.scenes["b"].values(VALUES))
    none = one_case(lambda root: Case("b", image=Dicom(root / SERIES, series="1.2.5")))
    with pytest.raises(ProblemsError, match=r"expected the DICOM series 1.2.5, found no DICOM image"):
        download.convert(none, unlabelled=True, overwrite=True)
