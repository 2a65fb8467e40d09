"""Label maps are written as nnU-Net's own writers write them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from skimage import io

from nnunet_partial.errors import VolumeError
from nnunet_partial.inference.reading.image_reader import Image, read_image
from nnunet_partial.inference.writing.colours import class_colours
from nnunet_partial.inference.writing.label_writer import (
    class_masks,
    file_safe,
    output_ending,
    write_class_files,
    write_labels,
    write_probabilities,
)
from nnunet_partial.inference.writing.segmentation_nrrd import Segment, layers_of_masks, write_segmentation_nrrd
from tests.unit.nifti_files import AFFINES, NIFTI_READERS
from tests.unit.stock_readers import STOCK

RANDOM = np.random.default_rng(0)


def nifti(path: Path, shape: tuple[int, ...] = (6, 5, 4), affine: str = "plain") -> Path:
    nib.save(nib.Nifti1Image(RANDOM.integers(-1000, 1000, shape).astype(np.int16), AFFINES[affine]), path)
    return path


def labels_for(image: Image, highest: int = 13) -> np.ndarray:
    labels = RANDOM.integers(0, highest + 1, image.data.shape[1:]).astype(np.uint16)
    labels.flat[-1] = highest
    return labels


def stock_file(reader: str, files: list[Path], labels: np.ndarray, target: Path) -> None:
    _, properties = STOCK[reader]().read_images([str(file) for file in files])
    STOCK[reader]().write_seg(labels.copy(), str(target), properties)


@pytest.mark.parametrize("reader", NIFTI_READERS)
@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
@pytest.mark.parametrize("highest", [0, 13, 254, 255, 300])
def test_nifti_equals_nnunets_to_the_byte(
    reader: str, affine: str, ending: str, highest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if highest == 13:  # with and without the optional package
        monkeypatch.setattr("nnunet_partial.gzip_bytes.importlib.util.find_spec", lambda name: None)
    path = nifti(tmp_path / "a_0000.nii.gz", affine=affine)
    image = read_image([path], reader)
    labels = labels_for(image, highest)
    write_labels(labels, image, tmp_path / "Fall ä" / f"ours{ending}")
    assert [p.name for p in (tmp_path / "Fall ä").iterdir()] == [f"ours{ending}"]
    ours = (tmp_path / "Fall ä" / f"ours{ending}").read_bytes()
    ours = gzip.decompress(ours) if ending == ".nii.gz" else ours
    if reader == "SimpleITKIOWithReorient" and highest >= 255:  # nnU-Net's writer cuts these off at 8 bits
        read = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / "Fall ä" / f"ours{ending}")), "RAS")
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read), labels)
        return
    stock_file(reader, [path], labels, tmp_path / "stock.nii.gz")
    assert ours == gzip.decompress((tmp_path / "stock.nii.gz").read_bytes())


@pytest.mark.parametrize("reader", NIFTI_READERS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 4), (6, 5, 1), (6, 1, 4)])
def test_axes_of_one_voxel(reader: str, shape: tuple[int, int, int], tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii.gz", shape, "flipped")
    image = read_image([path], reader)
    labels = labels_for(image)
    write_labels(labels, image, tmp_path / "ours.nii.gz")
    stock_file(reader, [path], labels, tmp_path / "stock.nii.gz")
    unpacked = [gzip.decompress((tmp_path / f"{name}.nii.gz").read_bytes()) for name in ("ours", "stock")]
    assert unpacked[0] == unpacked[1]


@pytest.mark.parametrize("reader", ["SimpleITKIO", "SimpleITKIOWithReorient"])
@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
@pytest.mark.parametrize("affine", AFFINES)
def test_nrrd_and_metaimage(reader: str, ending: str, affine: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(sitk.ReadImage(str(nifti(tmp_path / "a.nii.gz", affine=affine))), str(path))
    image = read_image([path], reader)
    labels = labels_for(image)
    write_labels(labels, image, tmp_path / f"ours{ending}")
    stock_file(reader, [path], labels, tmp_path / f"stock{ending}")
    assert (tmp_path / f"ours{ending}").read_bytes() == (tmp_path / f"stock{ending}").read_bytes()


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_flat_image_of_simpleitk(ending: str, tmp_path: Path) -> None:
    flat = sitk.GetImageFromArray(RANDOM.integers(0, 9, (6, 5)).astype(np.int16))
    flat.SetSpacing((0.5, 0.75))
    flat.SetOrigin((3, -4))
    sitk.WriteImage(flat, str(tmp_path / f"a{ending}"))
    image = read_image([tmp_path / f"a{ending}"], "SimpleITKIO")
    labels = labels_for(image)
    write_labels(labels, image, tmp_path / f"ours{ending}")
    stock_file("SimpleITKIO", [tmp_path / f"a{ending}"], labels, tmp_path / f"stock{ending}")
    ours, stock = (sitk.ReadImage(str(tmp_path / f"{name}{ending}")) for name in ("ours", "stock"))
    assert ours.GetDimension() == 2
    np.testing.assert_array_equal(sitk.GetArrayFromImage(ours), labels[0])
    if ending == ".nii.gz":
        unpacked = [gzip.decompress((tmp_path / f"{name}.nii.gz").read_bytes()) for name in ("ours", "stock")]
        assert unpacked[0] == unpacked[1]
    assert (ours.GetSpacing(), ours.GetOrigin()) == (stock.GetSpacing(), stock.GetOrigin()) == ((0.5, 0.75), (3, -4))


def test_labels_of_a_4d_image_have_its_place(tmp_path: Path) -> None:
    image = read_image([nifti(tmp_path / "a.nii.gz", (6, 5, 4, 2), "oblique")], "SimpleITKIO")
    labels = labels_for(image)
    write_labels(labels, image, tmp_path / "labels.nii.gz")
    written, source = nib.load(tmp_path / "labels.nii.gz"), nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), labels.T)
    np.testing.assert_allclose(written.affine, source.affine, atol=1e-5)


@pytest.mark.parametrize("highest", [13, 300])
def test_pictures_and_stacks(highest: int, tmp_path: Path) -> None:
    io.imsave(tmp_path / "a_0000.png", RANDOM.integers(0, 255, (7, 5, 3)).astype(np.uint8), check_contrast=False)
    tifffile.imwrite(tmp_path / "b_0000.tif", RANDOM.integers(0, 255, (4, 7, 5)).astype(np.uint8))
    (tmp_path / "b.json").write_text(json.dumps({"spacing": [3, 0.5, 0.25]}))
    for reader, source, name in (("NaturalImage2DIO", "a_0000.png", "x.png"), ("Tiff3DIO", "b_0000.tif", "x.tif")):
        image = read_image([tmp_path / source], reader)
        labels = labels_for(image, highest)
        write_labels(labels, image, tmp_path / "ours" / name)
        (tmp_path / "stock").mkdir(exist_ok=True)
        stock_file(reader, [tmp_path / source], labels, tmp_path / "stock" / name)
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "stock" / name).read_bytes()
    spacings = [json.loads((tmp_path / folder / "x.json").read_text()) for folder in ("ours", "stock")]
    assert spacings[0] == spacings[1] == {"spacing": [3, 0.5, 0.25]}
    with pytest.raises(VolumeError, match=r"knows \.tif and \.tiff only"):
        write_labels(labels, image, tmp_path / "x.nii.gz")


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    image = read_image([nifti(tmp_path / "a.nii.gz")], "SimpleITKIO")
    target = tmp_path / "out" / "x.nii.gz"
    with pytest.raises(VolumeError, match=r"shape \(4, 5, 6\) \(z, y, x\), found \(6, 5, 4\)"):
        write_labels(np.zeros((6, 5, 4), np.uint8), image, target)
    for wrong in (-1, 65536):
        with pytest.raises(VolumeError, match="from 0 to 65535"):
            write_labels(np.full((4, 5, 6), wrong), image, target)
    assert not target.parent.exists()
    with pytest.raises(VolumeError, match=r"x\.docx: cannot be written"):
        write_labels(np.zeros((4, 5, 6), np.uint8), image, tmp_path / "out" / "x.docx")
    (tmp_path / "file").touch()
    with pytest.raises(VolumeError, match="cannot be written"):
        write_labels(np.zeros((4, 5, 6), np.uint8), image, tmp_path / "file" / "x.nii.gz")
    assert not list((tmp_path / "out").iterdir())
    other = read_image([tmp_path / "a.nii.gz"], "NibabelIO")
    with pytest.raises(VolumeError, match=r"knows \.nii and \.nii\.gz only"):
        write_labels(np.zeros((4, 5, 6), np.uint8), other, tmp_path / "x.nrrd")


# one file a class


def test_class_files(tmp_path: Path) -> None:
    image = read_image([nifti(tmp_path / "a.nii.gz", affine="permuted")], "NibabelIOWithReorient")
    labels = labels_for(image, 3)
    classes = {"left kidney": [1], "kidneys": [1, 2], "a/b: ü?": [9]}
    paths = write_class_files(class_masks(labels, classes), image, tmp_path / "case 1", ".nii.gz")
    assert [path.name for path in paths] == ["left_kidney.nii.gz", "kidneys.nii.gz", "a_b_ü.nii.gz"]
    write_labels(labels, image, tmp_path / "all.nii.gz")
    whole = np.asanyarray(nib.load(tmp_path / "all.nii.gz").dataobj)
    for path, values in zip(paths, classes.values(), strict=True):
        written = nib.load(path)
        np.testing.assert_array_equal(np.asanyarray(written.dataobj), np.isin(whole, values))
        np.testing.assert_allclose(written.affine, nib.load(tmp_path / "a.nii.gz").affine, atol=1e-6)
        assert written.get_data_dtype() == np.uint8


def test_classes_that_would_share_a_file(tmp_path: Path) -> None:
    image = read_image([nifti(tmp_path / "a.nii.gz")], "SimpleITKIO")
    mask = np.zeros((4, 5, 6), bool)
    with pytest.raises(VolumeError, match=r"'a b' and 'A/b' would both be A_b\.nii\.gz"):
        write_class_files([("a b", mask), ("A/b", mask)], image, tmp_path / "x", ".nii.gz")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("liver", "liver"), ("../../etc/passwd", "etc_passwd"), ("..", "_"), ("", "_"), ("L1+L2-x", "L1+L2-x")],
)
def test_file_safe_names(name: str, expected: str) -> None:
    assert file_safe(name) == expected


def test_probabilities(tmp_path: Path) -> None:
    image = read_image([nifti(tmp_path / "a.nii.gz", affine="oblique")], "SimpleITKIO")
    values = RANDOM.random(image.data.shape[1:]).astype(np.float32)
    values.flat[:3] = [0, 1, 0.5]
    drawn = []

    def one_by_one() -> Iterator[tuple[str, np.ndarray]]:
        for name in ("liver", "spleen"):
            drawn.append((name, sorted(path.name for path in (tmp_path / "p").glob("*"))))
            yield name, values if name == "liver" else 1 - values

    paths = write_probabilities(one_by_one(), image, tmp_path / "p", ".nii.gz")
    assert drawn == [("liver", []), ("spleen", ["liver.nii.gz"])]
    read = np.asanyarray(nib.load(paths[0]).dataobj)
    np.testing.assert_array_equal(read.T, np.round(values * np.float32(255)))
    assert read.dtype == np.uint8
    for wrong in (1.5, -0.1, np.nan):
        with pytest.raises(VolumeError, match="from 0 to 1"):
            write_probabilities([("liver", np.full((4, 5, 6), wrong))], image, tmp_path / "p", ".nii.gz")


# 3D Slicer


def header_of(path: Path) -> dict[str, str]:
    head = path.read_bytes().split(b"\n\n", 1)[0].decode()
    return dict(line.split(":=", 1) for line in head.splitlines() if ":=" in line)


@pytest.mark.parametrize("reader", NIFTI_READERS)
@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("highest", [3, 255, 300])
def test_segmentation_is_read_by_simpleitk(reader: str, affine: str, highest: int, tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii.gz", affine=affine)
    image = read_image([path], reader)
    labels = labels_for(image, highest)
    segments = [Segment("liver", 1), Segment("left kidney ü", highest)]
    write_segmentation_nrrd(labels, segments, image, tmp_path / "x.seg.nrrd", {"liver": (1, 0.5, 0)})
    read, source = sitk.ReadImage(str(tmp_path / "x.seg.nrrd")), sitk.ReadImage(str(path))
    write_labels(labels, image, tmp_path / "labels.nii.gz")
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "labels.nii.gz")))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), expected)
    np.testing.assert_allclose(read.GetSpacing(), source.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(read.GetOrigin(), source.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(read.GetDirection(), source.GetDirection(), atol=1e-6)
    keys = header_of(tmp_path / "x.seg.nrrd")
    assert keys["Segment0_Name"] == "liver"
    assert keys["Segment0_Color"] == "1 0.5 0"
    assert (keys["Segment1_Name"], keys["Segment1_LabelValue"], keys["Segment1_Layer"]) == (
        "left kidney ü",
        str(highest),
        "0",
    )


def test_extent_is_that_of_the_layer(tmp_path: Path) -> None:
    image = read_image([nifti(tmp_path / "a.nii.gz")], "SimpleITKIO")
    layers = np.zeros((3, 4, 5, 6), np.uint8)
    layers[0, 1:3, 2:5, 3:4] = 1
    layers[1, 0, 0, 0] = 2
    segments = [Segment("a", 1, 0), Segment("b", 2, 1), Segment("c", 1, 2)]
    write_segmentation_nrrd(layers, segments, image, tmp_path / "x.seg.nrrd")
    keys = header_of(tmp_path / "x.seg.nrrd")
    extents = [keys[f"Segment{i}_Extent"] for i in range(3)]
    assert extents == ["3 3 2 4 1 2", "0 0 0 0 0 0", "0 -1 0 -1 0 -1"]


def test_overlapping_classes_become_layers(tmp_path: Path) -> None:
    image = read_image([nifti(tmp_path / "a.nii.gz")], "SimpleITKIO")
    masks = {name: np.zeros((4, 5, 6), bool) for name in ("body", "liver", "tumour", "spleen", "nothing")}
    masks["body"][:] = True
    masks["liver"][:2] = True
    masks["tumour"][1, 1:3] = True
    masks["spleen"][3] = True
    layers, segments = layers_of_masks(masks.items())
    assert [(s.name, s.layer, s.value) for s in segments] == [
        ("body", 0, 1),
        ("liver", 1, 1),
        ("tumour", 2, 1),
        ("spleen", 1, 2),
        ("nothing", 0, 2),
    ]
    write_segmentation_nrrd(layers, segments, image, tmp_path / "x.seg.nrrd")
    read = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "x.seg.nrrd")))
    assert read.shape == (4, 5, 6, 3)
    for segment in segments:
        np.testing.assert_array_equal(read[..., segment.layer] == segment.value, masks[segment.name])
    with pytest.raises(VolumeError, match="at least one class"):
        layers_of_masks([])


def test_more_classes_than_eight_bits_hold_go_to_another_layer() -> None:
    masks = ((f"c{i}", np.arange(300).reshape(1, 1, 300) == i) for i in range(300))
    layers, segments = layers_of_masks(masks)
    assert layers.shape == (2, 1, 1, 300)
    assert len({(s.layer, s.value) for s in segments}) == 300
    for i, segment in enumerate(segments):
        assert layers[segment.layer, 0, 0, i] == segment.value


def test_segmentation_is_read_by_pynrrd(tmp_path: Path) -> None:
    nrrd = pytest.importorskip("nrrd")
    image = read_image([nifti(tmp_path / "a.nii.gz", affine="oblique")], "SimpleITKIO")
    layers = RANDOM.integers(0, 2, (2, 4, 5, 6)).astype(np.uint8)
    write_segmentation_nrrd(layers, [Segment("a", 1, 0), Segment("b", 1, 1)], image, tmp_path / "x.seg.nrrd")
    data, header = nrrd.read(str(tmp_path / "x.seg.nrrd"))
    np.testing.assert_array_equal(data, layers.transpose(0, 3, 2, 1))
    assert header["kinds"] == ["list", "domain", "domain", "domain"]
    assert header["space"] == "left-posterior-superior"
    expected = np.diag([-1, -1, 1]) @ nib.load(tmp_path / "a.nii.gz").affine[:3]
    np.testing.assert_allclose(header["space directions"][1:], expected[:, :3].T, atol=1e-5)
    np.testing.assert_allclose(header["space origin"], expected[:, 3], atol=1e-5)
    assert header["Segment1_Name"] == "b"


def test_segmentation_that_makes_no_sense(tmp_path: Path) -> None:
    image = read_image([nifti(tmp_path / "a.nii.gz")], "SimpleITKIO")
    labels = np.zeros((4, 5, 6), np.uint8)
    for segments in (
        [Segment("a", 0)],
        [Segment("a", 1, 1)],
        [Segment("a", 65536)],
        [Segment("a", 1), Segment("b", 1)],
        [Segment("a", 1), Segment("a", 2)],
    ):
        with pytest.raises(VolumeError, match="expected"):
            write_segmentation_nrrd(labels, segments, image, tmp_path / "x.seg.nrrd")
    with pytest.raises(VolumeError, match=r"ends in \.seg\.nrrd"):
        write_segmentation_nrrd(labels, [], image, tmp_path / "x.nrrd")
    with pytest.raises(VolumeError, match="shape"):
        write_segmentation_nrrd(labels[1:], [], image, tmp_path / "x.seg.nrrd")
    with pytest.raises(VolumeError, match="from 0 to 65535"):
        write_segmentation_nrrd(labels - 1.0, [], image, tmp_path / "x.seg.nrrd")
    assert not (tmp_path / "x.seg.nrrd").exists()


def test_segmentation_of_a_picture(tmp_path: Path) -> None:
    io.imsave(tmp_path / "a_0000.png", RANDOM.integers(0, 255, (7, 5)).astype(np.uint8), check_contrast=False)
    image = read_image([tmp_path / "a_0000.png"], "NaturalImage2DIO")
    labels = labels_for(image, 3)
    write_segmentation_nrrd(labels, [Segment("a", 1)], image, tmp_path / "x.seg.nrrd")
    read = sitk.ReadImage(str(tmp_path / "x.seg.nrrd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), labels)
    assert read.GetSpacing() == (1, 1, 1)


# colours


def test_colours_depend_on_names_only_and_differ() -> None:
    names = [f"organ {i}" for i in range(150)]
    colours = class_colours(names)
    assert colours == class_colours(reversed(names + names))
    assert len(set(colours.values())) == 150
    assert all(0 <= part <= 1 for colour in colours.values() for part in colour)
    few = np.array(list(class_colours(["liver", "spleen", "pancreas", "aorta", "stomach"]).values()))
    distances = np.linalg.norm(few[:, None] - few[None], axis=-1)[~np.eye(5, dtype=bool)]
    assert distances.min() > 0.2
    assert class_colours([]) == {}


def test_a_class_keeps_its_colour_when_others_join() -> None:
    alone = class_colours(["liver"])["liver"]
    assert class_colours(["liver", "tumour", "vein"])["liver"] == alone


def test_output_ending(tmp_path: Path) -> None:
    image = read_image([nifti(tmp_path / "a.nii.gz")], "SimpleITKIO")
    assert output_ending(image, ".mha") == ".mha"
    assert output_ending(Image(image.data, image.spacing, image.geometry, (tmp_path,)), ".mha") == ".nii.gz"
