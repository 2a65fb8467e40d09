"""`nnUNetv2_partial_ensemble predict` with nnU-Net's commands replaced by fakes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.cli import ensemble
from nnunet_partial.evaluation import evaluate_folder
from nnunet_partial.labels import partial_labels_of
from tests.unit.stock_commands import CLASSES, DATASET, MODEL, Stock, probabilities_of, results
from tests.unit.test_ensemble import masks_by_loops, painted_by_loops

TRAIN = ["train", "-d", "100", "-c", "3d_fullres", "-f", "0"]


@pytest.fixture
def folder(abdomen: SimpleNamespace, merge: Callable[..., Any], nnunet_folders: Path) -> Path:
    """Folder with nnU-Net's folders, and a merged dataset of the classes liver, tumour (inside) and spleen."""
    merge(abdomen.text)
    return nnunet_folders


@pytest.fixture
def stock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Stock:
    return Stock.installed(folder, monkeypatch)


@pytest.fixture
def images(folder: Path) -> Path:
    path = folder / "images"
    path.mkdir()
    for case in ("case_1", "case_2"):
        (path / f"{case}_0000.nii.gz").touch()
    return path


@pytest.fixture
def predict(folder: Path, stock: Stock, images: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., int]:
    """Predicts with trained models; more arguments are appended."""
    assert ensemble.main(TRAIN) == 0
    stock.calls.clear()
    capsys.readouterr()

    def run(*more: str) -> int:
        command = ["predict", "-i", str(images), "-o", str(folder / "out"), "-d", "100", "-c", "3d_fullres", "-f", "0"]
        return ensemble.main([*command, *more])

    return run


def expected_label_map(case: str, folder: Path) -> np.ndarray:
    space = partial_labels_of(json.loads((folder / "raw" / DATASET / "dataset.json").read_text())).space
    probabilities = np.concatenate([probabilities_of(name, case) for name in CLASSES])
    return painted_by_loops(masks_by_loops(probabilities, space))


def test_prediction_combines_the_classes(
    folder: Path, stock: Stock, images: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict() == 0
    out = folder / "out"
    assert stock.classes == CLASSES
    for line, call, name in zip(stock.lines, stock.calls, CLASSES, strict=True):
        work = out / ".one_model_a_class" / name
        assert line == (
            f"nnUNetv2_predict -i {images} -o {work} -d {DATASET} -c 3d_fullres -f 0 -tr PartialLabelTrainerImplicit "
            "-p nnUNetPlans -device cuda --save_probabilities --continue_prediction"
        )
        assert call.env["nnUNet_results"] == str(results(folder, name))
    names = ["case_1.nii.gz", "case_2.nii.gz", "dataset.json", "ensemble.json"]
    assert sorted(p.name for p in out.iterdir()) == names
    for case in ("case_1", "case_2"):
        found = nib.load(out / f"{case}.nii.gz")
        np.testing.assert_array_equal(np.asarray(found.dataobj).T, expected_label_map(case, folder))
        assert found.get_data_dtype() == np.uint8
        # ITK's world is LPS, that of NIfTI RAS
        np.testing.assert_allclose(found.affine, [[-2, 0, 0, -1], [0, -2, 0, -2], [0, 0, 3, 3], [0, 0, 0, 1]])
    written = json.loads((out / "dataset.json").read_text())
    assert written["labels"] == {"background": 0, "liver": [1, 2], "tumour": [2, 2], "spleen": [3, 3]}
    assert written["regions_class_order"] == [1, 2, 3]
    assert f"2 label maps in {out}\nnext: nnUNetv2_partial_evaluate" in capsys.readouterr().out


def test_predictions_can_be_evaluated(folder: Path, images: Path, predict: Callable[..., int]) -> None:
    references = folder / "references"
    references.mkdir()
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])
    affine[:3, 3] = (-1, -2, 3)
    labels = {"liver": [1, 2], "tumour": 2, "spleen": 3}
    (references / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "labels": {"background": 0, **labels}, "file_ending": ".nii.gz"})
    )
    for case in ("case_1", "case_2"):
        expected = expected_label_map(case, folder).T.astype(np.uint8)
        nib.save(nib.Nifti1Image(expected, affine), references / f"{case}.nii.gz")
    assert predict("--independent") == 0
    evaluation = evaluate_folder(references, folder / "out", nsd_tolerance_mm=None)
    dice = {evaluation.summary["classes"][key]: m["Dice"] for key, m in evaluation.summary["mean"].items()}
    assert dice == dict.fromkeys(CLASSES, 1.0)
    alone = evaluate_folder(
        references, folder / "out" / "independent" / "spleen", classes=["spleen"], nsd_tolerance_mm=None
    )
    masks = {case: expected_label_map(case, folder) == 3 for case in ("case_1", "case_2")}
    found = {case: probabilities_of("spleen", case)[0] > 0.5 for case in masks}
    expected_dice = np.mean([2 * (masks[c] & found[c]).sum() / (masks[c].sum() + found[c].sum()) for c in masks])
    assert next(iter(alone.summary["mean"].values()))["Dice"] == pytest.approx(expected_dice)
    assert expected_dice < 1


def test_independent_label_maps(folder: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert predict("--independent") == 0
    assert "/independent/CLASS --classes CLASS" in capsys.readouterr().out
    for name in CLASSES:
        alone = folder / "out" / "independent" / name
        assert sorted(p.name for p in alone.iterdir()) == ["case_1.nii.gz", "case_2.nii.gz", "dataset.json"]
        found = np.asarray(nib.load(alone / "case_2.nii.gz").dataobj).T
        np.testing.assert_array_equal(found, probabilities_of(name, "case_2")[0] > 0.5)
        assert json.loads((alone / "dataset.json").read_text())["labels"] == {"background": 0, name: [1, 1]}


def test_options_reach_the_prediction(
    folder: Path, stock: Stock, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for fold in ("0", "3"):
        assert ensemble.main([*TRAIN[:-1], fold, "-tr", "T", "-p", "P"]) == 0
    stock.calls.clear()
    command = ["predict", "-i", str(images), "-o", str(folder / "out"), "-d", "100", "-c", "3d_fullres", "-f", "0", "3"]
    options = ["-tr", "T", "-p", "P", "-device", "cpu", "--disable_tta", "--classes", "spleen", "tumour"]
    assert ensemble.main([*command, *options]) == 0
    assert stock.classes == ["tumour", "spleen"]
    assert stock.lines[0].endswith(
        "-f 0 3 -tr T -p P -device cpu --save_probabilities --continue_prediction --disable_tta"
    )
    assert f"-pred {folder / 'out'} --classes spleen tumour\n" in capsys.readouterr().out
    labels = json.loads((folder / "out" / "dataset.json").read_text())["labels"]
    assert labels == {"background": 0, "tumour": [1, 1], "spleen": [2, 2]}


def test_a_prediction_goes_on_where_it_stopped(
    folder: Path, stock: Stock, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    stock.fails["nnUNetv2_predict", "tumour"] = ["CUDA out of memory"]
    assert predict() == 1
    assert "CUDA out of memory" in capsys.readouterr().err
    out = folder / "out"
    assert not list(out.glob("*.nii.gz"))
    stock.fails.clear()
    broken = out / ".one_model_a_class" / "liver" / "case_2.npz"
    broken.write_bytes(broken.read_bytes()[:200])
    assert predict() == 1
    assert f"error: {broken}: expected the probabilities" in capsys.readouterr().err
    assert [p.name for p in out.glob("*.nii.gz")] == ["case_1.nii.gz"]
    made = (out / "case_1.nii.gz").stat().st_mtime_ns

    broken.unlink()
    stock.predicted.clear()
    assert predict() == 0
    assert stock.predicted == [("liver", "case_2")]
    assert (out / "case_1.nii.gz").stat().st_mtime_ns == made
    found = np.asarray(nib.load(out / "case_2.nii.gz").dataobj).T
    np.testing.assert_array_equal(found, expected_label_map("case_2", folder))
    assert not (out / ".one_model_a_class").exists()
    stock.calls.clear()
    assert predict() == 0
    assert stock.calls == []


def test_an_interrupted_write_leaves_no_label_map(
    folder: Path, stock: Stock, predict: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    def interrupted(self: Any, seg: np.ndarray, output_fname: str, properties: dict[str, Any]) -> None:
        Path(output_fname).write_bytes(b"half a file")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SimpleITKIO, "write_seg", interrupted)
        assert predict() == 130
    out = folder / "out"
    assert sorted(p.name for p in out.iterdir()) == [".one_model_a_class", "dataset.json", "ensemble.json"]
    stock.predicted.clear()
    assert predict("--keep_probabilities") == 0
    assert stock.predicted == []
    assert (out / ".one_model_a_class" / "spleen" / "case_1.npz").is_file()
    assert predict() == 0
    assert not (out / ".one_model_a_class").exists()


def test_independent_can_be_asked_for_later(folder: Path, stock: Stock, predict: Callable[..., int]) -> None:
    assert predict("--keep_probabilities") == 0
    stock.predicted.clear()
    assert predict("--independent") == 0
    assert stock.predicted == []
    assert (folder / "out" / "independent" / "liver" / "case_1.nii.gz").is_file()


def test_files_beside_a_label_map_go_before_it(
    folder: Path, stock: Stock, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = []

    def replace(source: Path, target: Path) -> None:
        moved.append(Path(target).name)
        shutil.move(source, target)

    monkeypatch.setattr("nnunet_partial.ensemble.prediction.os.replace", replace)
    file = folder / "raw" / DATASET / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "file_ending": ".tif"}))
    (images / "case_1_0000.tif").touch()
    stock.reader = "Tiff3DIO"
    assert ensemble.main(TRAIN) == 0
    command = ["predict", "-i", str(images), "-o", str(folder / "out"), "-d", "100", "-c", "3d_fullres", "-f", "0"]
    assert ensemble.main(command) == 0
    names = ["case_1.json", "case_1.tif", "dataset.json", "ensemble.json"]
    assert sorted(p.name for p in (folder / "out").iterdir()) == names
    # a case counts as finished once its label map is there
    assert [name for name in moved if name.startswith("case_1")] == ["case_1.json", "case_1.tif"]
    assert json.loads((folder / "out" / "case_1.json").read_text()) == {"spacing": [3.0, 2.0, 2.0]}


def test_missing_models_and_how_to_make_them(
    folder: Path, stock: Stock, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ensemble.main([*TRAIN, "--classes", "liver"]) == 0
    capsys.readouterr()
    stock.calls.clear()
    command = ["predict", "-i", str(images), "-o", str(folder / "out"), "-d", "100", "-c", "3d_fullres"]
    assert ensemble.main([*command, "-f", "0", "1"]) == 1
    error = capsys.readouterr().err
    make = f"nnUNetv2_partial_ensemble train -d {DATASET} -c 3d_fullres"
    model = "-tr PartialLabelTrainerImplicit -p nnUNetPlans --classes"
    assert f"{results(folder, 'tumour') / DATASET / MODEL / 'fold_0' / 'checkpoint_final.pth'} is missing" in error
    assert f"{make} -f 0 {model} tumour spleen\n" in error
    assert f"{make} -f 1 {model} liver tumour spleen\n" in error
    assert stock.calls == []
    assert not (folder / "out").exists()


def test_no_images(folder: Path, predict: Callable[..., int], images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for image in images.iterdir():
        image.rename(image.with_name(image.name.replace("_0000", "")))
    assert predict() == 1
    assert f"error: {images}: no images; expected files CASE_0000.nii.gz" in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_predictions_of_something_else_are_not_taken_for_finished(
    folder: Path, stock: Stock, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict() == 0
    stock.calls.clear()
    assert predict("--disable_tta") == 1
    assert "holds predictions with 'mirroring' True, now it is False" in capsys.readouterr().err
    assert predict("--classes", "liver") == 1
    assert "'classes'" in capsys.readouterr().err
    (folder / "out" / "ensemble.json").unlink()
    assert predict() == 1
    assert "case_1.nii.gz is there, but is of another command" in capsys.readouterr().err
    assert stock.calls == []


def test_predictions_that_are_not_of_one_sigmoid(
    folder: Path, stock: Stock, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    stock.channels = 2
    assert predict() == 1
    assert "case_1.npz: expected one channel, that of the class, found 2" in capsys.readouterr().err


def test_a_case_that_was_not_predicted(
    folder: Path,
    stock: Stock,
    predict: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(stock, "predict", lambda words, env, name: None)
    assert predict() == 1
    assert "case_1.npz: expected the probabilities of nnUNetv2_predict" in capsys.readouterr().err
