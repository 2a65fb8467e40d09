"""Predictions of whole images against nnU-Net's predictor, and the command that predicts folders."""

from __future__ import annotations

import fcntl
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor, predict_entry_point

from nnunet_partial.cli.predict import build_parser, main
from nnunet_partial.inference.model.exported_model import export_model
from nnunet_partial.inference.predictor import open_predictor
from nnunet_partial.inference.reading.image_reader import read_image
from nnunet_partial.labels.regions import with_region_labels
from tests.unit.test_protocol_view import labels_of
from tests.unit.tiny_models import REGIONS, configuration, make_dataset_json, make_plans, write_model

SHAPE, SPACING = (24, 20, 14), (1.4, 1.1, 3.5)  # x, y, z as ITK has them


def write_image(path: Path, seed: int = 0, shape=SHAPE, spacing=SPACING) -> Path:
    """Smooth structures of some contrast, with a rim of zeros."""
    rng = np.random.default_rng(seed)
    low = rng.normal(60, 300, [max(2, n // 4) for n in shape])
    image = sitk.Resample(
        sitk.GetImageFromArray(low.transpose(2, 1, 0)),
        shape,
        sitk.Transform(),
        sitk.sitkLinear,
        (0.0,) * 3,
        [(s - 1) / (n - 1) * 0.99 if n > 1 else 1.0 for s, n in zip(low.shape, shape, strict=True)],
    )
    array = sitk.GetArrayFromImage(image).astype(np.int16)
    array[:2] = 0
    array[:, :, -3:] = 0
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin((-10.0, 5.0, 3.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def by_nnunet(model: Path, files: list[Path], mirroring: bool, folds=(0,), probabilities: bool = False):
    predictor = nnUNetPredictor(use_mirroring=mirroring, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), folds)
    image, properties = predictor.plans_manager.image_reader_writer_class().read_images([str(f) for f in files])
    return predictor.predict_single_npy_array(image, properties, None, None, probabilities)


MODELS = {
    "plain": (make_plans(), make_dataset_json()),
    "regions": (make_plans(), make_dataset_json(REGIONS, regions_class_order=[1, 2, 3])),
    "torch_resampling": (
        make_plans(
            **{
                "3d_fullres": configuration(
                    resampling_fn_data="resample_torch_fornnunet",
                    resampling_fn_data_kwargs={"is_seg": False, "force_separate_z": False},
                    resampling_fn_probabilities="resample_torch_fornnunet",
                    resampling_fn_probabilities_kwargs={"is_seg": False, "force_separate_z": False},
                )
            }
        ),
        make_dataset_json(),
    ),
    "cubic_export": (
        make_plans(
            **{
                "3d_fullres": configuration(
                    resampling_fn_probabilities_kwargs={
                        "is_seg": False,
                        "order": 3,
                        "order_z": 0,
                        "force_separate_z": None,
                    }
                )
            }
        ),
        make_dataset_json(REGIONS, regions_class_order=[1, 2, 3]),
    ),
    "two_channels": (
        make_plans(**{"3d_fullres": configuration(channels=2)}),
        make_dataset_json(channels=("CT", "MR")),
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    made = {name: write_model(folder / name, *content, folds=(0, 1)) for name, content in MODELS.items()}
    flat = make_plans(**{"2d": configuration(2)})
    made["2d"] = write_model(
        folder / "2d", flat, make_dataset_json(), name="2d", inference_allowed_mirroring_axes=(0, 1)
    )
    return made


@pytest.mark.parametrize("name", [*MODELS, "2d"])
@pytest.mark.parametrize("mirroring", [False, True])
def test_labels_equal_nnunets(models, tmp_path, name, mirroring):
    files = [write_image(tmp_path / "a_0000.nii.gz")]
    if name == "two_channels":
        files.append(write_image(tmp_path / "a_0001.nii.gz", seed=1))
    expected = by_nnunet(models[name], files, mirroring)
    predictor = open_predictor(models[name], folds=[0], device="cpu", mirroring=mirroring)
    image = read_image(files, predictor.plan.reader)
    found = predictor(image.data, image.spacing)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert len(np.unique(expected)) > 1
    # nnU-Net sums windows in half precision
    assert (found != expected).mean() < 5e-3
    prediction = predictor.predicted(image.data, image.spacing)
    np.testing.assert_array_equal(prediction.labels(), found)


def test_folds_are_averaged(models, tmp_path):
    files = [write_image(tmp_path / "a_0000.nii.gz")]
    expected = by_nnunet(models["plain"], files, False, folds=(0, 1))
    predictor = open_predictor(models["plain"], device="cpu", mirroring=False)
    image = read_image(files, predictor.plan.reader)
    assert (predictor(image.data, image.spacing) != expected).mean() < 5e-3


@pytest.mark.parametrize("name", ["plain", "regions", "cubic_export"])
def test_probabilities_and_masks_equal_nnunets(models, tmp_path, name):
    files = [write_image(tmp_path / "a_0000.nii.gz")]
    _, expected = by_nnunet(models[name], files, False, probabilities=True)
    predictor = open_predictor(models[name], folds=[0], device="cpu", mirroring=False)
    image = read_image(files, predictor.plan.reader)
    prediction = predictor.predicted(image.data, image.spacing)
    found = dict(prediction.probabilities())
    assert tuple(found) == predictor.plan.decoding.names
    for probability, reference in zip(found.values(), expected, strict=True):
        assert np.abs(probability - reference).mean() < 2e-3
    masks = dict(prediction.masks())
    for streamed, mask in zip(predictor.masks(image.data, image.spacing), masks.items(), strict=True):
        assert streamed[0] == mask[0]
        np.testing.assert_array_equal(streamed[1], mask[1])
    if name == "plain":
        assert list(masks) == ["liver", "spleen"]
        np.testing.assert_array_equal(masks["spleen"], prediction.labels() == 2)
    else:
        for channel, mask in zip(expected, masks.values(), strict=True):
            assert ((channel > 0.5) != mask).mean() < 5e-3
        assert (masks["organ"] & masks["liver"]).any()


def test_fast_and_paper_modes_give_nearly_the_same(models, tmp_path):
    files = [write_image(tmp_path / "a_0000.nii.gz", shape=(40, 36, 30))]
    predictors = {
        m: open_predictor(models["regions"], folds=[0], device="cpu", mode=m) for m in ("exact", "fast", "paper")
    }
    assert [p.mirroring for p in predictors.values()] == [True, False, False]
    image = read_image(files, "SimpleITKIO")
    windows = {mode: p.windows(image.data, image.spacing) for mode, p in predictors.items()}
    assert windows["fast"] == windows["paper"] < windows["exact"]
    plain = open_predictor(models["regions"], folds=[0], device="cpu", mode="paper", step=0.5, precision="fp32")
    exact = open_predictor(models["regions"], folds=[0], device="cpu", mirroring=False)
    close = plain(image.data, image.spacing) == exact(image.data, image.spacing)
    assert 0.8 < close.mean() < 1


def images_folder(tmp_path: Path, cases: int = 3) -> Path:
    for number in range(cases):
        write_image(tmp_path / "images" / f"case_{number}_0000.nii.gz", seed=number)
    return tmp_path / "images"


def command(model: Path, images: Path, output: Path, *more: str) -> list[str]:
    return [
        "-i",
        str(images),
        "-o",
        str(output),
        "-m",
        str(model),
        "-device",
        "cpu",
        "--mode",
        "fast",
        "-f",
        "0",
        *more,
    ]


def test_command_predicts_continues_and_records(models, tmp_path, capsys):
    images, output = images_folder(tmp_path), tmp_path / "out"
    assert main(command(models["regions"], images, output)) == 0
    files = sorted(p.name for p in output.iterdir())
    assert files == ["case_0.nii.gz", "case_1.nii.gz", "case_2.nii.gz", "dataset.json", "prediction.json"]
    assert "3 cases predicted" in capsys.readouterr().out
    record = json.loads((output / "prediction.json").read_text())
    assert "--mode fast" in record["command"]
    written = nib.load(output / "case_1.nii.gz")
    assert written.shape == SHAPE
    assert np.allclose(written.affine, nib.load(images / "case_1_0000.nii.gz").affine)
    (output / "case_1.nii.gz").unlink()
    before = (output / "case_0.nii.gz").stat().st_mtime_ns
    assert main(command(models["regions"], images, output, "--continue_prediction")) == 0
    assert "2 done before, 1 to predict" in capsys.readouterr().out
    assert (output / "case_0.nii.gz").stat().st_mtime_ns == before
    assert (output / "case_1.nii.gz").is_file()


def test_predictions_made_otherwise_are_not_continued(models, tmp_path, capsys):
    images, output = images_folder(tmp_path, 1), tmp_path / "out"
    assert main(command(models["regions"], images, output)) == 0
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    for model, more, key in (
        ("plain", [], "model"),
        ("regions", ["--mode", "exact"], "mode"),
        ("regions", ["--protocol", "btcv"], "protocol"),
        ("regions", ["--disable_tta"], "disable_tta"),
        ("regions", ["-f", "0", "1"], "f"),
    ):
        assert main(command(models[model], images, output, "--continue_prediction", *more)) == 1
        error = capsys.readouterr().err
        assert f"{output / 'prediction.json'}: the folder holds predictions with '{key}' " in error
        assert error.count("\n") == 1
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    # the same model by another path, and what does not change the labels
    same = models["regions"] / ".." / models["regions"].name
    more = ["--continue_prediction", "--threads", "1", "--batch_size", "2", "-npp", "1"]
    assert main(command(same, images, output, *more)) == 0
    assert "1 done before, 0 to predict" in capsys.readouterr().out
    # beside them, what was not asked for then
    assert main(command(same, images, output, "--continue_prediction", "--output", "seg.nrrd")) == 0
    assert (output / "case_0.seg.nrrd").is_file()


def test_parts_make_the_whole(models, tmp_path):
    images, output = images_folder(tmp_path), tmp_path / "out"
    for part in ("0", "1"):
        assert main(command(models["plain"], images, output, "-num_parts", "2", "-part_id", part)) == 0
        assert len(list(output.glob("case_*"))) == (2 if part == "0" else 3)


def test_case_claimed_by_another_process_is_left_to_it(models, tmp_path, capsys):
    images, output = images_folder(tmp_path), tmp_path / "out"
    lock = output / ".claims" / "case_1.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert main(command(models["plain"], images, output)) == 0
    assert "case_1: another process has it" in capsys.readouterr().out
    assert sorted(p.name for p in output.glob("case_*")) == ["case_0.nii.gz", "case_2.nii.gz"]
    # the claim of a process that ended is worth nothing
    assert main(command(models["plain"], images, output, "--continue_prediction")) == 0
    assert (output / "case_1.nii.gz").is_file()
    assert not (output / ".claims").exists()


def test_bad_case_does_not_stop_the_others(models, tmp_path, capsys):
    images, output = images_folder(tmp_path), tmp_path / "out"
    broken = images / "case_1_0000.nii.gz"
    broken.write_bytes(broken.read_bytes()[:200])
    assert main(command(models["plain"], images, output)) == 1
    message = capsys.readouterr().err
    assert "1 of 3 cases could not be predicted" in message
    assert "case_1_0000.nii.gz" in message
    assert sorted(p.name for p in output.glob("case_*")) == ["case_0.nii.gz", "case_2.nii.gz"]
    assert not list(output.glob(".*nii.gz"))


def test_classes_segmentations_and_probabilities(models, tmp_path):
    images, output = images_folder(tmp_path, 1), tmp_path / "out"
    assert main(command(models["regions"], images, output, "--output", "classes", "--save_probabilities")) == 0
    masks = {p.name: np.asarray(nib.load(p).dataobj) for p in (output / "case_0").iterdir()}
    assert set(masks) == {"organ.nii.gz", "liver.nii.gz", "spleen.nii.gz"}
    for name, mask in masks.items():
        probability = np.asarray(nib.load(output / "case_0_probabilities" / name).dataobj)
        np.testing.assert_array_equal(mask[probability > 128], 1)
        np.testing.assert_array_equal(mask[probability < 127], 0)
    assert main(command(models["regions"], images, output, "--output", "seg.nrrd")) == 0
    segmentation = sitk.ReadImage(str(output / "case_0.seg.nrrd"))
    names = {segmentation.GetMetaData(k) for k in segmentation.GetMetaDataKeys() if k.endswith("_Name")}
    assert names == {"organ", "liver", "spleen"}


def test_labels_as_a_source_would_have_drawn_them(tmp_path, capsys):
    labels = labels_of()
    content = with_region_labels(make_dataset_json(), labels)
    model, images = write_model(tmp_path / "model", make_plans(), content), images_folder(tmp_path, 1)
    for name, more in (("own", []), ("btcv", ["--protocol", "btcv"])):
        assert main(command(model, images, tmp_path / name, *more)) == 0
    own, btcv = (np.asarray(nib.load(tmp_path / n / "case_0.nii.gz").dataobj) for n in ("own", "btcv"))
    assert len(np.unique(own)) > 2
    # liver, tumour, left and right kidney, spleen
    np.testing.assert_array_equal(btcv, np.array([0, 3, 3, 0, 0, 4])[own])
    assert main(command(model, images, tmp_path / "x", "--protocol", "magic")) == 1
    assert "expected one of btcv, kits, lits" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(command(model, images, tmp_path / "x", "--protocol", "btcv", "--output", "classes"))


def test_exported_model_needs_neither_torch_nor_nnunet(models, tmp_path):
    pytest.importorskip("openvino")
    images, exported = images_folder(tmp_path, 1), tmp_path / "exported"
    export_model(models["regions"], exported, folds=[0], formats=("openvino",))
    code = (
        "import sys; from nnunet_partial.cli.predict import main; "
        f"status = main(['-i', {str(images)!r}, '-o', {str(tmp_path / 'openvino')!r}, '-m', {str(exported)!r}]); "
        "print(sorted({'torch', 'nnunetv2', 'monai'} & set(sys.modules))); sys.exit(status)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == "[]"
    assert main(["-i", str(images), "-o", str(tmp_path / "torch"), "-m", str(models["regions"]), "-f", "0"]) == 0
    one, other = (np.asarray(nib.load(tmp_path / n / "case_0.nii.gz").dataobj) for n in ("openvino", "torch"))
    assert (one != other).mean() < 1e-3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-part_id", "3", "-num_parts", "3"], "expected 0 to 2 for -num_parts 3, found 3"),
        (["-step_size", "0"], "above 0 and at most 1, found 0"),
        (["--batch_size", "0"], "at least 1"),
        (["-device", "abacus"], "abacus"),
        (["--backend", "openvino"], "export it first"),
        (["-chk", "nothing.pth"], "nothing.pth"),
    ],
)
def test_bad_arguments_end_with_one_message(models, tmp_path, capsys, more, message):
    images, output = images_folder(tmp_path, 1), tmp_path / "out"
    assert main(command(models["plain"], images, output, *more)) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_unwritable_output_is_one_message(models, tmp_path, capsys):
    images = images_folder(tmp_path, 1)
    (tmp_path / "file").write_text("")
    assert main(command(models["plain"], images, tmp_path / "file")) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_model_is_found_by_name_or_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["-i", "a", "-o", "b"])
    assert "-d and -c are needed (or -m)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["-i", "a", "-o", "b", "-m", "c", "-d", "1"])
    assert "leave out -d and -c" in capsys.readouterr().err
    assert main(["-i", "a", "-o", "b", "-m", str(tmp_path / "nothing")]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_help_names_every_flag_and_imports_no_torch():
    code = (
        "import sys\nfrom nnunet_partial.cli.predict import main\n"
        "try: main(['--help'])\nexcept SystemExit: print('torch' in sys.modules, 'scipy' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "False False"
    flags = {option for action in build_parser()._actions for option in action.option_strings}
    assert {"-i", "-o", "-d", "-c", "-f", "-tr", "-p", "-m", "-chk", "--disable_tta", "-device", "-step_size"} <= flags
    assert {"-num_parts", "-part_id", "--mode", "--continue_prediction", "--save_probabilities"} <= flags


def test_command_lines_of_nnunet_need_another_name_only(models, tmp_path, capsys):
    flags = {option for action in build_parser()._actions for option in action.option_strings}
    stock = set(re.findall(r"add_argument\(\s*'(-[^']+)'", inspect.getsource(predict_entry_point)))
    assert {"-i", "-npp", "--verbose"} <= stock
    assert stock - flags == set()
    images = images_folder(tmp_path, 1)
    harmless = ["--disable_progress_bar", "--verbose", "--not_on_device", "-npp", "3", "-nps", "3"]
    assert main(command(models["plain"], images, tmp_path / "out", *harmless)) == 0
    with pytest.raises(SystemExit) as caught:
        main(command(models["plain"], images, tmp_path / "x", "-prev_stage_predictions", str(images)))
    assert caught.value.code == 2
    assert "cascades cannot be predicted here; use nnUNetv2_predict" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
