"""`nnUNetv2_partial_ensemble predict` with tiny networks: what is joined, written, kept and refused."""

from __future__ import annotations

import dataclasses
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from nnunet_partial.cli import ensemble
from nnunet_partial.ensemble import prediction
from nnunet_partial.evaluation import evaluate_folder
from nnunet_partial.inference.predictor import Predictor, open_predictor
from nnunet_partial.inference.reading.image_reader import read_image
from nnunet_partial.labels import partial_labels_of, to_json, with_atom_labels, with_classes, with_region_labels
from nnunet_partial.normalisation import Clip
from tests.unit.stock_commands import CLASSES, DATASET, MODEL, results
from tests.unit.test_ensemble import masks_by_loops, painted_by_loops
from tests.unit.tiny_models import configuration, make_plans, write_model

CASES = ("case_1", "case_2")
AFFINE = np.array([[-1.5, 0, 0, -1], [0, -1.5, 0, -2], [0, 0, 3, 3], [0, 0, 0, 1.0]])
MIRRORED = ((0, 1, 2), (0,), None)
"""Axes along which the models are mirrored: with classes that have sides they may differ."""

Predict = Callable[..., int]


def raw_json(folder: Path) -> Path:
    return folder / "raw" / DATASET / "dataset.json"


def write_models(folder: Path, folds: tuple[int, ...] = (0,)) -> None:
    """Writes a model of each of three classes, whose weights are its own."""
    content = json.loads(raw_json(folder).read_text())
    labels = partial_labels_of(content)
    for number, (name, axes) in enumerate(zip(labels.class_names, MIRRORED, strict=True)):
        model = write_model(
            results(folder, name) / DATASET / MODEL,
            dataset_json=with_region_labels(content, with_classes(labels, [name])),
            folds=folds,
            trainer_name="PartialLabelTrainerImplicit",
            inference_allowed_mirroring_axes=axes,
        )
        generator = torch.Generator().manual_seed(number)
        for fold in folds:
            file = model / f"fold_{fold}" / "checkpoint_final.pth"
            checkpoint = torch.load(file, weights_only=False)
            for weights in checkpoint["network_weights"].values():
                weights.add_(0.2 * torch.randn(weights.shape, generator=generator))
            torch.save(checkpoint, file)


@pytest.fixture
def folder(abdomen: SimpleNamespace, merge: Callable[..., Any], nnunet_folders: Path) -> Path:
    """nnU-Net's folders, a merged dataset of liver, tumour (inside) and spleen, their models and two images."""
    merge(abdomen.text)
    write_models(nnunet_folders)
    (nnunet_folders / "images").mkdir()
    for seed, case in enumerate(CASES):
        image = np.random.default_rng(seed).normal(0, 400, (12, 10, 7)).astype(np.int16)
        nib.save(nib.Nifti1Image(image, AFFINE), nnunet_folders / "images" / f"{case}_0000.nii.gz")
    return nnunet_folders


@pytest.fixture
def predict(folder: Path) -> Predict:
    """Predicts; more arguments are appended."""

    def run(*more: str) -> int:
        command = ["predict", "-i", str(folder / "images"), "-o", str(folder / "out"), "-d", "100", "-c", "3d_fullres"]
        return ensemble.main([*command, "-f", "0", "-device", "cpu", *more])

    return run


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Class and options of each model that was loaded."""
    found: list[tuple[str, dict[str, Any]]] = []

    def recorded(model: Path, **options: Any) -> Predictor:
        found.append((model.parents[1].name, options))
        return open_predictor(model, **options)

    monkeypatch.setattr(prediction, "open_predictor", recorded)
    return found


def probabilities_of(name: str, case: str, folder: Path, modality: str | None = None, **options: Any) -> np.ndarray:
    """Of one model alone."""
    predictor = open_predictor(results(folder, name) / DATASET / MODEL, device="cpu", **options)
    image = read_image([folder / "images" / f"{case}_0000.nii.gz"], predictor.plan.reader)
    ((found, probability),) = predictor.predicted(image.data, image.spacing, modality).probabilities()
    assert found == name
    return probability


def expected_label_map(case: str, folder: Path, **options: Any) -> np.ndarray:
    space = partial_labels_of(json.loads(raw_json(folder).read_text())).space
    probabilities = np.stack([probabilities_of(name, case, folder, **options) for name in CLASSES])
    return painted_by_loops(masks_by_loops(probabilities, space))


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj).T


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


OUTPUTS = ["case_1.nii.gz", "case_2.nii.gz", "dataset.json", "prediction.json"]


def test_prediction_joins_the_classes(
    folder: Path, predict: Predict, opened: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict() == 0
    out = folder / "out"
    assert names(out) == OUTPUTS
    assert [name for name, _ in opened] == CLASSES
    for case in CASES:
        found = nib.load(out / f"{case}.nii.gz")
        expected = expected_label_map(case, folder)
        assert len(np.unique(expected)) == 4
        np.testing.assert_array_equal(read(out / f"{case}.nii.gz"), expected)
        assert found.get_data_dtype() == np.uint8
        np.testing.assert_allclose(found.affine, AFFINE)
    written = json.loads((out / "dataset.json").read_text())
    assert written["labels"] == {"background": 0, "liver": [1, 2], "tumour": [2, 2], "spleen": [3, 3]}
    assert written["regions_class_order"] == [1, 2, 3]
    record = json.loads((out / "prediction.json").read_text())
    assert record["command"].startswith("nnUNetv2_partial_ensemble predict -i ")
    assert record["ensemble"]["classes"] == CLASSES
    assert record["ensemble"]["mode"] == "exact"
    assert "device" not in record["ensemble"]
    printed = capsys.readouterr().out
    assert "3 models, PyTorch" in printed
    assert "2 cases predicted\nnext: nnUNetv2_partial_evaluate" in printed


def test_predictions_can_be_evaluated(folder: Path, predict: Predict) -> None:
    references = folder / "references"
    references.mkdir()
    labels = {"liver": [1, 2], "tumour": 2, "spleen": 3}
    (references / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "labels": {"background": 0, **labels}, "file_ending": ".nii.gz"})
    )
    expected = {case: expected_label_map(case, folder) for case in CASES}
    for case, label_map in expected.items():
        nib.save(nib.Nifti1Image(label_map.T.astype(np.uint8), AFFINE), references / f"{case}.nii.gz")
    assert predict("--independent") == 0
    evaluation = evaluate_folder(references, folder / "out", nsd_tolerance_mm=None)
    dice = {evaluation.summary["classes"][key]: m["Dice"] for key, m in evaluation.summary["mean"].items()}
    assert dice == dict.fromkeys(CLASSES, 1.0)
    alone = evaluate_folder(
        references, folder / "out" / "independent" / "spleen", classes=["spleen"], nsd_tolerance_mm=None
    )
    masks = {case: label_map == 3 for case, label_map in expected.items()}
    found = {case: probabilities_of("spleen", case, folder) > 0.5 for case in masks}
    expected_dice = np.mean([2 * (masks[c] & found[c]).sum() / (masks[c].sum() + found[c].sum()) for c in masks])
    assert next(iter(alone.summary["mean"].values()))["Dice"] == pytest.approx(expected_dice)
    assert expected_dice < 1


def test_independent_label_maps_and_probabilities(
    folder: Path, predict: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("--independent", "--save_probabilities") == 0
    assert "/independent/CLASS --classes CLASS" in capsys.readouterr().out
    out = folder / "out"
    for name in CLASSES:
        alone = out / "independent" / name
        assert names(alone) == ["case_1.nii.gz", "case_2.nii.gz", "dataset.json"]
        assert json.loads((alone / "dataset.json").read_text())["labels"] == {"background": 0, name: [1, 1]}
        expected = probabilities_of(name, "case_2", folder)
        np.testing.assert_array_equal(read(alone / "case_2.nii.gz"), expected > 0.5)
        eighth = read(out / "case_2_probabilities" / f"{name}.nii.gz")
        np.testing.assert_array_equal(eighth, np.rint(expected * 255))
    np.testing.assert_array_equal(read(out / "case_2.nii.gz"), expected_label_map("case_2", folder))


def test_options_reach_the_models(
    folder: Path, predict: Predict, opened: list[tuple[str, dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in CLASSES:
        model = results(folder, name) / DATASET / MODEL / "fold_0"
        (model / "checkpoint_final.pth").rename(model / "checkpoint_best.pth")
    options = ["--mode", "fast", "--precision", "fp32", "-step_size", "0.6", "--disable_tta", "--batch_size", "2"]
    chosen = ["--threads", "1", "-chk", "checkpoint_best.pth", "--trust_checkpoint", "--classes", "spleen", "tumour"]
    assert predict(*options, *chosen) == 0
    expected = {"mode": "fast", "precision": "fp32", "step": 0.6, "mirroring": False, "batch_size": 2, "threads": 1}
    expected |= {"folds": ["0"], "checkpoint": "checkpoint_best.pth", "trust_checkpoint": True, "device": "cpu"}
    assert opened == [("tumour", expected), ("spleen", expected)]
    assert f"-pred {folder / 'out'} --classes spleen tumour\n" in capsys.readouterr().out
    labels = json.loads((folder / "out" / "dataset.json").read_text())["labels"]
    assert labels == {"background": 0, "tumour": [1, 1], "spleen": [2, 2]}


def test_large_ensembles_hold_one_model_at_a_time(
    folder: Path, predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    loaded = []

    def counted(model: Path, **options: Any) -> Predictor:
        assert len(alive) == 0
        predictor = open_predictor(model, **options)
        alive.add(predictor.backend)
        loaded.append(model.parents[1].name)
        return predictor

    monkeypatch.setattr(prediction, "open_predictor", counted)
    monkeypatch.setattr(prediction, "_KEPT_BYTES", 1000)
    assert predict() == 0
    assert loaded == CLASSES * 3  # to see that all can be loaded, and for each of two cases
    np.testing.assert_array_equal(read(folder / "out" / "case_2.nii.gz"), expected_label_map("case_2", folder))


@pytest.fixture
def raises(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, BaseException], None]:
    """Makes the nth prediction of a class raise an error."""

    def set_up(number: int, error: BaseException) -> None:
        predictions = iter(range(1, 100))
        real = Predictor.of_prepared

        def of_prepared(self: Predictor, *arguments: Any) -> Any:
            if next(predictions) == number:
                raise error
            return real(self, *arguments)

        monkeypatch.setattr(Predictor, "of_prepared", of_prepared)

    return set_up


def test_a_case_that_fails_stops_no_other_and_is_predicted_again(
    folder: Path, predict: Predict, opened: list[Any], raises: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    raises(2, RuntimeError("CUDA out of memory"))
    out = folder / "out"
    assert predict("--save_probabilities") == 1
    message = capsys.readouterr().err
    assert "1 of 2 cases could not be predicted" in message
    assert "case_1: RuntimeError: CUDA out of memory" in message
    assert names(out) == ["case_2.nii.gz", "case_2_probabilities", "dataset.json", "prediction.json"]
    made = (out / "case_2.nii.gz").stat().st_mtime_ns

    assert predict() == 0
    assert "1 done before, 1 to predict" in capsys.readouterr().out
    assert (out / "case_2.nii.gz").stat().st_mtime_ns == made
    np.testing.assert_array_equal(read(out / "case_1.nii.gz"), expected_label_map("case_1", folder))
    opened.clear()
    assert predict() == 0
    assert opened == []
    assert predict("--independent") == 0  # asked for later
    assert names(out / "independent" / "liver") == ["case_1.nii.gz", "case_2.nii.gz", "dataset.json"]


def test_an_interruption_leaves_nothing_half(folder: Path, predict: Predict, raises: Callable[..., None]) -> None:
    raises(5, KeyboardInterrupt())
    assert predict("--save_probabilities") == 130
    expected = ["case_1.nii.gz", "case_1_probabilities", "dataset.json", "prediction.json"]
    assert names(folder / "out") == expected


def test_a_damaged_model_is_found_before_anything_is_predicted(
    folder: Path, predict: Predict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = results(folder, "spleen") / DATASET / MODEL / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["network_weights"].popitem()
    torch.save(checkpoint, file)
    monkeypatch.setattr(Predictor, "of_prepared", lambda *_: pytest.fail("predicted"))
    assert predict() == 1
    assert f"error: {file}: the weights are not those of" in capsys.readouterr().err


def test_missing_models_and_how_to_make_them(
    folder: Path, predict: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("tumour", "spleen"):
        (results(folder, name) / DATASET / MODEL / "fold_0" / "checkpoint_final.pth").unlink()
    assert predict("-f", "0", "1") == 1
    error = capsys.readouterr().err
    make = f"nnUNetv2_partial_ensemble train -d {DATASET} -c 3d_fullres"
    model = "-tr PartialLabelTrainerImplicit -p nnUNetPlans --classes"
    assert f"{results(folder, 'tumour') / DATASET / MODEL / 'fold_0' / 'checkpoint_final.pth'} is missing" in error
    assert f"{make} -f 0 {model} tumour spleen\n" in error
    assert f"{make} -f 1 {model} liver tumour spleen\n" in error
    assert not (folder / "out").exists()


def test_no_images(folder: Path, predict: Predict, capsys: pytest.CaptureFixture[str]) -> None:
    for image in (folder / "images").iterdir():
        image.unlink()
    assert predict() == 1
    assert f"error: {folder / 'images'}: expected images named CASE_0000.nii.gz" in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_predictions_of_something_else_are_not_taken_for_finished(
    folder: Path, predict: Predict, opened: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "out"
    assert predict() == 0
    opened.clear()
    assert predict("--disable_tta") == 1
    assert "holds predictions with 'mirroring' None, now it is False" in capsys.readouterr().err
    assert predict("--classes", "liver") == 1
    assert "'classes'" in capsys.readouterr().err
    (out / "prediction.json").write_text('{"command": "nnUNetv2_partial_predict"}')
    assert predict() == 1
    assert "prediction.json is there, but is of another command" in capsys.readouterr().err
    (out / "prediction.json").unlink()
    assert predict() == 1
    assert "case_1.nii.gz is there, but is of another command" in capsys.readouterr().err
    assert opened == []


def rewrite(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_models_of_other_plans_are_refused(folder: Path, predict: Predict, capsys: pytest.CaptureFixture[str]) -> None:
    model = results(folder, "spleen") / DATASET / MODEL

    def other_spacing(plans: dict[str, Any]) -> None:
        plans["configurations"]["3d_fullres"]["spacing"] = [2.0, 2.0, 2.0]

    rewrite(model / "plans.json", other_spacing)
    assert predict() == 1
    assert f"{model}: expected a model with the plans of the other classes, found another spacing_mm" in (
        capsys.readouterr().err
    )
    assert not (folder / "out").exists()


def test_models_with_a_softmax_are_refused(folder: Path, predict: Predict, capsys: pytest.CaptureFixture[str]) -> None:
    model = results(folder, "liver") / DATASET / MODEL
    content = json.loads((model / "dataset.json").read_text())
    (model / "dataset.json").write_text(json.dumps(with_atom_labels(content, partial_labels_of(content))))
    assert predict() == 1
    assert f"{model}: expected one output, the sigmoid of the class 'liver', found those of background, " in (
        capsys.readouterr().err
    )


def test_models_of_several_classes_are_refused(
    folder: Path, predict: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    model = results(folder, "liver") / DATASET / MODEL
    content = json.loads(raw_json(folder).read_text())
    (model / "dataset.json").write_text(json.dumps(with_region_labels(content, partial_labels_of(content))))
    assert predict() == 1
    assert "expected a model of the class 'liver' alone" in capsys.readouterr().err


def test_classes_whose_probabilities_would_share_a_file(
    folder: Path, predict: Predict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prediction, "file_safe", lambda name: name[:1] if name != "tumour" else "L")
    assert predict("--save_probabilities") == 1
    assert "the classes 'liver' and 'tumour' would both be L; rename one" in capsys.readouterr().err
    assert predict() == 0


def test_images_are_normalised_by_modality(folder: Path, predict: Predict, capsys: pytest.CaptureFixture[str]) -> None:
    def with_rules(content: dict[str, Any]) -> None:
        rules = {"CT": Clip(-200, 200), "MR": Clip(-900, 900)}
        content["partial_labels"] = to_json(dataclasses.replace(partial_labels_of(content), normalisation=rules))

    rewrite(raw_json(folder), with_rules)
    assert predict() == 1
    assert "found another normalisation by modality" in capsys.readouterr().err
    plain = configuration(normalization_schemes=["NoNormalization"], use_mask_for_norm=[False])
    for name in CLASSES:
        model = results(folder, name) / DATASET / MODEL
        (model / "plans.json").write_text(json.dumps(make_plans(**{"3d_fullres": plain})))
        rewrite(model / "dataset.json", with_rules)
    assert predict() == 1
    assert "normalised by modality, one of CT, MR: say which with --modality NAME" in capsys.readouterr().err
    assert predict("--modality", "CT") == 0
    found = read(folder / "out" / "case_1.nii.gz")
    np.testing.assert_array_equal(found, expected_label_map("case_1", folder, modality="CT"))
    assert (found != expected_label_map("case_1", folder, modality="MR")).any()
    assert predict("--modality", "MR") == 1
    assert "'modalities' CT, now it is MR" in capsys.readouterr().err
