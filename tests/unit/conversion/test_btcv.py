"""BTCV, its cervix part, and Gibson's labels of BTCV and NIH images."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.conversion import ALL_FLIPS
from nnunet_partial.conversion.checks import measure_all
from nnunet_partial.conversion.engine import plan_conversion
from nnunet_partial.dataset_conversion import btcv, btcv_gibson, nih_pancreas
from nnunet_partial.errors import PartialError, ProblemsError
from tests.conversion_fakes.btcv_gibson import LABELS, NOT_IN_NIH, annotated_box
from tests.conversion_fakes.scene import Fake
from tests.integration.real_ct import real_data_folder
from tests.unit.conversion.conversions import ABSENT, PRESENT, UNKNOWN, converted, fake_download

BTCV, CERVIX = btcv.CONVERTERS
GIBSON = btcv_gibson.CONVERTER
NIH_CASES = ("tcia_0002", "tcia_0003", "tcia_0007")


@pytest.fixture
def gibson(tmp_path: Path) -> Fake:
    return fake_download(GIBSON, tmp_path / "download")


def test_a_missing_structure_of_btcv_is_absent(tmp_path: Path) -> None:
    data = converted(BTCV, fake_download(BTCV, tmp_path / "download"), tmp_path / "raw")
    assert data.values["pancreas"] == 11
    assert data.set_of("img0010") == "all"
    assert data.states("img0010", "background")["kidney_right"] == ABSENT
    assert "liver_tumor" in data.labels.set_of("img0010").possible[data.values["liver"]]
    assert {path.name for path in (data.folder / "imagesTs").iterdir()} == {"img0061_0000.nii.gz"}
    assert not (data.folder / "labelsTs").exists()
    assert "img0061,BTCV_0061" in (data.folder / "patients.csv").read_text()


def test_labels_of_the_cervix_part_must_lie_on_their_images(tmp_path: Path) -> None:
    fake = fake_download(CERVIX, tmp_path / "download")
    path = fake.download / "CervixRawData" / "Training" / "label" / "1410012-Mask.nii.gz"
    image = nib.load(path)
    affine = image.affine.copy()
    affine[0, 3] += 4
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj).copy(), affine), path)
    with pytest.raises(ProblemsError, match=r"1410012-Mask.nii.gz does not lie on its image 1410012-Image.nii.gz"):
        converted(CERVIX, fake, tmp_path / "raw")
    data = converted(CERVIX, fake, tmp_path / "raw", exclude=("1410012",))
    assert set(data.labels.cases) == {"0507688"}


def test_the_parts_of_gibson_have_annotation_sets_of_their_own(gibson: Fake, tmp_path: Path) -> None:
    data = converted(GIBSON, gibson, tmp_path / "raw")
    assert {case: data.set_of(case) for case in ("btcv_0001", *NIH_CASES)} == {
        "btcv_0001": "btcv",
        **dict.fromkeys(NIH_CASES, "tcia"),
    }
    assert data.states("btcv_0001", "background") == dict.fromkeys(LABELS, ABSENT)
    for case in NIH_CASES:
        known = data.states(case, "background")
        assert known == {name: UNKNOWN if name in NOT_IN_NIH else ABSENT for name in LABELS}
        liver = data.states(case, "liver")
        assert liver == {name: PRESENT if name == "liver" else ABSENT for name in LABELS}


def test_nothing_is_known_outside_of_the_box(gibson: Fake, tmp_path: Path) -> None:
    data = converted(GIBSON, gibson, tmp_path / "raw")
    for case in ("btcv_0001", *NIH_CASES):
        labels, inside = data.label_map(case), annotated_box(gibson.train[case])
        np.testing.assert_array_equal(labels == data.values["ignore"], ~inside, err_msg=case)
        assert set(data.states(case, "ignore").values()) == {UNKNOWN}


def test_patients_have_the_names_they_have_in_btcv_and_nih(gibson: Fake, tmp_path: Path) -> None:
    other = plan_conversion(nih_pancreas.CONVERTER, fake_download(nih_pancreas.CONVERTER, tmp_path / "nih").download)
    training = plan_conversion(BTCV, fake_download(BTCV, tmp_path / "btcv").download)
    names = {case.case.patient for case in (*other.cases, *training.cases)}
    mine = {case.case.id: case.case.patient for case in plan_conversion(GIBSON, gibson.download).cases}
    assert names & set(mine.values()) == {"BTCV_0001", "BTCV_0061", "PANCREAS_0002", "PANCREAS_0007"}


def test_labels_of_the_withdrawn_image_are_left_out(gibson: Fake) -> None:
    left_out = plan_conversion(GIBSON, gibson.download).left_out
    assert left_out == {"tcia_0025": "its image was withdrawn by its authors"}


def test_labels_without_images_are_named_with_where_they_are_expected(gibson: Fake) -> None:
    (gibson.download / "RawData").rename(gibson.download / "elsewhere")
    (gibson.download / "Pancreas-CT" / "PANCREAS_0007").rename(gibson.download / "PANCREAS_0007")
    with pytest.raises(ProblemsError) as caught:
        plan_conversion(GIBSON, gibson.download)
    assert caught.value.problems == [
        "case 'btcv_0001': RawData/Training/img/img0001.nii.gz is missing",
        "case 'btcv_0061': RawData/Testing/img/img0061.nii.gz is missing",
        "case 'tcia_0007': Pancreas-CT/PANCREAS_0007 is missing",
    ]


def test_images_may_be_linked(gibson: Fake, tmp_path: Path) -> None:
    for name in ("RawData", "Pancreas-CT"):
        (gibson.download / name).rename(tmp_path / name)
        (gibson.download / name).symlink_to(tmp_path / name)
    assert len(plan_conversion(GIBSON, gibson.download).cases) == 5


def test_labels_on_the_wrong_side_are_refused(gibson: Fake, tmp_path: Path) -> None:
    path = gibson.download / "label_btcv_multiorgan" / "label0001.nii.gz"
    image = nib.load(path)
    array = np.asarray(image.dataobj).copy()
    spleen, liver = array == 1, array == 6
    array[spleen], array[liver] = 6, 1
    nib.save(nib.Nifti1Image(array, image.affine), path)
    with pytest.raises(ProblemsError, match="'spleen' lies on the patient's right of 'liver'"):
        converted(GIBSON, gibson, tmp_path / "raw")


def test_labels_may_be_transposed_as_well(gibson: Fake, tmp_path: Path) -> None:
    data = converted(GIBSON, gibson, tmp_path / "raw")
    placements = {case: data.record[case]["placement"] for case in NIH_CASES}
    assert placements == {
        "tcia_0002": "on the grid of the image, flipped y",
        "tcia_0003": "on the grid of the image, axes yxz, flipped x",
        "tcia_0007": "on the grid of the image, flipped z",
    }
    liver = data.marked("tcia_0003", "liver")
    np.testing.assert_array_equal(liver, gibson.train["tcia_0003"].structures["liver"])
    assert liver.any()


@pytest.mark.real_data
def test_checks_tell_which_labels_of_a_real_scan_are_transposed() -> None:
    folder = real_data_folder() / "abdomen_a"
    if not folder.is_dir():
        pytest.skip("the real volumes are not there")
    scan = nib.load(folder / "ct.nii.gz")
    square = np.s_[:101, :101]
    image = np.asarray(scan.dataobj)[square]
    right = np.asarray(nib.load(folder / "labels_flare13_reader1.nii.gz").dataobj)[square]
    values = {"liver": 1, "spleen": 3}
    fitting = []
    for axes in ("xyz", "yxz"):
        for flip in ALL_FLIPS:
            turned = np.flip(right.transpose(["xyz".index(a) for a in axes]), ["xyz".index(a) for a in flip])
            regions = {name: turned == value for name, value in values.items()}
            found = measure_all(GIBSON.checks, regions.__getitem__, image, scan.affine)
            if not any(check.complaint(value) for check, value in found.items()):
                fitting.append((axes, flip))
    assert fitting == [("xyz", "")]


def test_both_places_of_the_nih_labels_are_found(gibson: Fake) -> None:
    place = gibson.download / "label_tciapancreasct_multiorgan" / "label_tcia_multiorgan"
    place.rename(gibson.download / "label_tcia_multiorgan")
    assert [case.case.id for case in plan_conversion(GIBSON, gibson.download).cases][2:] == list(NIH_CASES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            None,
            r"boxes.csv: no such file; write it from the cropping.csv of the record, with the columns part \(btcv or "
            r"tcia\), id .*x_first, x_last, y_first, y_last, z_first, z_last: .*"
            r"cropping.csv is 'original_id;crop a;crop b'$",
        ),
        (lambda text: text.replace("x_first", "x0"), r"boxes.csv: expected the columns \['part', 'id', 'x_first'"),
        (lambda text: text.replace("tcia,0007", "tcia,0008"), "no row of part 'tcia' and id '0007'"),
        (lambda text: text.replace("btcv,0001,1", "btcv,0001,1.5"), "expected whole numbers from 0, found"),
    ],
    ids=["missing", "other columns", "no row", "no whole number"],
)
def test_boxes_that_cannot_be_used(change: object, message: str, gibson: Fake) -> None:
    path = gibson.download / "boxes.csv"
    text = path.read_text()
    path.unlink()
    if callable(change):
        path.write_text(change(text))
    with pytest.raises(PartialError, match=message):
        plan_conversion(GIBSON, gibson.download)


def test_all_boxes_that_are_missing_are_named_at_once(gibson: Fake) -> None:
    path = gibson.download / "boxes.csv"
    rows = path.read_text().splitlines()
    path.write_text(
        "\n".join(row for row in rows if row[:9] not in ("btcv,0061", "tcia,0007")).replace("0003,", "0003,-")
    )
    with pytest.raises(ProblemsError) as caught:
        plan_conversion(GIBSON, gibson.download)
    assert [problem.partition(", found")[0].partition(", of")[0] for problem in caught.value.problems] == [
        "expected whole numbers from 0",
        "no row of part 'btcv' and id '0061'",
        "no row of part 'tcia' and id '0003'",
        "no row of part 'tcia' and id '0007'",
    ]
    assert "cropping.csv is 'original_id;crop a;crop b': 4 problems" in str(caught.value)
    (gibson.download / "cropping.csv").unlink()
    with pytest.raises(ProblemsError, match="becomes unknown: 4 problems"):
        plan_conversion(GIBSON, gibson.download)


def test_a_box_that_is_larger_than_the_label_map(gibson: Fake, tmp_path: Path) -> None:
    path = gibson.download / "boxes.csv"
    path.write_text(path.read_text().replace("btcv,0001,1,7", "btcv,0001,1,9"))
    with pytest.raises(ProblemsError, match=r"label0001.nii.gz: the box \(\(1, 10\), .* does not lie in the label map"):
        converted(GIBSON, gibson, tmp_path / "raw")
