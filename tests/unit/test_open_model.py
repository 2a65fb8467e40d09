"""Where an exported model runs when nobody says where."""

from __future__ import annotations

import sys

import pytest
import torch

from nnunet_partial.inference.backends import open_backend
from nnunet_partial.inference.model import exported_model, open_model
from nnunet_partial.inference.model.agreement import TOLERANCE_BF16, Agreement
from nnunet_partial.inference.model.exported_model import ExportedModel
from nnunet_partial.inference.model.open_model import ModelChoice
from nnunet_partial.inference.predictor import open_predictor
from tests.unit.tiny_models import write_model


def choice(**changes) -> ModelChoice:
    given = {
        "folds": None,
        "checkpoint": "checkpoint_final.pth",
        "device": "auto",
        "backend": "auto",
        "precision": None,
        "exact": True,
        "threads": None,
        "compiled": False,
        "trust_checkpoint": False,
    }
    return ModelChoice(**{**given, **changes})


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Opens an exported model of some formats; gives back end, device and precision that it would run with."""
    (tmp_path / exported_model.PLAN_FILE).touch()
    monkeypatch.setattr(open_backend.importlib.util, "find_spec", lambda name: object())

    def opens(kind, plan, files, *, device, precision, **_):
        return kind, device, precision

    monkeypatch.setattr(open_backend, "open_backend", opens)

    def run(*formats, agreement=None, **changes):
        exported = ExportedModel(None, {kind: (tmp_path / kind,) for kind in formats}, agreement or {})
        monkeypatch.setattr(exported_model, "load_exported", lambda folder: exported)
        return open_model.open_model(tmp_path, choice(**changes))[1]

    return run


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A folder of device files with a GPU."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(open_model, "_DEVICE_FILES", tmp_path / "dev")
    (tmp_path / "dev").mkdir()
    file = tmp_path / "dev" / "nvidia1"
    file.touch()
    return file


def never():
    raise AssertionError("PyTorch was asked for a GPU")


@pytest.mark.parametrize("formats", [("torch",), ("openvino", "torch"), ("onnx", "openvino", "torch")])
def test_a_gpu_is_used_where_there_is_one(opened, driver, monkeypatch, formats):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert opened(*formats) == ("torch", "cuda", "fp16")


def test_a_driver_without_gpu_leaves_the_cpu(opened, driver, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert opened("openvino", "torch") == ("openvino", "cpu", "fp32")
    assert opened("torch") == ("torch", "cpu", "fp32")


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_gpus_are_not_looked_for(opened, driver, monkeypatch, hidden):
    monkeypatch.setattr(torch.cuda, "is_available", never)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert opened("openvino", "torch") == ("openvino", "cpu", "fp32")


def test_without_driver_pytorch_is_not_asked(opened, driver, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", never)
    driver.rename(driver.with_name("nvidiactl"))  # which is there without any GPU
    assert opened("openvino", "torch") == ("openvino", "cpu", "fp32")


@pytest.mark.parametrize(
    ("formats", "changes", "expected"),
    [
        (("openvino",), {}, ("openvino", "cpu", "fp32")),
        (("onnx",), {}, ("onnx", "cpu", "fp32")),
        (("openvino", "torch"), {"backend": "openvino"}, ("openvino", "cpu", "fp32")),
        (("openvino", "torch"), {"device": "cpu"}, ("openvino", "cpu", "fp32")),
        (("openvino", "torch"), {"device": "cuda:1"}, ("torch", "cuda:1", "fp16")),
    ],
)
def test_what_needs_no_gpu_does_not_ask_for_one(opened, driver, monkeypatch, formats, changes, expected):
    monkeypatch.setattr(torch.cuda, "is_available", never)
    assert opened(*formats, **changes) == expected


def test_pytorch_by_name_looks_for_a_gpu_itself(opened, driver, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    driver.unlink()
    assert opened("openvino", "torch", backend="torch") == ("torch", "cuda", "fp16")


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_a_folder_of_nnunet_opens_on_the_cpu_without_gpu(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(open_model, "has_bf16", lambda: True)
    predictor = open_predictor(write_model(tmp_path / "model"), mode=mode)
    assert predictor.backend.device.type == "cpu"
    assert ("bfloat16" in predictor.backend.description or "bf16" in predictor.backend.description) == (mode == "fast")


@pytest.mark.parametrize(
    ("relative", "changes", "expected"),
    [
        (0.02, {}, "bf16"),
        (None, {}, "bf16"),  # exported where the processor had none
        (0.2, {}, "fp32"),
        (float("nan"), {}, "fp32"),
        (0.2, {"precision": "bf16"}, "bf16"),
        (0.02, {"exact": True}, "fp32"),
    ],
)
@pytest.mark.parametrize("kind", ["openvino", "torch"])
def test_bf16_is_left_where_it_was_found_to_be_far_off(opened, monkeypatch, kind, relative, changes, expected):
    monkeypatch.setattr(open_model, "has_bf16", lambda: True)
    agreement = {kind: Agreement(6, 0.0, 0.0)}
    if relative is not None:
        agreement[f"{kind}, bf16"] = Agreement(6, 1.0, relative, TOLERANCE_BF16)
    found = opened(kind, agreement=agreement, **{"device": "cpu", "exact": False, **changes})
    assert found == (kind, "cpu", expected)
