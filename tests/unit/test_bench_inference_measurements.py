"""What the benchmark of prediction measures: each function against nnU-Net's or against numbers known beforehand."""

from __future__ import annotations

import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.backends.backend import NumpyArrays
from nnunet_partial.inference.windows import sliding_logits
from tests.bench.inference import end_to_end, gpu, totalsegmentator_like, volumes
from tests.bench.inference.agreement import agreement, agreement_of_files
from tests.bench.inference.balls import Balls
from tests.bench.inference.bench import Bench
from tests.bench.inference.child import measured, run_child
from tests.bench.inference.competitors import NNUNET, Competitor, backends, exported_formats, on_cpu, on_gpu
from tests.bench.inference.end_to_end import nnunet_megabytes, predict_cold, sizes_tasks
from tests.bench.inference.export import VARIANTS, _different, _pair
from tests.bench.inference.export_case import ExportCase, run_export
from tests.bench.inference.files_case import read_and_write
from tests.bench.inference.input_case import InputCase, run_input
from tests.bench.inference.models import Model
from tests.bench.inference.presets import PRESETS, Grid
from tests.bench.inference.warm_case import WarmCase, run_warm
from tests.unit.measured_commands import FakeGpu
from tests.unit.tiny_models import make_dataset_json, make_plans, write_model

TINY = PRESETS["tiny"]


@pytest.fixture
def bench(tmp_path):
    """A benchmark of volumes so small that nothing takes long."""
    grid = Grid((18, 40, 32), (4.0, 2.0, 2.0))
    preset = replace(TINY, volumes={"18": grid}, main="18")
    return Bench(tmp_path / "bench", preset, 1, 1, ("18",), (2, 14))


@pytest.mark.parametrize("background", [True, False])
def test_blocks_of_balls_are_the_balls(background):
    balls = Balls.draw(5, (20, 16, 18), background)
    whole = balls.planes(0, 20)
    assert whole.shape == (5, 20, 16, 18) and whole.dtype == np.float32
    blocks = [balls.planes(first, first + 7) for first in range(0, 20, 7)]
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), whole)
    # a logit is the distance from the surface: at the voxel nearest to the centre it is close to the radius
    ball = int(np.argmax(balls.radii))
    z, y, x = np.rint(balls.centres[ball]).astype(int)
    assert whole[ball + background, z, y, x] == pytest.approx(balls.radii[ball], abs=0.9)
    assert (whole[0] == 1).all() == background


def test_many_balls_fill_as_much_space_as_few():
    few, many = (Balls.draw(n, (207, 210, 210), False).radii for n in (13, 116))
    assert few.min() > 8 and few.max() < 45  # voxels of the network
    assert (many**3).sum() == pytest.approx((few**3).sum())
    np.testing.assert_allclose(many[:13] / few, many[0] / few[0])  # the same balls, and more of them


@pytest.mark.parametrize("variant", VARIANTS)
def test_exports_are_equal(tmp_path, variant):
    regions, separate_z = VARIANTS[variant]
    case = ExportCase(
        "ours", regions, separate_z, 6, (20, 40, 36), (6.0, 1.5, 1.5), (18, 20, 18), (5.0, 3.0, 3.0), 5, 2
    )
    found = {}
    for who in ("ours", "streamed", "nnunet"):
        path = tmp_path / f"{who}.npy"
        values = run_export(replace(case, who=who, labels=str(path)))
        assert set(values) == {"seconds", "extra_mb", "process_mb"} and values["seconds"] > 0
        found[who] = np.load(path)
    assert found["ours"].shape == (20, 40, 36)
    assert len(np.unique(found["ours"])) >= 3
    np.testing.assert_array_equal(found["streamed"], found["ours"])
    assert (found["nnunet"] != found["ours"]).mean() <= 1e-3


@pytest.mark.parametrize(("depth", "window"), [(18, 5), (18, 18), (6, 8), (229, 128)])
def test_logits_come_in_the_blocks_of_windows(depth, window):
    class Network(NumpyArrays):
        outputs, description = 1, "identity"

        def predict(self, patches):
            return patches.copy()

    case = ExportCase("ours", False, None, 1, (1, 1, 1), (1, 1, 1), (depth, 4, 4), (1, 1, 1), window, 1)
    given = sliding_logits(np.zeros((1, depth, 4, 4), np.float32), Network(), (window, 4, 4))
    assert [block.shape[1] for block in given] == [stop - first for first, stop in case.blocks()]


def test_resampled_inputs_are_equal(tmp_path):
    case = InputCase("ours", (20, 40, 36), (6.0, 1.5, 1.5), (18, 20, 18), (5.0, 3.0, 3.0))
    found = {}
    for who in ("ours", "nnunet"):
        assert run_input(replace(case, who=who, output=str(tmp_path / f"{who}.npy")))["seconds"] > 0
        found[who] = np.load(tmp_path / f"{who}.npy")
    assert found["ours"].shape == (1, 18, 20, 18)
    np.testing.assert_allclose(found["ours"], found["nnunet"], atol=1e-5)


def test_ours_is_compared_with_nnunet_also_where_that_was_measured_before(bench, monkeypatch):
    asked = []

    def child(module, arguments, threads):
        asked.append(arguments["who"])
        return run_export(ExportCase(**arguments))

    monkeypatch.setattr("tests.bench.inference.export.run_child", child)
    values = _pair(bench, "argmax_trilinear", "ours")
    assert asked == ["ours", "nnunet"]  # its label map was not there
    assert values["different"] <= 1e-3
    _pair(bench, "argmax_trilinear", "ours")
    assert asked == ["ours", "nnunet", "ours"]


def test_share_of_different_voxels(tmp_path):
    one = np.zeros((4, 5, 5), np.uint8)
    other = one.copy()
    other[2, 0, :3] = 7
    np.save(tmp_path / "one.npy", one)
    np.save(tmp_path / "other.npy", other)
    assert _different(tmp_path / "one.npy", tmp_path / "other.npy") == pytest.approx(3 / 100)


def measured_beside_an_array():
    before = np.ones(30 * 2**20, np.uint8)
    values = measured(lambda: np.ones(60 * 2**20, np.uint8))
    assert before.any()
    return values


def test_memory_above_what_was_there_before():
    # in a process of its own: what other tests leave behind may be freed meanwhile
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        values = pool.submit(measured_beside_an_array).result()
    assert 55 < values["extra_mb"] < 75
    assert values["process_mb"] > values["extra_mb"] + 30


def test_child_hands_back_values_or_its_error():
    case = InputCase("ours", (8, 12, 12), (3.0, 2.0, 2.0), (6, 6, 6), (4.0, 4.0, 4.0))
    values = run_child("tests.bench.inference.input_case", asdict(case), 1)
    assert values["process_mb"] > values["extra_mb"] >= 0
    with pytest.raises(PartialError, match="no_such_field"):
        run_child("tests.bench.inference.input_case", {**asdict(case), "no_such_field": 1}, 1)


def test_agreement_of_known_label_maps():
    reference = np.array([[0, 1, 1], [2, 2, 0]], np.uint8)
    found = agreement(reference, np.array([[0, 1, 3], [2, 2, 2]], np.uint8))
    assert found.different == pytest.approx(2 / 6)
    assert found.dice == {1: pytest.approx(2 / 3), 2: pytest.approx(4 / 5), 3: 0.0}
    assert found.mean_dice == pytest.approx((2 / 3 + 4 / 5) / 3)
    same = agreement(reference, reference.astype(np.uint16))
    assert (same.different, same.mean_dice) == (0.0, 1.0)
    empty = agreement(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))
    assert (empty.different, empty.dice, empty.mean_dice) == (0.0, {}, 1.0)
    with pytest.raises(PartialError, match="shape"):
        agreement(reference, reference[:1])


def test_agreement_wants_whole_numbers(tmp_path):
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4)), path)
    with pytest.raises(PartialError, match="whole numbers"):
        agreement_of_files(path, path)


def test_volume_is_a_scan_and_is_made_once(tmp_path):
    path, grid = tmp_path / "folder" / "phantom_0000.nii.gz", Grid((18, 40, 33), (4.0, 10.0, 11.0))
    volumes.write_volume(path, grid)
    image = sitk.ReadImage(str(path))
    assert image.GetSize() == (33, 40, 18) and image.GetPixelID() == sitk.sitkInt16
    assert image.GetSpacing() == pytest.approx((11.0, 10.0, 4.0))
    scan = sitk.GetArrayFromImage(image)
    assert scan.min() < -800 and 100 < scan.max() < 1600  # air and bone
    stamp = path.stat().st_mtime_ns
    volumes.write_volume(path, grid)
    assert path.stat().st_mtime_ns == stamp


def test_training_phantom_has_the_networks_axes():
    image, labels = volumes.training_phantom(3, (24, 20, 18), (10.0, 14.0, 20.0))
    assert image.shape == labels.shape == (24, 20, 18)
    assert image.flags.c_contiguous and labels.flags.c_contiguous
    assert labels.max() <= len(volumes.CLASSES)
    inside = labels == volumes.CLASSES.index("lung") + 1
    assert image[inside].mean() < -400 < image[labels == volumes.CLASSES.index("liver_tissue") + 1].mean()


def test_estimate_of_nnunets_memory(tmp_path):
    grid = Grid((10, 1024, 1024), (1.0, 1.0, 1.0))  # 10 MiB a byte
    assert nnunet_megabytes(Model(tmp_path, 14, "regions"), grid) == pytest.approx(2000 + 13 * 10 * 10)
    assert nnunet_megabytes(Model(tmp_path, 14, "argmax"), grid) == pytest.approx(2000 + 14 * 10 * 4)


def test_competitors_have_names_of_their_own_and_the_same_conditions(tmp_path):
    model = Model(tmp_path / "results", 14, "regions")
    for competitors, device in ((on_cpu(3), "cpu"), (on_gpu(3), "cuda")):
        assert competitors[0].name == NNUNET
        assert len({c.name for c in competitors}) == len({c.title for c in competitors}) == len(competitors)
        for competitor in competitors:
            command = list(competitor.command(tmp_path / "in", tmp_path / "out", model))
            assert str(tmp_path / "in") in command and str(tmp_path / "out") in command and device in command
            if command[0] in ("nnUNetv2_predict", "nnUNetv2_partial_predict"):
                assert "--disable_tta" in command
            if command[0] == "nnUNetv2_partial_predict":
                assert command[command.index("--threads") + 1] == "3"
    assert set(exported_formats()) == {backend for backend, _ in backends()}


def copying(path, exit_status=0):
    """A competitor that writes a label map that is there already."""
    code = "import shutil,sys; shutil.copy(sys.argv[1], sys.argv[2] + '/phantom.nii.gz') if sys.argv[1] else None"
    # long enough for a look at its memory
    code += f"; import time; time.sleep(0.5); print('said'); sys.exit({exit_status})"

    def command(images, output, model):
        return [sys.executable, "-S", "-c", code, str(path), str(output)]

    return command


def label_file(path, labels):
    nib.save(nib.Nifti1Image(labels, np.eye(4)), path)
    return path


def test_cold_prediction_is_measured_and_compared(bench, tmp_path):
    model = Model(bench.folder / "results", 14, "regions")
    reference = np.zeros((4, 4, 4), np.uint8)
    reference[:2] = 5
    found = reference.copy()
    found[0, 0, 0] = 0
    files = [label_file(tmp_path / name, labels) for name, labels in (("a.nii.gz", reference), ("b.nii.gz", found))]
    other = Competitor("other", "other", copying(files[1]))
    assert "different" not in predict_cold(bench, other, model, "18")  # nothing to compare with yet
    first = predict_cold(bench, Competitor(NNUNET, "nnU-Net", copying(files[0])), model, "18")
    assert first["labels"] == 1 and "different" not in first
    assert first["boundary"] == pytest.approx(1 / 3 / 3)  # of the three pairs along one of three axes, one differs
    assert first["seconds"] > 0 and first["mb"] > 1 and first["measure"] in ("pss", "rss")
    second = predict_cold(bench, other, model, "18")
    assert second["different"] == pytest.approx(1 / 64)
    assert second["mean_dice"] == pytest.approx(2 * 31 / 63)
    # a reference of another part is none
    assert "different" not in predict_cold(bench, other, model, "18", part="gpu")


def test_failed_prediction_is_an_error_with_its_output(bench, tmp_path):
    model = Model(bench.folder / "results", 14, "regions")
    labels = label_file(tmp_path / "a.nii.gz", np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(PartialError, match=r"(?s)exit status 3.*said"):
        predict_cold(bench, Competitor("x", "x", copying(labels, 3)), model, "18")
    with pytest.raises(PartialError, match="missing"):
        predict_cold(bench, Competitor("x", "x", copying("")), model, "18")


def test_sizes_leave_out_what_does_not_fit(bench, monkeypatch):
    bench = replace(bench, classes=(2, 14, 47), stock_classes=(14, 47))
    monkeypatch.setattr(end_to_end, "prepare_model", lambda b, classes: Model(b.folder, classes, b.decoding))
    monkeypatch.setattr(end_to_end, "export", lambda *_: None)
    monkeypatch.setattr(end_to_end, "available_mb", lambda: 2001.0)
    tasks = [(task.case, task.who.partition(".")[0]) for task in sizes_tasks(bench)]
    # nnU-Net with 14 classes on the main volume is measured elsewhere, with 47 it would take too much
    assert tasks == [("files_18", "ours"), *((f"C{n}_regions_18", "fast") for n in (2, 14, 47))]
    notes = bench.results.notes("sizes")
    assert len(notes) == 2 and "not chosen" in notes[0] and "would take about" in notes[1]
    monkeypatch.setattr(end_to_end, "available_mb", lambda: 1e6)
    assert ("C47_regions_18", NNUNET) in [(task.case, task.who) for task in sizes_tasks(bench)]


def test_reading_and_writing_alone(tmp_path):
    volumes.write_volume(tmp_path / "phantom_0000.nii.gz", Grid((18, 40, 32), (4.0, 10.0, 11.0)))
    values = read_and_write(tmp_path / "phantom_0000.nii.gz")
    assert values["seconds"] > 0 and values["extra_mb"] >= 0


def test_pipeline_like_totalsegmentators_keeps_the_grid(tmp_path, monkeypatch):
    seen = {}

    def threshold(image, output, model, device):
        low = nib.load(image)
        seen["low"], seen["affine"] = np.asarray(low.dataobj), low.affine
        nib.save(nib.Nifti1Image((seen["low"] > 50).astype(np.uint8), low.affine), output)

    monkeypatch.setattr(totalsegmentator_like, "_predict_file", threshold)
    plans = make_plans()
    plans["configurations"]["3d_fullres"]["spacing"] = [4.0, 2.0, 3.0]  # z, y, x
    model = tmp_path / "model"
    model.mkdir()
    (model / "plans.json").write_text(json.dumps(plans))
    scan = np.zeros((24, 20, 16), np.int16)
    scan[6:18, 4:14, 4:12] = 100
    affine = np.diag([-1.5, -1.0, 2.0, 1.0])
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(scan, affine), tmp_path / "in" / "phantom_0000.nii.gz")
    totalsegmentator_like.predict(tmp_path / "in", tmp_path / "out", model)
    assert seen["low"].shape == (12, 10, 8) and seen["low"].dtype == np.int16
    np.testing.assert_allclose(seen["affine"], np.diag([-3.0, -2.0, 4.0, 1.0]))
    written = nib.load(tmp_path / "out" / "phantom.nii.gz")
    np.testing.assert_array_equal(written.affine, affine)
    # box and voxels halve exactly, so that nothing is lost on the way
    np.testing.assert_array_equal(np.asarray(written.dataobj), scan // 100)


def test_gpu_is_measured_cold_and_warm(bench, monkeypatch, tmp_path):
    model = Model(bench.folder / "results", 14, "regions")
    for name in ("export", "images_of"):
        monkeypatch.setattr(gpu, name, lambda *_: tmp_path)
    monkeypatch.setattr(gpu, "prepare_model", lambda *_: model)
    device = FakeGpu(lambda reading: 100.0 if reading == 0 else 350.0)
    tasks = gpu.gpu_tasks(bench, device)
    cases = {case: [task.who for task in tasks if task.case == case] for case in {task.case for task in tasks}}
    assert set(cases) == {"C14_regions_18_cold", "C14_regions_18_warm"}
    assert all(who[0] == NNUNET for who in cases.values())  # the others are compared with it
    assert "fast.torch.fp16" in cases["C14_regions_18_cold"] and "fast.fp16" in cases["C14_regions_18_warm"]
    files = label_file(tmp_path / "a.nii.gz", np.zeros((2, 2, 2), np.uint8))
    values = predict_cold(bench, Competitor("x", "x", copying(files)), model, "18", device, part="gpu")
    assert (values["gpu_before_mb"], values["gpu_mb"]) == (100.0, 350.0)


def test_second_image_of_one_process(bench, monkeypatch):
    plans, dataset_json = make_plans(), make_dataset_json()
    model = Model(bench.folder / "results", 3, "argmax")
    write_model(model.folder(), plans, dataset_json)
    write_model(model.exported, plans, dataset_json)  # nnU-Net's folder will do
    asked = []

    def child(module, arguments, threads):
        asked.append(arguments)
        return run_warm(WarmCase(**arguments))

    monkeypatch.setattr(gpu, "run_child", child)
    first = gpu.predict_warm(bench, model, WarmCase(NNUNET, "", "", "", "cpu"))
    ours = gpu.predict_warm(bench, model, WarmCase("ours", "", "", "", "cpu", "exact", "fp32"))
    assert "different" not in first and "allocated_mb" not in first
    assert first["seconds"] > 0 and first["first_seconds"] > 0
    assert ours["different"] < 5e-3  # nnU-Net sums windows in half precision
    assert [a["model"] for a in asked] == [str(model.folder()), str(model.exported)]
