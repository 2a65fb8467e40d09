"""Exported models: what they hold, that they predict the same, and that they need little."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.backends.open_backend import has_bf16, open_backend
from nnunet_partial.inference.backends.torch_backend import TorchBackend
from nnunet_partial.inference.model.exported_model import PLAN_FILE, export_model, is_exported, load_exported
from nnunet_partial.inference.model.model_folder import load_model
from tests import documents
from tests.unit import tiny_models
from tests.unit.tiny_models import REGIONS, make_dataset_json


@pytest.fixture
def model(tmp_path: Path) -> Path:
    dataset_json = make_dataset_json(REGIONS, regions_class_order=[2, 1, 2])
    return tiny_models.write_model(tmp_path / "m", dataset_json=dataset_json, folds=[0, 3])


@pytest.fixture
def exported(model: Path, tmp_path: Path) -> Path:
    export_model(model, tmp_path / "e", formats=["torch"])
    return tmp_path / "e"


def edit(folder: Path, change: Any) -> None:
    content = json.loads((folder / PLAN_FILE).read_text())
    change(content)
    (folder / PLAN_FILE).write_text(json.dumps(content))


def test_a_model_comes_back_as_it_was(model: Path, exported: Path) -> None:
    original = load_model(model)
    plan, files, _ = load_exported(exported)
    assert plan == original.plan
    assert type(plan.patch_size) is tuple
    assert {kind: [path.name for path in paths] for kind, paths in files.items()} == {
        "torch": ["weights_fold_0.safetensors", "weights_fold_3.safetensors"]
    }
    backend = open_backend("torch", plan, files["torch"])
    patches = torch.randn(2, 1, *plan.patch_size)
    assert torch.equal(backend.predict(patches), TorchBackend.load(original.plan, original.weights).predict(patches))


def test_where_it_is_from_is_recorded(model: Path, exported: Path) -> None:
    content = json.loads((exported / PLAN_FILE).read_text())
    sums = {
        f"fold_{fold}": hashlib.sha256((model / f"fold_{fold}" / "checkpoint_final.pth").read_bytes()).hexdigest()
        for fold in (0, 3)
    }
    assert content["checkpoints_sha256"] == sums
    assert content["format"] == 1
    assert content["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert content["agreement"]["torch"] == {"windows": 6, "maximum": 0.0, "relative": 0.0, "tolerance": 5e-4}
    assert set(content["agreement"]) == {"torch", *(["torch, bf16"] if has_bf16() else [])}
    assert sorted(p.name for p in exported.iterdir()) == sorted([PLAN_FILE, *content["files"]["torch"]])
    assert len({p.stat().st_mode for p in exported.iterdir()}) == 1  # who may read one may read all


@pytest.mark.parametrize("kind", ["openvino", "onnx"])
def test_other_formats_predict_the_same(kind: str, model: Path, tmp_path: Path) -> None:
    for package in {"openvino": ("openvino",), "onnx": ("onnx", "onnxscript", "onnxruntime")}[kind]:
        pytest.importorskip(package)
    agreement = export_model(model, tmp_path / "e", [3], formats=[kind])
    assert agreement[kind].maximum > 0
    assert agreement[kind].relative < 1e-4
    plan, files, _ = load_exported(tmp_path / "e")
    assert [path.stem for path in files[kind]] == ["network_fold_3"]
    original = load_model(model, [3])
    patches = np.random.default_rng(1).standard_normal((2, 1, *plan.patch_size), np.float32)
    expected = TorchBackend.load(original.plan, original.weights).predict(torch.from_numpy(patches)).numpy()
    np.testing.assert_allclose(open_backend(kind, plan, files[kind]).predict(patches), expected, atol=2e-5)


def test_reading_needs_neither_torch_nor_nnunet(exported: Path) -> None:
    script = """
import sys
from pathlib import Path
from nnunet_partial.inference.model.exported_model import load_exported
from nnunet_partial.inference.backends.openvino_backend import OpenVINOBackend
from nnunet_partial.inference.backends.onnx_backend import ONNXBackend
plan, files, _ = load_exported(Path(sys.argv[1]))
assert plan.configuration == "3d_fullres" and len(files["torch"]) == 2
heavy = {"torch", "nnunetv2", "monai", "scipy", "openvino", "onnxruntime"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    finished = subprocess.run(
        [sys.executable, "-c", script, str(exported)],
        env={**os.environ, "PYTHONPATH": str(documents.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr


def test_openvino_predicts_without_torch(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    export_model(model, tmp_path / "e", formats=["openvino"])
    script = """
import sys
from pathlib import Path
import numpy as np
from nnunet_partial.inference.model.exported_model import load_exported
from nnunet_partial.inference.backends.open_backend import choose_backend, open_backend
plan, files, _ = load_exported(Path(sys.argv[1]))
kind = choose_backend(files, "cpu")
backend = open_backend(kind, plan, files[kind])
assert backend.predict(np.zeros((1, 1, *plan.patch_size), np.float32)).shape == (1, 3, *plan.patch_size)
heavy = {"torch", "nnunetv2"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    finished = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "e")],
        env={**os.environ, "PYTHONPATH": str(documents.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr


def test_a_back_end_that_predicts_something_else_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnunet_partial.inference.model import weights_file

    def spoiled(path: Path, weights: Any) -> None:
        changed = {
            name: tensor * (1.1 if name.endswith("seg_layers.0.weight") else 1) for name, tensor in weights.items()
        }
        write(path, changed)

    write = weights_file.write_weights
    monkeypatch.setattr(weights_file, "write_weights", spoiled)
    with pytest.raises(PartialError, match=r"format 'torch': its logits differ .* where 0.0005 is allowed"):
        export_model(model, tmp_path / "e", formats=["torch"])
    assert not (tmp_path / "e").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_not_a_number_is_refused(model: Path, tmp_path: Path) -> None:
    path = model / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    content["network_weights"]["decoder.seg_layers.0.bias"][:] = torch.nan
    torch.save(content, path)
    with pytest.raises(PartialError, match="differ from PyTorch's by up to nan"):
        export_model(model, tmp_path / "e", formats=["torch"])
    assert not (tmp_path / "e").exists()


def test_what_is_there_is_not_replaced_unasked(model: Path, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(PartialError, match="exists already; --overwrite replaces it"):
        export_model(model, exported, formats=["torch"])
    export_model(model, exported, [3], formats=["torch"], overwrite=True)
    assert [path.name for path in load_exported(exported).files["torch"]] == ["weights_fold_3.safetensors"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e", "m"]
    with pytest.raises(PartialError, match="exists already; it is no exported model"):
        export_model(model, model, formats=["torch"], overwrite=True)
    assert is_exported(exported)
    assert not is_exported(model)


def test_unknown_formats_are_refused(model: Path, tmp_path: Path) -> None:
    for formats in (["tensorrt"], []):
        with pytest.raises(PartialError, match="formats: expected some of"):
            export_model(model, tmp_path / "e", formats=formats)


def test_a_failed_replacement_leaves_the_old_model(model: Path, exported: Path) -> None:
    before = (exported / PLAN_FILE).read_text()
    with pytest.raises(PartialError, match="fold_7"):
        export_model(model, exported, [7], formats=["torch"], overwrite=True)
    assert (exported / PLAN_FILE).read_text() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=2), "expected format 1, .* found 2"),
        (lambda c: c.pop("format"), "found None"),
        (lambda c: c["plan"].pop("patch_size"), r"plan\.patch_size: Field required"),
        (lambda c: c["plan"].update(patch_size=["a"]), r"plan\.patch_size\.0: .*integer"),
        (lambda c: c["plan"]["image_resampling"].update(kind="cubic"), r"plan\.image_resampling\.kind"),
        (lambda c: c["files"].update(torch=["gone.safetensors"]), "gone.safetensors: no such file"),
        (lambda c: c["files"].update(torch=["../m/plans.json"]), "no such file in"),
    ],
)
def test_damaged_plans_are_refused(exported: Path, change: Any, message: str) -> None:
    edit(exported, change)
    with pytest.raises(PartialError, match=message):
        load_exported(exported)


def test_what_is_no_exported_model_is_refused(model: Path, exported: Path) -> None:
    with pytest.raises(PartialError, match=rf"{PLAN_FILE}: no such file; .*'plans.json'"):
        load_exported(model)
    (exported / PLAN_FILE).write_text("{")
    with pytest.raises(PartialError, match="cannot be read as JSON"):
        load_exported(exported)
    (exported / PLAN_FILE).write_text("[]")
    with pytest.raises(PartialError, match="expected format 1"):
        load_exported(exported)
