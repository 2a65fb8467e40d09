"""Folders of partly labelled references: what is scored, averaged, written and refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from nnunet_partial.cli.evaluate import main
from nnunet_partial.errors import LabelError, PartialError, ProblemsError, VolumeError
from nnunet_partial.evaluation import evaluate_folder
from nnunet_partial.labels import AnnotationSet, LabelSpace, PartialLabels, region_labels, to_json

SHAPE = (12, 11, 10)
SPACE = LabelSpace(
    {"anatomy": ("background", "liver_tissue", "liver_tumour", "spleen")},
    {
        "liver": frozenset({"liver_tissue", "liver_tumour"}),
        "liver_tumour": frozenset({"liver_tumour"}),
        "spleen": frozenset({"spleen"}),
    },
)
LIVER = SPACE.classes["liver"]
# merged values: 1 liver tissue, 2 tumour, 3 liver of either kind, 4 spleen, 5 none of liver
SETS = {
    "lits": AnnotationSet(
        "lits",
        "lits",
        "CT",
        {0: SPACE.everything - LIVER, 1: frozenset({"liver_tissue"}), 2: frozenset({"liver_tumour"})},
    ),
    "lits.slices": AnnotationSet(
        "lits.slices",
        "lits",
        "CT",
        {
            0: SPACE.everything,
            1: frozenset({"liver_tissue"}),
            2: frozenset({"liver_tumour"}),
            5: SPACE.everything - LIVER,
        },
    ),
    "btcv": AnnotationSet("btcv", "btcv", "CT", {0: frozenset({"background"}), 3: LIVER, 4: frozenset({"spleen"})}),
    "btcv.liver": AnnotationSet("btcv.liver", "btcv", "CT", {0: SPACE.everything - LIVER, 3: LIVER}),
    "scans": AnnotationSet("scans", "scans", "CT", {0: SPACE.everything}),
}
CASES = {"lits_a": "lits", "lits_b": "lits", "btcv_a": "btcv", "btcv_b": "btcv.liver", "scan": "scans"}
# predicted values 1 liver, 2 tumour, 3 spleen
REGIONS, _ = region_labels(SPACE)


def volume(boxes):
    """A label map of boxes, value by value; later ones over earlier ones."""
    labels = np.zeros(SHAPE, np.uint8)
    for value, (low, high) in boxes:
        labels[low:high, low:high, low:high] = value
    return labels


def save(path, labels, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, np.diag([1.0, 1.0, 1.5, 1]) if affine is None else affine), path)


def save_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


REFERENCES = {
    "lits_a": volume([(1, (2, 8)), (2, (3, 5))]),
    "lits_b": volume([(1, (1, 5))]),
    "btcv_a": volume([(3, (2, 6)), (4, (7, 9))]),
    "btcv_b": volume([(3, (4, 9))]),
    "scan": volume([]),
}
# everywhere a spleen, annotated or not; a tumour in lits_b, where it is annotated and absent, and in btcv_a
PREDICTIONS = {
    "lits_a": volume([(1, (2, 8)), (2, (3, 6)), (3, (9, 10))]),
    "lits_b": volume([(1, (1, 5)), (2, (2, 3)), (3, (7, 9))]),
    "btcv_a": volume([(1, (2, 6)), (2, (3, 4)), (3, (7, 9))]),
    "btcv_b": volume([(1, (4, 8)), (3, (8, 9))]),
    "scan": volume([(1, (2, 6)), (3, (7, 9))]),
}


def write_partial(folder, labels, references=REFERENCES, predictions=PREDICTIONS):
    """A merged dataset with references, and a folder of predictions as nnUNetv2_predict leaves it."""
    save_json(
        folder / "dataset.json",
        {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, "a": 1, "b": 2, "c": 3, "d": 4, "e": 5},
            "file_ending": ".nii.gz",
            "partial_labels": to_json(labels),
        },
    )
    for case, label_map in references.items():
        save(folder / f"labelsTr/{case}.nii.gz", label_map)
    for case, label_map in predictions.items():
        save(folder / f"pred/{case}.nii.gz", label_map)
    save_json(folder / "pred/dataset.json", {"labels": REGIONS, "file_ending": ".nii.gz"})
    return folder / "labelsTr", folder / "pred"


@pytest.fixture
def dataset(tmp_path):
    return write_partial(tmp_path, PartialLabels(SPACE, SETS, CASES))


def cell(evaluation, case, class_name):
    table = evaluation.tables.per_case
    return table[(table["case"] == case) & (table["class"] == class_name)].iloc[0]


# folders


def test_only_annotated_structures_are_scored(dataset):
    evaluation = evaluate_folder(*dataset)
    status = evaluation.tables.per_case.pivot(index="case", columns="class", values="status")
    expected = {
        "lits_a": ("scored", "scored", "not annotated"),
        "lits_b": ("scored", "scored", "not annotated"),
        "btcv_a": ("scored", "not annotated", "scored"),
        "btcv_b": ("scored", "not annotated", "not annotated"),
        "scan": ("not annotated", "not annotated", "not annotated"),
    }
    for case, row in expected.items():
        assert tuple(status.loc[case, ["liver", "liver_tumour", "spleen"]]) == row


def test_scores_have_their_closed_form(dataset):
    evaluation = evaluate_folder(*dataset)
    # lits_a: liver of 6³ found whole; tumour 2³ inside a predicted 3³
    assert cell(evaluation, "lits_a", "liver")["dice"] == 1.0
    assert cell(evaluation, "lits_a", "liver_tumour")["dice"] == pytest.approx(2 * 8 / (8 + 27))
    # an annotated tumour that is not there is a false positive; where it is not annotated, it is no score
    assert cell(evaluation, "lits_b", "liver_tumour")["dice"] == 0.0
    assert math.isnan(cell(evaluation, "btcv_a", "liver_tumour")["dice"])
    assert cell(evaluation, "btcv_b", "liver")["dice"] == pytest.approx(2 * 64 / (64 + 125))
    means = dict(zip(evaluation.tables.per_class["class"], evaluation.tables.per_class["dice"], strict=True))
    assert means["liver"] == pytest.approx((1 + 1 + 1 + 128 / 189) / 4)
    assert means["liver_tumour"] == pytest.approx(16 / 35 / 2)
    assert means["spleen"] == 1.0
    assert evaluation.tables.overall["dice"] == pytest.approx(np.mean(list(means.values())))


def test_perfect_prediction_of_an_unannotated_class_gives_no_score(tmp_path):
    references = {"lits_a": REFERENCES["lits_a"]}
    predictions = {"lits_a": PREDICTIONS["lits_a"]}
    folders = write_partial(tmp_path, PartialLabels(SPACE, SETS, {"lits_a": "lits"}), references, predictions)
    evaluation = evaluate_folder(*folders, nsd_tolerance_mm=None)
    assert evaluation.tables.not_annotated == ("spleen",)
    assert "(3, 3)" not in evaluation.summary["mean"]
    assert list(evaluation.summary["metric_per_case"][0]["metrics"]) == ["(1, 2)", "(2, 2)"]
    assert cell(evaluation, "lits_a", "spleen")["predicted_voxels"] == 1
    expected = (1 + 16 / 35) / 2
    assert evaluation.summary["foreground_mean"]["Dice"] == pytest.approx(expected)


def test_unknown_slices_do_not_count_and_leave_out_the_surface(tmp_path):
    labels = np.zeros(SHAPE, np.uint8)
    labels[4:6] = 5
    labels[4:6, 3:7, 3:7] = 1
    prediction = volume([(1, (3, 7))])
    cases = PartialLabels(SPACE, SETS, {"case": "lits.slices"})
    evaluation = evaluate_folder(*write_partial(tmp_path, cases, {"case": labels}, {"case": prediction}))
    liver = cell(evaluation, "case", "liver")
    assert (liver["dice"], liver["tp"], liver["unknown_voxels"]) == (1.0, 32, 10 * 110)
    assert math.isnan(liver["nsd"])
    assert cell(evaluation, "case", "liver_tumour")["status"] == "true negative"
    assert evaluation.tables.never_present == ("liver_tumour",)


def test_means_of_sources_and_subjects(tmp_path):
    cases = PartialLabels(SPACE, SETS, CASES, patients={"lits_a": "p", "lits_b": "p", "btcv_b": "q"})
    evaluation = evaluate_folder(*write_partial(tmp_path, cases), nsd_tolerance_mm=None)
    by_source = evaluation.tables.per_source.set_index(["source", "class"])
    assert by_source.loc[("lits", "liver"), ["scored", "true_negative", "not_annotated"]].tolist() == [2, 0, 0]
    assert by_source.loc[("btcv", "spleen"), ["scored", "true_negative", "not_annotated"]].tolist() == [1, 0, 1]
    assert by_source.loc[("btcv", "liver"), "dice"] == pytest.approx((1 + 128 / 189) / 2)
    assert math.isnan(by_source.loc[("scans", "liver"), "dice"])
    by_patient = evaluation.tables.per_subject.set_index("patient")
    assert by_patient.loc["p", "dice"] == pytest.approx((1 + 8 / 35) / 2)
    assert by_patient.loc["p", "classes"] == 2
    assert by_patient.loc["btcv_a", "dice"] == 1.0
    assert by_patient.loc["scan", "classes"] == 0


def test_files_are_written_and_nnunet_reads_the_summary(dataset, tmp_path):
    from nnunetv2.evaluation.evaluate_predictions import load_summary_json

    evaluation = evaluate_folder(*dataset, output=tmp_path / "results")
    names = ["per_case.csv", "per_class.csv", "per_source.csv", "per_subject.csv", "summary.json"]
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == names
    assert sorted(path.name for path in evaluation.files) == names
    text = (tmp_path / "results/summary.json").read_text()
    assert "NaN" not in text and json.loads(text) == evaluation.summary
    summary = load_summary_json(str(tmp_path / "results/summary.json"))
    assert set(summary["mean"]) == {(1, 2), (2, 2), (3, 3)}
    assert summary["foreground_mean"]["Dice"] == pytest.approx(evaluation.tables.overall["dice"])
    assert summary["classes"]["(1, 2)"] == "liver"
    assert [set(case["metrics"]) for case in summary["metric_per_case"]][:2] == [{(1, 2), (3, 3)}, {(1, 2)}]
    assert summary["metric_per_case"][0]["reference_file"].endswith("btcv_a.nii.gz")
    table = pd.read_csv(tmp_path / "results/per_case.csv")
    assert len(table) == 15
    assert table[table["status"] == "not annotated"]["dice"].isna().all()


def test_processes_give_the_same_result(dataset, tmp_path):
    one = evaluate_folder(*dataset, nsd_tolerance_mm=None, output=tmp_path / "one")
    two = evaluate_folder(*dataset, nsd_tolerance_mm=None, output=tmp_path / "two", processes=2)
    assert one.summary == two.summary
    pd.testing.assert_frame_equal(one.tables.per_case, two.tables.per_case)


def test_classes_can_be_chosen(dataset):
    evaluation = evaluate_folder(*dataset, classes=["liver"], nsd_tolerance_mm=None)
    assert list(evaluation.tables.per_class["class"]) == ["liver"]
    with pytest.raises(LabelError, match="'stomach'"):
        evaluate_folder(*dataset, classes=["stomach"])


def test_class_that_is_not_predicted_is_an_error_unless_left_out(dataset):
    save_json(dataset[1] / "dataset.json", {"labels": {"background": 0, "liver": [1, 2], "gut": 3, "liver_tumour": 2}})
    with pytest.raises(LabelError, match=r"classes \['spleen'\].*not predicted"):
        evaluate_folder(*dataset)
    evaluation = evaluate_folder(*dataset, classes=["liver"], nsd_tolerance_mm=None)
    assert evaluation.summary["mean"].keys() == {"(1, 2)"}
    assert any("gut" in note for note in evaluation.notes)


def test_two_classes_of_the_same_predicted_values_are_refused(dataset):
    save_json(dataset[1] / "dataset.json", {"labels": {"liver": [1, 2], "liver_tumour": [2, 1], "spleen": 3}})
    with pytest.raises(LabelError, match="'liver' and 'liver_tumour' are the same predicted values"):
        evaluate_folder(*dataset)


def test_all_missing_predictions_are_named_at_once(dataset):
    for case in ("lits_a", "scan"):
        (dataset[1] / f"{case}.nii.gz").unlink()
    with pytest.raises(ProblemsError) as caught:
        evaluate_folder(*dataset)
    assert [("lits_a" in p, "scan" in p) for p in caught.value.problems] == [(True, False), (False, True)]
    evaluation = evaluate_folder(*dataset, chill=True, nsd_tolerance_mm=None)
    assert {score.case for score in evaluation.scores} == {"lits_b", "btcv_a", "btcv_b"}
    assert any("2 of 5 references" in note for note in evaluation.notes)


def test_prediction_without_reference_is_a_note(dataset):
    save(dataset[1] / "other.nii.gz", volume([]))
    evaluation = evaluate_folder(*dataset, nsd_tolerance_mm=None)
    assert len(evaluation.scores) == 5
    assert any("other" in note for note in evaluation.notes)


def test_other_geometry_and_strange_values_are_refused_together(dataset):
    save(dataset[1] / "lits_a.nii.gz", PREDICTIONS["lits_a"], np.diag([1.0, 1.0, 3.0, 1]))
    save(dataset[1] / "lits_b.nii.gz", PREDICTIONS["lits_b"][:-1])
    save(dataset[1] / "scan.nii.gz", volume([(9, (1, 3))]))
    save(dataset[0] / "btcv_b.nii.gz", volume([(4, (1, 3))]))
    with pytest.raises(ProblemsError) as caught:
        evaluate_folder(*dataset, nsd_tolerance_mm=None)
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 4
    assert "lits_a" in text and "13.5 mm apart" in text
    assert "(12, 11, 10)" in text and "(11, 11, 10)" in text
    assert "values [9]" in text and "values [4]" in text
    assert not (dataset[1] / "summary.json").exists()


def test_case_without_annotation_set_is_refused(tmp_path):
    cases = {case: name for case, name in CASES.items() if case != "scan"}
    with pytest.raises(ProblemsError, match="case 'scan' has no annotation set"):
        evaluate_folder(*write_partial(tmp_path, PartialLabels(SPACE, SETS, cases)))


def test_what_predicted_values_mean_is_not_guessed(dataset):
    (dataset[1] / "dataset.json").unlink()
    with pytest.raises(LabelError, match="nothing says what the predicted values mean"):
        evaluate_folder(*dataset)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda ref, pred: ref.rename(ref.with_name("x")), VolumeError, "no such folder"),
        (lambda ref, pred: pred.rename(pred.with_name("x")), VolumeError, "no such folder"),
        (lambda ref, pred: (ref.parent / "dataset.json").unlink(), LabelError, "-djfile"),
        (lambda ref, pred: save_json(ref / "dataset.json", {"labels": {}}), LabelError, "'file_ending' is missing"),
        (lambda ref, pred: save_json(ref / "dataset.json", {"file_ending": ".png"}), VolumeError, "no label maps"),
        (lambda ref, pred: save_json(pred / "dataset.json", {"labels": {"liver": 0}}), LabelError, "labels.liver"),
        (lambda ref, pred: save_json(pred / "dataset.json", {"labels": {"liver": 1.5}}), LabelError, "labels.liver"),
        (lambda ref, pred: save_json(pred / "dataset.json", {}), LabelError, "expected 'labels'"),
    ],
)
def test_unusable_folders_are_refused(dataset, change, error, message):
    change(*dataset)
    with pytest.raises(error, match=message):
        evaluate_folder(*dataset)


def test_negative_tolerance_is_refused(dataset):
    with pytest.raises(PartialError, match="NSD tolerance"):
        evaluate_folder(*dataset, nsd_tolerance_mm=-1)


# the command


def test_command_prints_tables_and_returns_zero(dataset, capsys):
    assert main(["-ref", str(dataset[0]), "-pred", str(dataset[1]), "-np", "1"]) == 0
    printed = capsys.readouterr().out
    assert "per class" in printed and "per source" in printed and "summary.json" in printed
    row = next(line for line in printed.splitlines() if "liver_tumour" in line)
    cells = [text.strip() for text in row.strip("│").split("│")]
    assert cells[:2] == ["liver_tumour", "0.2286"] and cells[3:] == ["2", "0", "3"]


def test_command_prints_json(dataset, capsys, tmp_path):
    arguments = ["-ref", str(dataset[0]), "-pred", str(dataset[1]), "-np", "1", "--json", "-o", str(tmp_path / "out")]
    assert main([*arguments, "--nsd_tolerance_mm", "-1", "--classes", "liver", "spleen"]) == 0
    means = json.loads(capsys.readouterr().out)
    assert means["mean"]["(3, 3)"]["Dice"] == 1.0
    assert means["foreground_mean"]["NSD"] is None
    assert (tmp_path / "out/per_class.csv").exists()


def test_command_reports_errors_and_returns_one(dataset, capsys):
    (dataset[1] / "scan.nii.gz").unlink()
    arguments = ["-ref", str(dataset[0]), "-pred", str(dataset[1]), "-np", "1"]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "case 'scan' has no prediction" in captured.err
    assert main([*arguments, "--chill", "--nsd_tolerance_mm", "-1"]) == 0


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from nnunet_partial.cli.evaluate import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(sorted({'torch', 'pandas', 'monai', 'nibabel'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert "--nsd_tolerance_mm" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
