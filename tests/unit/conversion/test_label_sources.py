"""Label maps, boxes, and masks that overlap, as one label map."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.conversion import (
    Case,
    Intensity,
    LabelMap,
    Masks,
)
from nnunet_partial.conversion.structures import tissues
from nnunet_partial.errors import ProblemsError
from nnunet_partial.labels import load_dataset_json, partial_labels_of
from tests.conversion_fakes.scene import (
    Scene,
    make_scene,
    numbered,
    write_nifti,
)
from tests.unit.conversion.conftest import NAMES, Toy, labels_of, toy, with_label

VALUES = numbered(NAMES)
SERIES = "series ä"


# label maps


def test_values_are_renumbered_merged_dropped_and_ignored(download: Toy) -> None:
    drawn = np.random.default_rng(0).choice([0, 5, 7, 8, 30, 255, -2], download.scenes["a"].image.shape)
    write_nifti(download.label("a"), drawn.astype(np.float32), download.scenes["a"].affine)
    labels = {7: "liver", 5: "spleen", 8: "liver", 30: None, 255: "ignore", -2: "kidneys"}
    result = download.convert(with_label(lambda root: LabelMap(download.label("a")), labels=labels))
    new = {0: 0, 7: 1, 8: 1, 5: 2, -2: 3, 30: 0, 255: 4}
    np.testing.assert_array_equal(labels_of(result), np.vectorize(new.get)(drawn))
    dataset = load_dataset_json(result.folder)
    assert dataset["labels"] == {"background": 0, "liver": 1, "spleen": 2, "kidneys": 3, "ignore": 4}
    possible = partial_labels_of(dataset).sets["all"].possible
    assert possible[4] == partial_labels_of(dataset).space.everything
    assert possible[0] == {"background"}


def test_negative_values_are_clipped_where_the_converter_says_so(download: Toy) -> None:
    drawn = download.scenes["a"].values(VALUES, np.int16)
    drawn[0, 0, 0] = -5
    write_nifti(download.label("a"), drawn, download.scenes["a"].affine)
    result = download.convert(with_label(lambda root: LabelMap(download.label("a"), clip_negative=True)))
    np.testing.assert_array_equal(labels_of(result), np.maximum(drawn, 0))


def test_whole_numbers_survive_the_rounding_of_a_scale(download: Toy) -> None:
    scene = download.scenes["a"]
    image = nib.Nifti1Image((scene.values(VALUES, np.int16) * 3), scene.affine)
    image.header.set_slope_inter(1 / 3, 0)
    nib.save(image, download.label("a"))
    raw = nib.load(download.label("a"))
    assert raw.header.get_slope_inter()[0] != 1
    result = download.convert(with_label(lambda root: LabelMap(download.label("a"))))
    np.testing.assert_array_equal(labels_of(result), np.round(np.asarray(raw.dataobj)))


def test_outside_of_the_box_nothing_is_known(download: Toy) -> None:
    scene = download.scenes["a"]
    write_nifti(download.label("a"), scene.values(VALUES), scene.affine)
    box = ((1, 6), (0, 8), (2, 7))
    result = download.convert(with_label(lambda root: LabelMap(download.label("a"), box=box)))
    expected = np.full(scene.image.shape, 4)
    expected[1:6, :, 2:] = scene.values(VALUES)[1:6, :, 2:]
    np.testing.assert_array_equal(labels_of(result), expected)


@pytest.mark.parametrize("box", [((0, 10), (0, 8), (0, 7)), ((3, 3), (0, 8), (0, 7)), ((0, 9), (0, 8))])
def test_boxes_that_do_not_lie_in_the_label_map(box: Any, download: Toy) -> None:
    with pytest.raises(ProblemsError, match=r"the box .* does not lie in the label map of \(9, 8, 7\)"):
        download.convert(with_label(lambda root: LabelMap(download.label("a"), box=box)))


# masks


def masks_of(
    download: Toy, scene: Scene, axes: str = "LPS", dtype: type = np.uint8, value: float = 1
) -> dict[str, Path]:
    files = {}
    for name, voxels in scene.structures.items():
        files[name] = download.download / "masks" / f"{name}.nii.gz"
        write_nifti(files[name], (voxels * value).astype(dtype), scene.affine, axes)
    return files


def test_masks_become_one_label_map(download: Toy) -> None:
    scene = download.scenes["a"]
    files = masks_of(download, scene, axes="RAS", dtype=np.float32, value=255)
    result = download.convert(with_label(lambda root: Masks(files)))
    np.testing.assert_array_equal(labels_of(result), scene.values(VALUES))


def overlapping(scene: Scene) -> tuple[Scene, np.ndarray]:
    """Liver and spleen share voxels, and all three share one; returns the number of structures a voxel, too."""
    first, second = np.argwhere(scene.structures["liver"])[:2]
    for place in (first, second):
        scene.structures["spleen"][tuple(place)] = True
    scene.structures["kidneys"][tuple(first)] = True
    return scene, sum(mask.astype(int) for mask in scene.structures.values())


def test_overlaps_get_values_of_their_own(download: Toy) -> None:
    scene, count = overlapping(download.scenes["a"])
    files = masks_of(download, scene)
    result = download.convert(with_label(lambda root: Masks(files)))
    dataset = load_dataset_json(result.folder)
    assert list(dataset["labels"]) == ["background", *NAMES, "liver+spleen", "liver+spleen+kidneys"]
    expected = scene.values(VALUES)
    expected[count == 2] = 4
    expected[count == 3] = 5
    np.testing.assert_array_equal(labels_of(result), expected)
    assert dict(result.overlaps) == {"liver+spleen": 1, "liver+spleen+kidneys": 1}
    model = partial_labels_of(dataset)
    assert model.sets["all"].possible[4] == set(tissues("liver")) | set(tissues("spleen"))


def test_overlapping_structures_are_what_they_have_in_common(download: Toy) -> None:
    scene = make_scene(1, ["kidney_left", "kidney_cyst_left"])
    scene.structures["kidney_left"] |= scene.structures["kidney_cyst_left"]
    write_nifti(download.image("a"), scene.image, scene.affine)
    files = masks_of(download, scene)
    names = ["kidney_left", "kidney_cyst_left"]
    result = download.convert(with_label(lambda root: Masks(files), labels=names))
    model = partial_labels_of(load_dataset_json(result.folder))
    assert model.sets["all"].possible[3] == {"kidney_cyst_left"}
    assert model.sets["all"].possible[1] == {"kidney_left_tissue", "kidney_left_tumor", "kidney_cyst_left"}


def test_overlaps_can_be_ignored(download: Toy) -> None:
    scene, count = overlapping(download.scenes["a"])
    files = masks_of(download, scene)
    result = download.convert(with_label(lambda root: Masks(files)), overlaps="ignore")
    expected = scene.values(VALUES)
    expected[count > 1] = 4
    np.testing.assert_array_equal(labels_of(result), expected)
    assert list(load_dataset_json(result.folder)["labels"]) == ["background", *NAMES, "ignore"]
    assert not result.overlaps


def test_masks_that_only_checks_look_at_leave_no_trace(download: Toy) -> None:
    """Liver and spleen are converted; the kidneys, which overlap both, are looked at where they are there."""
    scene, count = overlapping(download.scenes["a"])
    spot = tuple(np.argwhere(scene.structures["liver"] & (count == 1))[0])
    scene.structures["kidneys"][spot] = True
    write_nifti(download.image("a"), np.where(scene.structures["kidneys"], 50, -900).astype(np.int16), scene.affine)
    files = masks_of(download, scene)
    expected = scene.without("kidneys").values(VALUES)
    both = scene.structures["liver"] & scene.structures["spleen"]
    for option, other in (("own", "liver+spleen"), ("ignore", "ignore")):
        converter = with_label(lambda root: Masks(files), checks=(Intensity("kidneys", 0, 100, 1.0),))
        result = download.convert(converter, labels=("liver", "spleen"), overlaps=option, overwrite=True)
        assert list(load_dataset_json(result.folder)["labels"]) == ["background", "liver", "spleen", other]
        np.testing.assert_array_equal(labels_of(result), np.where(both, 3, expected))
        wrong = with_label(lambda root: Masks(files), checks=(Intensity("kidneys", -1000, -500),))
        with pytest.raises(ProblemsError, match="0% of 'kidneys' have intensities"):
            download.convert(wrong, labels=("liver", "spleen"), overlaps=option, overwrite=True)
    files["kidneys"].unlink()  # what is neither converted nor there cannot be checked
    result = download.convert(wrong, labels=("liver", "spleen"), overwrite=True)
    np.testing.assert_array_equal(labels_of(result), np.where(both, 3, expected))


def test_overlaps_are_numbered_alike_in_all_cases(download: Toy) -> None:
    """Case b has an overlap that case a lacks, and the other way round; the numbers are those of the dataset."""
    pairs = {"a": ("spleen", "kidneys"), "b": ("liver", "spleen"), "c": ()}
    for case, pair in pairs.items():
        scene = download.scenes[case]
        if pair:
            place = tuple(np.argwhere(scene.structures[pair[0]])[0])
            scene.structures[pair[1]][place] = True
        for name, voxels in scene.structures.items():
            write_nifti(download.download / case / f"{name}.nii.gz", voxels.astype(np.uint8), scene.affine, "LPS")

    def cases(root: Path) -> Iterator[Case]:
        for case in "abc":
            files = {name: root / case / f"{name}.nii.gz" for name in NAMES}
            yield Case(case, image=download.image(case), label=Masks(files))

    result = download.convert(toy(cases=cases), processes=2)
    values = load_dataset_json(result.folder)["labels"]
    assert (values["liver+spleen"], values["spleen+kidneys"]) == (4, 5)
    for case, pair in pairs.items():
        scene = download.scenes[case]
        count = sum(mask.astype(int) for mask in scene.structures.values())
        expected = scene.values(VALUES)
        expected[count == 2] = values.get("+".join(pair), 0)
        np.testing.assert_array_equal(labels_of(result, case), expected)
    assert not (result.folder / "staged").exists()


def test_missing_masks_are_absent_or_not_annotated(download: Toy) -> None:
    scene = download.scenes["a"]
    files = masks_of(download, scene)
    files["spleen"].unlink()
    for missing, annotated in (("absent", {1, 2, 3}), ("unannotated", {1, 3})):
        converter = with_label(lambda root, missing=missing: Masks(files, missing=missing))  # type: ignore[misc]
        result = download.convert(converter, overwrite=True)
        np.testing.assert_array_equal(labels_of(result), scene.without("spleen").values(VALUES))
        (one,) = partial_labels_of(load_dataset_json(result.folder)).sets.values()
        assert set(one.possible) == {0, *annotated}
        assert ("spleen_tissue" in one.possible[0]) == (missing == "unannotated")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda files: write_nifti(files["spleen"], np.ones((3, 3, 3), np.uint8), np.eye(4)),
            "does not lie on the mask",
        ),
        (lambda files: files["spleen"].write_bytes(b""), "the file is empty"),
        (
            lambda files: write_nifti(files["liver"], np.full((9, 8, 7), 0.3, np.float32), np.eye(4)),
            "label values must be whole numbers, found 0.3",
        ),
    ],
    ids=["other shape", "empty", "probabilities"],
)
def test_masks_that_do_not_fit(harm: Callable[[dict[str, Path]], None], message: str, download: Toy) -> None:
    files = masks_of(download, download.scenes["a"])
    harm(files)
    with pytest.raises(ProblemsError, match=message):
        download.convert(with_label(lambda root: Masks(files)))


def test_no_mask_at_all(download: Toy) -> None:
    files = {"liver": download.download / "none.nii.gz"}
    with pytest.raises(ProblemsError, match="expected at least one mask, found none"):
        download.convert(with_label(lambda root: Masks(files, missing="absent")))
