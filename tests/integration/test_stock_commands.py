"""The commands as a user types them: train, predict, evaluate, with the trainers found by nnU-Net itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.demo.pipeline import Pipeline
from nnunet_partial.errors import PartialError
from tests.integration import workspace

TRAINER = "PartialLabelTrainer"


@pytest.fixture(scope="module")
def trained(prepared: tuple[Pipeline, Path]) -> tuple[Pipeline, Path, Path]:
    """Pipeline, merged dataset and model folder after nnUNetv2_train."""
    pipeline, merged = prepared
    pipeline.train(workspace.DATASET_ID, workspace.SIZE, trainer=TRAINER, more=["--npz"])
    model = pipeline.folder / "results" / merged.name / f"{TRAINER}__nnUNetPlans_small__3d_fullres"
    return pipeline, merged, model


def test_summary_has_the_form_of_nnunet_and_counts_annotated_classes_only(trained: tuple[Pipeline, Path, Path]) -> None:
    from nnunetv2.evaluation.evaluate_predictions import load_summary_json

    _, merged, model = trained
    file = model / "fold_0" / "validation" / "summary.json"
    loaded = load_summary_json(str(file))
    assert set(loaded) >= {"metric_per_case", "mean", "foreground_mean", "per_source"}
    sets = json.loads((merged / "dataset.json").read_text())["partial_labels"]["cases"]
    names = {"lits": {"liver", "liver_tumour"}, "organs": {"liver", "spleen", "pancreas"}, "kidneys": set()}
    names["sided"] = {"kidney_left", "kidney_right", "aorta"}
    content = json.loads(file.read_text())
    for case in content["metric_per_case"]:
        source = sets[Path(case["reference_file"]).name[: -len(".nii.gz")]]
        assert {content["classes"][key] for key in case["metrics"]} == names[source]


def test_stock_predict_equals_the_final_validation(trained: tuple[Pipeline, Path, Path]) -> None:
    pipeline, merged, model = trained
    images = pipeline.folder / "validation_images"
    images.mkdir()
    expected = sorted((model / "fold_0" / "validation").glob("*.nii.gz"))
    for file in expected:
        shutil.copy(merged / "imagesTr" / file.name.replace(".nii.gz", "_0000.nii.gz"), images)
    predictions = pipeline.folder / "stock_predictions"
    pipeline.predict(images, predictions, workspace.DATASET_ID, trainer=TRAINER)
    assert expected
    for file in expected:
        ours, stock = nib.load(file), nib.load(predictions / file.name)
        # nnU-Net sums windows in half precision
        assert np.mean(np.asarray(ours.dataobj) != np.asarray(stock.dataobj)) < 2e-4
        np.testing.assert_allclose(ours.affine, stock.affine, atol=1e-5)

    dice = pipeline.evaluate(merged / "labelsTr", predictions, pipeline.folder / "scores", "--chill")
    summary = json.loads((model / "fold_0" / "validation" / "summary.json").read_text())
    by_name = {summary["classes"][key]: means["Dice"] for key, means in summary["mean"].items()}
    # overlapping classes are nested here, so that the label map loses nothing but what a tumour outside the liver adds
    assert set(dice) == set(by_name)
    for name in set(dice) - {"liver"}:
        assert dice[name] == pytest.approx(by_name[name], abs=2e-3)


def test_model_folder_is_complete(trained: tuple[Pipeline, Path, Path]) -> None:
    _, _, model = trained
    dataset = json.loads((model / "dataset.json").read_text())
    assert dataset["labels"]["liver"] == [1, 2]
    assert dataset["labels"]["liver_tumour"] == [2, 2]
    assert dataset["regions_class_order"] == list(range(1, 8))
    assert "partial_labels" in dataset
    assert (model / "fold_0" / "checkpoint_final.pth").is_file()
    assert any((model / "fold_0" / "validation").glob("*.npz"))


def test_a_failing_command_shows_the_end_of_its_log(prepared: tuple[Pipeline, Path]) -> None:
    pipeline, _ = prepared
    with pytest.raises(PartialError, match="failed with exit code"):
        pipeline.run("nnUNetv2_partial_verify", "-d", "899")
