"""Models of CT and MR together: nnUNetv2_partial_predict normalises as nnUNetv2_partial_normalize would have."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.cli import normalize, predict
from nnunet_partial.errors import PartialError
from nnunet_partial.inference.model.exported_model import PLAN_FILE, export_model
from nnunet_partial.inference.predictor import Predictor, open_predictor
from nnunet_partial.inference.reading.image_reader import read_image
from nnunet_partial.labels.regions import with_region_labels
from tests.integration.test_predict import write_image
from tests.unit.test_dicom import steps, write_series
from tests.unit.test_modality_rules import dataset_json
from tests.unit.test_protocol_view import labels_of
from tests.unit.tiny_models import configuration, make_dataset_json, make_plans, write_model

MODALITIES = {"ct_1": "CT", "mr_1": "MR", "mr_2": "MR"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose dataset.json has rules for CT and MR."""
    content = with_region_labels(make_dataset_json(channels=("noNorm",)), labels_of())
    content["partial_labels"] |= dataset_json()["partial_labels"]
    plain = configuration(normalization_schemes=["NoNormalization"], use_mask_for_norm=[False])
    return write_model(tmp_path_factory.mktemp("models") / "m", make_plans(**{"3d_fullres": plain}), content)


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, exported."""
    folder = tmp_path_factory.mktemp("exported") / "e"
    export_model(model, folder, formats=("torch",))
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A CT and two MR, and modalities.csv beside their folder."""
    for seed, case in enumerate(MODALITIES):
        write_image(tmp_path / "images" / f"{case}_0000.nii.gz", seed=seed)
    with (tmp_path / "modalities.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("case", "modality"), *MODALITIES.items(), ("elsewhere", "PET")])
    return tmp_path / "images"


def run(model: Path, images: Path, output: Path, *more: object) -> int:
    where = ["-i", images, "-o", output, "-m", model, "-device", "cpu", "--mode", "fast", "--precision", "fp32"]
    return predict.main([str(word) for word in (*where, *more)])


def failed(capsys: pytest.CaptureFixture[str], model: Path, images: Path, output: Path, *more: object) -> str:
    """The message of a run that fails."""
    assert run(model, images, output, *more) == 1
    message = capsys.readouterr().err
    assert message.count("error: ") == 1
    return message


def normalise(images: Path, output: Path, model: Path) -> Path:
    table = images.parent / "modalities.csv"
    words = ["-i", images, "-o", output, "-m", model, "--modalities", table, "-np", "1"]
    assert normalize.main([str(word) for word in words]) == 0
    return output


def read(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(nib.load(path).dataobj) for path in sorted(folder.rglob("*.nii.gz"))}


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert len(np.unique(array)) > 1, name
        np.testing.assert_array_equal(found[name], array)


def test_equals_normalising_before(model: Path, exported: Path, images: Path, tmp_path: Path) -> None:
    before = normalise(images, tmp_path / "normalised", model)
    assert run(model, before, tmp_path / "two_steps", "--modality", "normalised") == 0
    expected = read(tmp_path / "two_steps")
    assert list(expected) == [f"{case}.nii.gz" for case in MODALITIES]
    table = ("--modalities", tmp_path / "modalities.csv")
    assert run(model, images, tmp_path / "one_step", *table) == 0
    assert_equal(read(tmp_path / "one_step"), expected)
    assert run(exported, images, tmp_path / "of_exported", *table) == 0
    assert_equal(read(tmp_path / "of_exported"), expected)
    # the modality decides: a CT taken for MR is another image
    assert run(model, images / "ct_1_0000.nii.gz", tmp_path / "wrong", "--modality", "MR") == 0
    assert (read(tmp_path / "wrong")["ct_1.nii.gz"] != expected["ct_1.nii.gz"]).any()
    for case, modality in MODALITIES.items():
        assert run(model, images / f"{case}_0000.nii.gz", tmp_path / "alone", "--modality", modality) == 0
    assert_equal(read(tmp_path / "alone"), expected)


def test_probabilities_too(model: Path, images: Path, tmp_path: Path) -> None:
    before = normalise(images, tmp_path / "normalised", model)
    more = ("--save_probabilities", "--output", "classes", "--modality")
    assert run(model, before / "mr_1_0000.nii.gz", tmp_path / "two_steps", *more, "normalised") == 0
    assert run(model, images / "mr_1_0000.nii.gz", tmp_path / "one_step", *more, "MR") == 0
    found, expected = read(tmp_path / "one_step"), read(tmp_path / "two_steps")
    assert len(expected) == 5
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_exported_models_carry_the_rules(exported: Path) -> None:
    content = json.loads((exported / PLAN_FILE).read_text())
    rules = content["plan"]["dataset_json"]["partial_labels"]["normalisation"]
    assert rules == {"CT": {"clip": [-300.5, 250]}, "MR": {"percentiles": [1, 99]}}


def test_from_python(model: Path, exported: Path, images: Path, tmp_path: Path) -> None:
    before = normalise(images, tmp_path / "normalised", model)
    for folder in (model, exported):
        predictor: Predictor = open_predictor(folder, device="cpu")
        for case, modality in MODALITIES.items():
            image, made = (read_image([f / f"{case}_0000.nii.gz"], predictor.plan.reader) for f in (images, before))
            expected = predictor(made.data, made.spacing, modality="normalised")
            np.testing.assert_array_equal(predictor(image.data, image.spacing, modality=modality), expected)
            prediction = predictor.predicted(image.data, image.spacing, modality)
            np.testing.assert_array_equal(prediction.labels(), expected)
            windows = predictor.windows(made.data, made.spacing, "normalised")
            assert predictor.windows(image.data, image.spacing, modality) == windows
        with pytest.raises(PartialError, match="normalised by modality, one of CT, MR"):
            predictor(image.data, image.spacing)


def test_dicom_series(model: Path, tmp_path: Path) -> None:
    series = write_series(tmp_path / "dicom" / "scan_1", steps())
    assert run(model, tmp_path / "dicom", tmp_path / "out", "--modality", "CT") == 0
    predictor = open_predictor(model, device="cpu", mode="fast", precision="fp32")
    image = read_image([series], predictor.plan.reader)
    normalised = ((image.data.clip(-300.5, 250) + 300.5) / 550.5).astype(np.float32)
    expected = predictor(normalised, image.spacing, "normalised")
    np.testing.assert_array_equal(read(tmp_path / "out")["scan_1.nii.gz"], expected.transpose(2, 1, 0))


def test_a_modality_is_needed(
    model: Path, exported: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (model, exported):
        message = failed(capsys, folder, images, tmp_path / "out")
        assert (
            "this model's images are normalised by modality, one of CT, MR: say which with --modality NAME" in message
        )
    message = failed(capsys, model, images, tmp_path / "out", "--modality", "PET")
    assert "no rule for the modality ['PET']; expected some of ['CT', 'MR', 'normalised']" in message
    table = tmp_path / "few.csv"
    table.write_text("case,modality\nct_1,CT\n")
    message = failed(capsys, model, images, tmp_path / "out", "--modalities", table, "-num_parts", "3")
    assert "no modality is given for the cases ['mr_1', 'mr_2']; add them to the CSV file" in message
    table.write_text("case,kind\nct_1,CT\n")
    assert "columns ['modality'] are missing" in failed(capsys, model, images, tmp_path / "out", "--modalities", table)
    with pytest.raises(SystemExit):
        run(model, images, tmp_path / "out", "--modalities", table, "--modality", "CT")
    assert not (tmp_path / "out").exists()


def test_normalised_images_are_refused_case_by_case(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = normalise(images, tmp_path / "normalised", model)
    (images / "mr_1_0000.nii.gz").write_bytes((before / "mr_1_0000.nii.gz").read_bytes())
    table = ("--modalities", tmp_path / "modalities.csv")
    message = failed(capsys, model, images, tmp_path / "out", *table)
    assert "1 of 3 cases could not be predicted" in message
    assert (
        "mr_1_0000.nii.gz: is normalised already, and would be normalised twice; give the original image, or" in message
    )
    assert list(read(tmp_path / "out")) == ["ct_1.nii.gz", "mr_2.nii.gz"]
    # the table may say so of single cases
    table[1].write_text(table[1].read_text().replace("mr_1,MR", "mr_1,normalised"))
    assert run(model, images, tmp_path / "out", *table, "--continue_prediction") == 0
    assert run(model, before, tmp_path / "two_steps", "--modality", "normalised") == 0
    assert_equal(read(tmp_path / "out"), read(tmp_path / "two_steps"))


def test_models_without_rules_take_no_modality(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stock = write_model(tmp_path / "stock")
    for modality in ("CT", "normalised"):
        message = failed(capsys, stock, images, tmp_path / "out", "--modality", modality)
        assert "this model has no normalisation by modality: leave the modality out" in message
    assert not (tmp_path / "out").exists()
