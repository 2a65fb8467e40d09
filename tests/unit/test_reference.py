"""What references annotate and what predicted values mean; plain nnU-Net datasets against nnU-Net's evaluation."""

from __future__ import annotations

import json
import math

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_partial.errors import LabelError
from nnunet_partial.evaluation import evaluate_folder, prediction_values, read_reference
from nnunet_partial.evaluation.reference import values_of_classes
from nnunet_partial.labels import LabelSpace

SHAPE = (12, 11, 10)
PLAIN = {"background": 0, "enhancing": 3, "core": [2, 3], "whole": [1, 2, 3], "ignore": 4}


def save(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, np.diag([1.0, 1.0, 1.5, 1])), path)


def save_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_plain(folder, labels):
    rng = np.random.default_rng(0)
    save_json(folder / "dataset.json", {"name": "Brain", "labels": labels, "file_ending": ".nii.gz"})
    for case in ("a", "b", "c"):
        top = 5 if "ignore" in labels else 4
        reference = rng.integers(0, top, SHAPE).astype(np.uint8)
        if case == "c":
            reference[reference == 3] = 0
        prediction = np.where(rng.random(SHAPE) < 0.7, reference, rng.integers(0, 4, SHAPE)).astype(np.uint8)
        prediction[prediction == 4] = 0
        if case == "c":
            prediction[prediction == 3] = 1
        save(folder / f"labels/{case}.nii.gz", reference)
        save(folder / f"pred/{case}.nii.gz", prediction)
    return folder / "labels", folder / "pred"


@pytest.mark.parametrize(
    ("labels", "regions", "ignore"),
    [
        (PLAIN, [3, (2, 3), (1, 2, 3)], 4),
        ({"background": 0, "x": 1, "y": 2, "z": 3}, [1, 2, 3], None),
    ],
)
def test_plain_datasets_are_scored_as_by_nnunet(tmp_path, labels, regions, ignore):
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics, load_summary_json
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIO

    references, predictions = write_plain(tmp_path, labels)
    evaluate_folder(references, predictions, nsd_tolerance_mm=None)
    ours = load_summary_json(str(predictions / "summary.json"))
    theirs = [
        compute_metrics(
            str(references / f"{case}.nii.gz"), str(predictions / f"{case}.nii.gz"), NibabelIO(), regions, ignore
        )
        for case in ("a", "b", "c")
    ]
    for our_case, their_case in zip(ours["metric_per_case"], theirs, strict=True):
        assert our_case["reference_file"] == their_case["reference_file"]
        for region in regions:
            for metric, value in their_case["metrics"][region].items():
                found = our_case["metrics"][region][metric]
                assert found == pytest.approx(value) if not np.isnan(value) else found is None
    assert math.isnan(theirs[2]["metrics"][3]["Dice"])
    for region in regions:
        values = [case["metrics"][region]["Dice"] for case in theirs]
        assert ours["mean"][region]["Dice"] == pytest.approx(np.nanmean(values))


def test_plain_dataset_annotates_every_class_of_every_case(tmp_path):
    references, _ = write_plain(tmp_path, PLAIN)
    labels = read_reference(references).labels
    assert labels.class_names == ("whole", "core", "enhancing")
    assert labels.sources == ("Brain",) and set(labels.cases) == {"a", "b", "c"}
    assert labels.annotated.all()
    # value by value: background, then nested regions, then the ignore label
    assert labels.states[0].tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [-1, -1, -1]]


def test_plain_labels_that_cannot_be_told_apart_are_refused(tmp_path):
    with pytest.raises(LabelError, match="cannot be told apart"):
        evaluate_folder(*write_plain(tmp_path, {"background": 0, "x": [1, 2], "y": [2, 1]}))


def test_prediction_values_leave_out_background_and_ignore():
    assert prediction_values({"labels": PLAIN}) == {"enhancing": {3}, "core": {2, 3}, "whole": {1, 2, 3}}
    ours = {"background": 0, "liver": [1, 2], "liver_tumour": [2, 2], "spleen": [3, 3]}
    assert prediction_values({"labels": ours}) == {"liver": {1, 2}, "liver_tumour": {2}, "spleen": {3}}


def test_images_without_world_coordinates_are_scored_in_pixels(tmp_path):
    square = np.zeros((30, 24), np.uint8)
    square[5:15, 4:20] = 1
    save_json(tmp_path / "ref/dataset.json", {"labels": {"background": 0, "liver": 1}, "file_ending": ".png"})
    (tmp_path / "pred").mkdir()
    for folder, mask in (("ref", square), ("pred", np.roll(square, 2, 0))):
        sitk.WriteImage(sitk.GetImageFromArray(mask), str(tmp_path / folder / "frame.png"))
    near, far = (
        evaluate_folder(tmp_path / "ref", tmp_path / "pred", nsd_tolerance_mm=tolerance).tables.overall
        for tolerance in (2.0, 1.0)
    )
    assert near["dice"] == far["dice"] == pytest.approx(0.8)
    assert near["nsd"] == 1.0 and far["nsd"] < 0.8


def test_classes_are_put_together_from_predicted_atoms():
    tissue = frozenset({"liver_tissue", "liver_tumour"})
    space = LabelSpace(
        {"anatomy": ("background", "liver_tissue", "liver_tumour", "spleen")},
        {"liver": tissue, "liver_tumour": frozenset({"liver_tumour"}), "spleen": frozenset({"spleen"})},
    )
    atoms = {"liver_tissue": frozenset({1}), "liver_tumour": frozenset({2})}
    assert values_of_classes(space, atoms) == {"liver": frozenset({1, 2}), "liver_tumour": frozenset({2})}
