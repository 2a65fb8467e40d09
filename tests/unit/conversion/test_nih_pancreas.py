"""NIH Pancreas-CT: DICOM, and labels that are turned against their images."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.conversion import ALL_FLIPS, Converter, Uniform
from nnunet_partial.conversion.checks import measure_all
from nnunet_partial.conversion.engine import plan_conversion
from nnunet_partial.dataset_conversion import btcv_gibson
from nnunet_partial.dataset_conversion.nih_pancreas import CONVERTER
from nnunet_partial.errors import ProblemsError
from tests.conversion_fakes.nih_pancreas import label_array, write_series, write_turned
from tests.conversion_fakes.scene import Fake, Scene, make_scene
from tests.integration.real_ct import real_data_folder
from tests.unit.conversion.conversions import ABSENT, PRESENT, converted, fake_download

CASE, LABEL = "PANCREAS_0001", "TCIA_pancreas_labels-02-05-2017/label0001.nii.gz"


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return fake_download(CONVERTER, tmp_path / "download")


@pytest.mark.parametrize("flip", ALL_FLIPS, ids=lambda flip: flip or "as it is")
def test_labels_turned_in_any_way_are_found(flip: str, fake: Fake, tmp_path: Path) -> None:
    scene = fake.train[CASE]
    turned = np.flip(label_array(scene), ["xyz".index(axis) for axis in flip])
    write_turned(fake.download / LABEL, turned, "0001")  # turns nothing more
    data = converted(CONVERTER, fake, tmp_path / "raw")
    np.testing.assert_array_equal(data.label_map(CASE) == 1, scene.structures["pancreas"])
    entry = json.loads((data.folder / "conversion.json").read_text())["cases"][CASE]
    assert entry["placement"] == "on the grid of the image" + (f", flipped {flip}" if flip else "")


def test_slices_are_hounsfield_units_and_in_order(fake: Fake, tmp_path: Path) -> None:
    data = converted(CONVERTER, fake, tmp_path / "raw")
    assert data.states(CASE, "pancreas") == {"pancreas": PRESENT}
    assert data.states(CASE, "background") == {"pancreas": ABSENT}
    # healthy donors: no tumour could be in the label, unlike in that of a dataset that says nothing of tumours
    assert data.labels.set_of(CASE).possible[1] == {"pancreas_tissue"}


def test_labels_that_fit_in_no_way_are_refused(fake: Fake, tmp_path: Path) -> None:
    fat = fake.train[CASE].image < -200
    fat[::-1] &= fat
    fat[:, ::-1] &= fat
    fat[:, :, ::-1] &= fat
    assert fat.any()
    write_turned(fake.download / LABEL, fat.astype(np.uint8), "0001")
    with pytest.raises(ProblemsError, match=r"label0001.nii.gz: the image contradicts the labels \(best of the 8 ways"):
        converted(CONVERTER, fake, tmp_path / "raw")


@pytest.mark.parametrize("turn", ["", "xz"])
def test_a_fatty_pancreas_is_not_refused(turn: str, fake: Fake, tmp_path: Path) -> None:
    scene = with_fat(fake, 2)
    stored = np.flip(label_array(scene), ["xyz".index(axis) for axis in turn])
    write_turned(fake.download / LABEL, stored, "0001")
    data = converted(CONVERTER, fake, tmp_path / "raw")
    np.testing.assert_array_equal(data.label_map(CASE) == 1, scene.structures["pancreas"])


def test_the_best_of_ways_that_are_all_wrong_is_refused(fake: Fake, tmp_path: Path) -> None:
    """Three quarters of one intensity are what real labels reach where they lie wrong, however much better that is."""
    with_fat(fake, 3)
    message = (
        r"best of the 8 ways to turn them\): 75% of 'pancreas' have intensities within 60 .* expected at least 82%"
    )
    with pytest.raises(ProblemsError, match=message):
        converted(CONVERTER, fake, tmp_path / "raw")


def with_fat(fake: Fake, voxels: int) -> Scene:
    """Writes the first scan again with fat in some of the twelve voxels of its pancreas."""
    scene = fake.train[CASE]
    places = np.argwhere(scene.structures["pancreas"])
    assert len(places) == 12
    scene.image[scene.structures["pancreas"]] = 90
    scene.image[tuple(places[:voxels].T)] = -100
    write_series(fake.download, "0001", scene)
    return scene


def test_labels_that_fit_in_several_ways_are_refused(fake: Fake, tmp_path: Path) -> None:
    scene = make_scene(1, ["pancreas"])
    scene.image[:] = 100
    write_series(fake.download, "0001", scene)
    with pytest.raises(ProblemsError, match="the image does not tell how its labels are turned") as caught:
        converted(CONVERTER, fake, tmp_path / "raw")
    assert len(caught.value.problems) == 1
    assert CASE not in converted(CONVERTER, fake, tmp_path / "raw", exclude=(CASE,)).labels.cases


def test_labels_of_another_shape_are_refused(fake: Fake, tmp_path: Path) -> None:
    write_turned(fake.download / LABEL, label_array(fake.train[CASE])[:-1], "0001")
    with pytest.raises(ProblemsError, match=r"the image has shape \(9, 8, 7\), the label map \(8, 8, 7\)"):
        converted(CONVERTER, fake, tmp_path / "raw")


def test_withdrawn_cases_are_left_out_whichever_of_their_files_are_there(fake: Fake) -> None:
    plan = plan_conversion(CONVERTER, fake.download)
    assert plan.left_out == dict.fromkeys(("PANCREAS_0025", "PANCREAS_0070"), "withdrawn by its authors")


def test_a_label_map_that_is_missing_is_named(fake: Fake) -> None:
    (fake.download / LABEL).unlink()
    with pytest.raises(ProblemsError, match=f"{LABEL} is missing"):
        plan_conversion(CONVERTER, fake.download)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("converter", "labels"),
    [(CONVERTER, {"pancreas": 4}), (btcv_gibson.CONVERTER, {"liver": 1, "spleen": 3})],
    ids=lambda content: getattr(content, "name", ""),
)
def test_checks_tell_how_labels_of_a_real_scan_are_turned(converter: Converter, labels: dict[str, int]) -> None:
    folder = real_data_folder() / "abdomen_a"
    if not folder.is_dir():
        pytest.skip("the real volumes are not there")
    scan = nib.load(folder / "ct.nii.gz")
    image = np.asarray(scan.dataobj)
    for reader in (1, 2):
        right = np.asarray(nib.load(folder / f"labels_flare13_reader{reader}.nii.gz").dataobj)
        fitting, uniform = [], {}
        for flip in ALL_FLIPS:
            turned = np.flip(right, ["xyz".index(axis) for axis in flip])
            found = measure_all(converter.checks, lambda name: turned == labels[name], image, scan.affine)
            if not any(check.complaint(value) for check, value in found.items()):
                fitting.append(flip)
            uniform |= {flip: (value, check.share) for check, value in found.items() if isinstance(check, Uniform)}
        assert fitting == [""]
        if uniform:  # all that are turned wrongly are below its limit, and the right one is far above it
            (right_share, limit), wrong = uniform.pop(""), [share for share, _ in uniform.values()]
            assert max(wrong) + 0.03 < limit < right_share - 0.15
            assert not complaints(
                converter, right == labels["pancreas"], with_fat_in(image, right == labels["pancreas"])
            )


def complaints(converter: Converter, pancreas: np.ndarray, image: np.ndarray) -> list[str]:
    found = measure_all(converter.checks, lambda name: pancreas, image, np.eye(4))
    return [text for check, value in found.items() if (text := check.complaint(value))]


def with_fat_in(image: np.ndarray, pancreas: np.ndarray, share: float = 0.15) -> np.ndarray:
    """A scan with fat in some voxels of the pancreas."""
    rng, fatty = np.random.default_rng(0), image.astype(np.float32)
    places = np.argwhere(pancreas)
    places = rng.permutation(places)[: round(share * len(places))]
    fatty[tuple(places.T)] = rng.normal(-90, 20, len(places))
    return fatty
