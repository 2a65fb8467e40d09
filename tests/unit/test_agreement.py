"""What back ends are compared on when a model is exported, and what becomes of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.backends import conversion
from nnunet_partial.inference.backends.open_backend import has_bf16, open_backend
from nnunet_partial.inference.backends.torch_backend import TorchBackend
from nnunet_partial.inference.model import agreement
from nnunet_partial.inference.model.agreement import (
    TOLERANCE,
    TOLERANCE_BF16,
    Agreement,
    agreements,
    comparison_windows,
    entry,
)
from nnunet_partial.inference.model.exported_model import PLAN_FILE, export_model, load_exported
from nnunet_partial.inference.model.model_folder import LoadedModel, load_model
from nnunet_partial.inference.model.plan import Normalization
from nnunet_partial.inference.model.weights_file import write_weights
from tests.unit import tiny_models
from tests.unit.tiny_models import configuration, make_dataset_json, make_plans


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(tiny_models.write_model(tmp_path_factory.mktemp("model") / "m"))


@pytest.fixture(scope="module")
def weights(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    write_weights(path, model.weights[0])
    return path


def test_windows_look_like_what_the_network_sees(model: LoadedModel) -> None:
    plan = dataclasses.replace(model.plan, patch_size=(16, 20, 24))
    windows = comparison_windows(plan)
    assert windows.shape == (6, 1, 16, 20, 24)
    assert windows.dtype == np.float32
    noise, tissue = windows[:2], windows[2:4]
    assert abs(noise.mean()) < 0.1
    assert abs(noise.std() - 1) < 0.1
    # -900 and 900 HU, mean 80 and standard deviation 140 of the plans
    assert tissue.min() == pytest.approx((-900 - 80) / 140, rel=1e-5)
    assert tissue.max() <= (900 - 80) / 140
    assert (tissue == tissue.min()).mean() > 0.05  # air is a plateau
    unknown = dataclasses.replace(plan, normalizations=(Normalization("ZScoreNormalization"),))
    other = comparison_windows(unknown)[2:4]
    assert abs(other.mean()) < 1e-3
    assert abs(other.std() - 1) < 1e-3


def test_half_a_window_is_air_and_nearly_all_of_one(tmp_path: Path) -> None:
    plans = make_plans(**{"2d": configuration(2, channels=2, patch_size=[20, 40])})
    folder = tiny_models.write_model(
        tmp_path / "m", plans, make_dataset_json(channels=("CT", "MR")), name="2d", inference_allowed_mirroring_axes=()
    )
    windows = comparison_windows(load_model(folder).plan)
    tissue = windows[2]
    for window, air in zip(windows[4:], (20, 38), strict=True):
        for channel, original in zip(window, tissue, strict=True):
            assert (channel[:, :air] == original.min()).all()
            np.testing.assert_array_equal(channel[:, air:], original[:, air:])
    assert windows[4, 0].min() != windows[4, 1].min()


@pytest.mark.parametrize("repaired", [True, False])
def test_sums_that_do_not_hold_for_air_are_seen(
    repaired: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime's normalisations differ from PyTorch's in large windows of air, and nowhere else."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    plans = make_plans(**{"3d_fullres": configuration(patch_size=[96, 96, 96])})
    model = load_model(tiny_models.write_model(tmp_path / "m", plans))
    if not repaired:
        monkeypatch.setattr(conversion, "sum_in_stages", lambda network: 0)
    written = conversion.write_network("onnx", model.plan, model.weights[0], tmp_path / "n", "w")
    windows = comparison_windows(model.plan)[[0, 2, 5]]  # noise, tissue, air
    expected = TorchBackend.load(model.plan, model.weights).predict(torch.from_numpy(windows)).numpy()
    found = open_backend("onnx", model.plan, written).predict(windows)
    errors = np.abs(found - expected).max((1, 2, 3, 4)) / np.abs(expected).max()
    assert (errors[:2] < TOLERANCE / 5).all()
    assert errors[2] < TOLERANCE / 50 if repaired else errors[2] > TOLERANCE


@pytest.mark.parametrize("processor", [True, False])
def test_bf16_is_measured_where_the_processor_has_it(
    processor: bool, model: LoadedModel, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "has_bf16", lambda: processor)  # PyTorch computes in it anywhere, if slowly
    found = agreements(model, {"torch": [weights]})
    assert list(found) == ["torch", *(["torch, bf16"] if processor else [])]
    assert found["torch"] == Agreement(6, 0.0, 0.0, TOLERANCE)
    assert found["torch"].holds
    if processor:
        reduced = found[entry("torch", "bf16")]
        assert reduced.tolerance == TOLERANCE_BF16
        assert 1e-4 < reduced.relative < TOLERANCE_BF16
        assert reduced.maximum > reduced.relative  # logits are above 1
        assert reduced.holds


@pytest.mark.skipif(not has_bf16(), reason="this processor has no bf16")
def test_openvino_is_measured_in_bf16_too(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    found = export_model(tiny_models.write_model(tmp_path / "m"), tmp_path / "e", formats=["openvino"])
    assert found["openvino"].relative < 1e-5
    assert 1e-3 < found["openvino, bf16"].relative < TOLERANCE_BF16
    exported = load_exported(tmp_path / "e")
    assert exported.agreement == found
    assert exported.holds("openvino", "bf16")


def test_bf16_beyond_its_tolerance_is_recorded_and_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "has_bf16", lambda: True)
    found = export_model(
        tiny_models.write_model(tmp_path / "m"), tmp_path / "e", formats=["torch"], tolerance_bf16=1e-4
    )
    assert not found["torch, bf16"].holds
    exported = load_exported(tmp_path / "e")
    assert not exported.holds("torch", "bf16")
    assert exported.holds("torch", "fp32")
    assert exported.holds("torch", "fp16")  # was not compared
    assert exported.holds("openvino", "bf16")


def test_records_of_before_are_read(tmp_path: Path) -> None:
    export_model(tiny_models.write_model(tmp_path / "m"), tmp_path / "e", formats=["torch"])
    path = tmp_path / "e" / PLAN_FILE
    content: dict[str, Any] = json.loads(path.read_text())
    content |= {"tolerance": 1e-3, "agreement": {"torch": {"windows": 6, "maximum": 0.1, "relative": 0.0009}}}
    path.write_text(json.dumps(content))
    exported = load_exported(tmp_path / "e")
    assert exported.agreement == {"torch": Agreement(6, 0.1, 0.0009, 1e-3)}
    assert exported.holds("torch", "fp32")
    assert exported.holds("torch", "bf16")


def test_another_prediction_is_refused(model: LoadedModel, weights: Path, tmp_path: Path) -> None:
    changed = {name: 1.01 * tensor for name, tensor in model.weights[0].items()}
    write_weights(tmp_path / "w.safetensors", changed)
    with pytest.raises(PartialError, match=r"format 'torch': its logits differ .* where 0.0005 is allowed"):
        agreements(model, {"torch": [tmp_path / "w.safetensors"]})
    assert agreements(model, {"torch": [tmp_path / "w.safetensors"]}, tolerance=0.5)["torch"].relative > TOLERANCE
    assert not Agreement(6, float("nan"), float("nan"), 1.0).holds
