"""Label maps with numbers from a file, against labels painted by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_partial.cli.export import main as export
from nnunet_partial.cli.predict import main as predict
from nnunet_partial.errors import PartialError
from nnunet_partial.evaluation.reference import prediction_values
from nnunet_partial.inference.label_values import LabelValues
from nnunet_partial.inference.model.nnunet_plans import read_decoding, read_plan
from nnunet_partial.inference.model.plan import PredictionPlan, Resampling
from nnunet_partial.inference.predictor import Prediction, Predictor, open_predictor
from nnunet_partial.inference.preprocessing import Prepared
from nnunet_partial.labels.regions import with_atom_labels, with_region_labels
from tests.unit.nifti_files import read_label_map, write_noise_image
from tests.unit.test_declared_classes import ATOMS, LABELS, NoBackend
from tests.unit.tiny_models import REGIONS, make_dataset_json, make_plans, write_model

SHAPE = (3, 4, 5)
CLASSES = ("liver", "liver_tumour", "spleen")
SIGMOID = with_region_labels(make_dataset_json(), LABELS)
SOFTMAX = with_atom_labels(make_dataset_json(), LABELS)
PLAIN = make_dataset_json({"background": 0, "liver": 1, "spleen": 2, "ignore": 3})
PLAIN_REGIONS = make_dataset_json(REGIONS, regions_class_order=[1, 2, 3])
CUBIC = Resampling("spline", 3, 0, False)


def plan_of(content: Mapping[str, Any]) -> PredictionPlan:
    plan = read_plan(make_plans(), content, configuration="3d_fullres", trainer="t", mirror_axes=None)
    return replace(plan, transpose_forward=(0, 1, 2))


def labels_of(plan: PredictionPlan, logits: np.ndarray, numbers: Mapping[str, int]) -> np.ndarray:
    view = LabelValues(numbers).view(plan.dataset_json, plan.decoding)
    box = tuple(slice(0, n) for n in SHAPE)
    prepared = Prepared(np.zeros((1, *SHAPE), np.float32), SHAPE, box, plan.spacing_mm, plan.spacing_mm)
    return Prediction(Predictor(plan, NoBackend(), view=view), prepared, logits).labels()


def noise(channels: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(channels, *SHAPE)).astype(np.float32)


def file_of(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "values.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("resampling", [None, CUBIC], ids=["linear", "cubic"])
@pytest.mark.parametrize(
    ("content", "classes"), [(SIGMOID, CLASSES), (PLAIN_REGIONS, ("organ", "liver", "spleen"))], ids=["own", "plain"]
)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0), (1,)])
def test_classes_are_painted_in_the_order_of_the_file(content, classes, order, resampling) -> None:
    plan = plan_of(content)
    plan = replace(plan, logit_resampling=resampling or plan.logit_resampling)
    logits = noise(3)
    expected = np.zeros(SHAPE, int)
    for channel in order:
        expected[logits[channel] > 0] = (7, 4, 9)[channel]
    found = labels_of(plan, logits, {classes[channel]: (7, 4, 9)[channel] for channel in order})
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.uint8
    assert len(np.unique(found)) == len(order) + 1


@pytest.mark.parametrize(
    ("numbers", "of_atom"),
    [
        ({"liver": 5, "liver_tumour": 9, "spleen": 1}, (0, 5, 9, 1)),
        ({"liver_tumour": 9, "spleen": 1, "liver": 5}, (0, 5, 5, 1)),
        ({"liver_tumour": 9}, (0, 0, 9, 0)),
        ({"spleen": 5, "liver": 5}, (0, 5, 5, 5)),
        ({"liver": 255, "liver_tumour": 65535}, (0, 255, 65535, 0)),
    ],
)
def test_atoms_of_a_softmax_get_the_number_of_the_last_class(numbers, of_atom) -> None:
    logits = noise(len(ATOMS))
    found = labels_of(plan_of(SOFTMAX), logits, numbers)
    np.testing.assert_array_equal(found, np.array(of_atom)[logits.argmax(0)])
    assert found.dtype == (np.uint16 if max(of_atom) > 254 else np.uint8)


def test_labels_of_a_stock_softmax() -> None:
    logits = noise(3)
    for numbers, of_label in (({"spleen": 13, "liver": 6}, (0, 6, 13)), ({"spleen": 13}, (0, 0, 13))):
        found = labels_of(plan_of(PLAIN), logits, numbers)
        np.testing.assert_array_equal(found, np.array(of_label)[logits.argmax(0)])


@pytest.mark.parametrize(
    ("content", "numbers", "expected"),
    [
        (SIGMOID, {"spleen": 3, "liver": 5, "liver_tumour": 9}, {"spleen": {3}, "liver": {5, 9}, "liver_tumour": {9}}),
        (SIGMOID, {"liver_tumour": 9, "liver": 5}, {"liver_tumour": {9}, "liver": {5}}),
        (SOFTMAX, {"liver": 5, "liver_tumour": 9}, {"liver": {5, 9}, "liver_tumour": {9}}),
        (SOFTMAX, {"spleen": 5}, {"spleen": {5}}),
        (PLAIN_REGIONS, {"organ": 4, "spleen": 8}, {"organ": {4, 8}, "spleen": {8}}),
        (PLAIN, {"spleen": 8, "liver": 8}, {"spleen": {8}, "liver": {8}}),
    ],
)
def test_dataset_json_says_what_label_maps_have(content, numbers, expected) -> None:
    described = LabelValues(numbers).described(content, read_decoding(content))
    assert prediction_values(described) == expected
    assert {key: described[key] for key in described.keys() - {"labels", "regions_class_order"}} == {
        key: content[key] for key in content.keys() - {"labels", "regions_class_order"}
    }
    # stock nnU-Net's evaluation asks for the same
    manager = LabelManager(described["labels"], described.get("regions_class_order"))
    assert manager.has_regions == any(len(values) > 1 for values in expected.values())
    if manager.has_regions:
        regions = [set(np.atleast_1d(region)) for region in manager.foreground_regions]
        assert regions == list(expected.values())
        assert manager.regions_class_order == list(numbers.values())
    else:
        assert set(manager.foreground_labels) == set().union(*expected.values())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"cannot be read as JSON"),
        (b"\xff\xfe".decode("latin-1"), r"cannot be read as JSON"),
        ([1], r"expected a JSON object from class names to numbers, .*, found \[1\]"),
        ({}, r"no class is named"),
        ({"liver": 1, "spleen": 0}, r"'spleen': expected a whole number from 1 to 65535, found 0"),
        ({"liver": 65536}, r"'liver': expected a whole number from 1 to 65535, found 65536"),
        ({"liver": 1.0}, r"'liver': expected a whole number .*, found 1.0"),
        ({"liver": True}, r"'liver': expected a whole number .*, found true"),
        ({"liver": "1"}, r"'liver': expected a whole number .*, found \"1\""),
        ({"liver": {"a": 1}}, r"'liver': expected a whole number"),
        ('{"liver": 1, "spleen": 2, "liver": 3}', r"'liver' is named twice"),
    ],
)
def test_files_that_say_nothing_clear_are_refused(tmp_path, content, message) -> None:
    path = file_of(tmp_path, content)
    with pytest.raises(PartialError, match=f"values.json: {message}") as raised:
        LabelValues.read(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_missing_file_is_refused(tmp_path) -> None:
    with pytest.raises(PartialError, match=r"nothing.json: no such file"):
        LabelValues.read(tmp_path / "nothing.json")


@pytest.mark.parametrize("name", ["kidney", "background", "liver_tissue"])
@pytest.mark.parametrize("content", [SIGMOID, SOFTMAX], ids=["sigmoid", "softmax"])
def test_unknown_classes_are_refused_with_a_list(content, name) -> None:
    values = LabelValues({"liver": 1, name: 2}, "f.json")
    with pytest.raises(
        PartialError, match=f"f.json: '{name}' is no class of the model; its classes are {', '.join(CLASSES)}$"
    ):
        values.view(content, read_decoding(content))


def test_background_and_ignore_of_a_stock_model_have_no_number() -> None:
    for name in ("background", "ignore"):
        with pytest.raises(PartialError, match=f"'{name}' is no class of the model; its classes are liver, spleen$"):
            LabelValues({name: 2}).view(PLAIN, read_decoding(PLAIN))


def test_commands(tmp_path, capsys) -> None:
    model, images = write_model(tmp_path / "model", make_plans(), SIGMOID), write_noise_image(tmp_path / "images")
    values = file_of(tmp_path, {"spleen": 300, "liver": 7})
    chosen = ["--label_values", str(values)]

    def run(output: str, *more: str, model: Path = model) -> int:
        words = ["-i", str(images), "-o", str(tmp_path / output), "-m", str(model), "--mode", "fast"]
        return predict([*words, "-device", "cpu", "--threads", "1", "--precision", "fp32", *more])

    assert run("own") == 0
    assert run("masks", "--output", "classes") == 0
    masks = {name: nib.load(tmp_path / "masks" / "a" / f"{name}.nii.gz").get_fdata() > 0 for name in CLASSES}
    expected = np.where(masks["liver"], 7, np.where(masks["spleen"], 300, 0))
    assert set(np.unique(expected)) == {0, 7, 300}
    assert run("chosen", *chosen) == 0
    np.testing.assert_array_equal(read_label_map(tmp_path / "chosen"), expected)
    written = json.loads((tmp_path / "chosen" / "dataset.json").read_text())
    assert written["labels"] == {"background": 0, "spleen": 300, "liver": 7}
    # the order counts, and where the numbers were read does not
    assert run("chosen", "--continue_prediction", *chosen) == 0
    other = tmp_path / "other.json"
    other.write_text('{"liver": 7, "spleen": 300}')
    capsys.readouterr()
    for more in ([], ["--label_values", str(other)]):
        assert run("chosen", "--continue_prediction", *more) == 1
        assert "predictions with 'label_values' [['spleen', 300], ['liver', 7]], now it is" in capsys.readouterr().err

    exported = tmp_path / "exported"
    assert export(["-m", str(model), "-o", str(exported), "--formats", "torch", *chosen]) == 0
    assert run("default", model=exported) == 0
    np.testing.assert_array_equal(read_label_map(tmp_path / "default"), expected)
    assert json.loads((tmp_path / "default" / "dataset.json").read_text())["labels"] == written["labels"]
    # a file beats what the model was exported with, and so does a protocol
    assert run("given", "--label_values", str(other), model=exported) == 0
    expected = np.where(masks["spleen"], 300, np.where(masks["liver"], 7, 0))
    np.testing.assert_array_equal(read_label_map(tmp_path / "given"), expected)
    assert run("btcv", "--protocol", "btcv", model=exported) == 0
    np.testing.assert_array_equal(
        read_label_map(tmp_path / "btcv"), np.array([0, 6, 6, 0])[read_label_map(tmp_path / "own")]
    )


def test_bad_arguments_write_nothing(tmp_path, capsys) -> None:
    model, images = write_model(tmp_path / "model", make_plans(), SIGMOID), write_noise_image(tmp_path / "images")
    words = ["-i", str(images), "-o", str(tmp_path / "out"), "-m", str(model), "-device", "cpu"]
    words += ["--label_values", str(file_of(tmp_path, {"kidney": 2}))]
    for more in (["--protocol", "btcv"], ["--output", "classes"], ["--output", "seg.nrrd"]):
        with pytest.raises(SystemExit):
            predict([*words, *more])
        assert "--label_values" in capsys.readouterr().err.splitlines()[-1]
    assert predict(words) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: {tmp_path / 'values.json'}: 'kidney' is no class of the model; its classes are ")
    assert export(["-m", str(model), "-o", str(tmp_path / "out"), *words[-2:]]) == 1
    assert capsys.readouterr().err == message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "model", "values.json"]
    with pytest.raises(PartialError, match="protocol and label values: expected one of them"):
        open_predictor(model, device="cpu", protocol="btcv", label_values=LabelValues({"liver": 1}))
