"""Back ends against the network itself."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.backends.backend import Backend
from nnunet_partial.inference.backends.conversion import write_network
from nnunet_partial.inference.backends.open_backend import choose_backend, open_backend
from nnunet_partial.inference.backends.torch_backend import TorchBackend
from nnunet_partial.inference.model.model_folder import LoadedModel, load_model
from nnunet_partial.inference.model.network import build_network, load_weights
from nnunet_partial.inference.model.weights_file import read_weights, write_weights
from tests.unit import tiny_models
from tests.unit.tiny_models import configuration, make_plans

PACKAGES = {"openvino": ("openvino",), "onnx": ("onnx", "onnxscript", "onnxruntime")}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Two folds of a network with two channels of input."""
    plans = make_plans(**{"3d_fullres": configuration(channels=2, patch_size=[8, 12, 16])})
    dataset_json = tiny_models.make_dataset_json(channels=("CT", "MR"))
    return load_model(tiny_models.write_model(tmp_path_factory.mktemp("model") / "m", plans, dataset_json, [0, 1]))


@pytest.fixture(scope="module")
def files(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The folds in every format that can be written here."""
    folder = tmp_path_factory.mktemp("files")
    found: dict[str, list[Path]] = {"torch": []}
    for fold, weights in enumerate(model.weights):
        found["torch"].append(folder / f"{fold}.safetensors")
        write_weights(found["torch"][-1], weights)
        for kind, packages in PACKAGES.items():
            try:
                for package in packages:
                    __import__(package)
            except ImportError:
                continue
            found.setdefault(kind, []).append(write_network(kind, model.plan, weights, folder / str(fold), "w")[0])
    return found


def patches_of(model: LoadedModel, count: int = 3) -> np.ndarray:
    shape = (count, len(model.plan.channel_names), *model.plan.patch_size)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def expected_of(model: LoadedModel, patches: np.ndarray) -> np.ndarray:
    """Mean of the folds, computed by the networks themselves in double precision."""
    results = []
    for weights in model.weights:
        network = build_network(model.plan)
        load_weights(network, weights, model.plan, "w")
        with torch.inference_mode():
            results.append(network.double()(torch.from_numpy(patches).double()).numpy())
    return np.mean(results, axis=0)


def through(backend: Backend, patches: np.ndarray) -> np.ndarray:
    return backend.to_numpy(backend.predict(backend.to_backend(patches)))


def opened(kind: str, model: LoadedModel, files: Mapping[str, list[Path]], **options: Any) -> Backend:
    for package in PACKAGES.get(kind, ()):
        pytest.importorskip(package)
    return open_backend(kind, model.plan, files[kind], **options)


@pytest.mark.parametrize("kind", ["torch", "openvino", "onnx"])
def test_folds_are_averaged(kind: str, model: LoadedModel, files: dict[str, list[Path]]) -> None:
    backend = opened(kind, model, files, threads=1)
    patches = patches_of(model)
    before = patches.copy()
    found = through(backend, patches)
    assert found.dtype == np.float32
    assert found.shape == (3, backend.outputs, *model.plan.patch_size)
    assert backend.outputs == 3
    np.testing.assert_allclose(found, expected_of(model, patches), atol=2e-5)
    np.testing.assert_array_equal(patches, before)
    # results are the caller's: a later window does not change them, and they may be added to
    kept = found.copy()
    again = backend.predict(backend.to_backend(patches[::-1]))
    np.testing.assert_array_equal(found, kept)
    again += backend.flip(backend.to_backend(kept), (0,))
    np.testing.assert_allclose(backend.to_numpy(again)[::-1], 2 * kept, atol=2e-5)
    one = open_backend(kind, model.plan, files[kind][:1])
    assert np.abs(through(one, patches) - kept).max() > 0.01


@pytest.mark.parametrize("kind", ["torch", "openvino", "onnx"])
def test_arrays_serve_to_accumulate_windows(kind: str, model: LoadedModel, files: dict[str, list[Path]]) -> None:
    backend = opened(kind, model, files)
    array = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    total = backend.zeros((1, 2, 3, 5))
    total[:, :, :, 1:] += backend.to_backend(array)
    total *= 2
    assert tuple(total.shape) == (1, 2, 3, 5)
    flipped = backend.to_numpy(backend.flip(total, (2, 3)))
    np.testing.assert_array_equal(flipped[:, :, :, :4], 2 * array[:, :, ::-1, ::-1])
    assert (flipped[..., 4] == 0).all()
    assert flipped.dtype == np.float32


@pytest.mark.parametrize("kind", ["torch", "openvino"])
def test_mirrored_views_are_predicted_as_they_look(kind: str, model: LoadedModel, files: dict[str, list[Path]]) -> None:
    backend = opened(kind, model, files)
    patches = patches_of(model, 1)
    flipped = backend.flip(backend.to_backend(patches), (2, 4))
    found = backend.to_numpy(backend.predict(flipped))
    np.testing.assert_allclose(found, expected_of(model, patches[:, :, ::-1, :, ::-1].copy()), atol=2e-5)


def test_two_dimensions(tmp_path: Path) -> None:
    plans = make_plans(**{"2d": configuration(2)})
    folder = tiny_models.write_model(tmp_path / "m", plans, name="2d", inference_allowed_mirroring_axes=(0, 1))
    model = load_model(folder)
    patches = patches_of(model)
    for channels_last in (True, False):
        backend = TorchBackend.load(model.plan, model.weights, channels_last=channels_last)
        np.testing.assert_allclose(through(backend, patches), expected_of(model, patches), atol=2e-5)


@pytest.mark.parametrize("kind", ["torch", "openvino"])
def test_bfloat16_is_close_but_another(kind: str, model: LoadedModel, files: dict[str, list[Path]]) -> None:
    if kind == "openvino":
        openvino = pytest.importorskip("openvino")
        if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            with pytest.raises(PartialError, match="does not compute in it; choose fp32"):
                opened(kind, model, files, precision="bf16")
            return
    backend = opened(kind, model, files, precision="bf16")
    assert "bf16" in backend.description
    patches = patches_of(model)
    expected = expected_of(model, patches)
    difference = np.abs(through(backend, patches) - expected).max() / np.abs(expected).max()
    assert 1e-5 < difference < 0.05


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_cuda(precision: Any, model: LoadedModel) -> None:
    backend = TorchBackend.load(model.plan, model.weights, device="cuda", precision=precision)
    patches = patches_of(model)
    assert backend.predict(backend.to_backend(patches)).device.type == "cuda"
    expected = expected_of(model, patches)
    difference = np.abs(through(backend, patches) - expected).max() / np.abs(expected).max()
    assert difference < {"fp32": 5e-3, "bf16": 0.05, "fp16": 0.01}[precision]  # TF32 on by default


def test_what_torch_cannot_do_is_named(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for options, message in (
        ({"device": "cuda"}, "finds no CUDA device; use -device cpu"),
        ({"device": "mps"}, "finds none; use -device cpu"),
        ({"device": "toaster"}, "expected cpu, cuda, cuda:N or mps, found 'toaster'"),
        ({"device": "meta"}, "expected cpu, cuda, cuda:N or mps, found 'meta'"),
        ({"precision": "fp16"}, r"expected one of \['fp32', 'bf16'\] on cpu, found 'fp16'"),
    ):
        with pytest.raises(PartialError, match=message):
            TorchBackend.load(model.plan, model.weights, **options)  # type: ignore[arg-type]
    with pytest.raises(PartialError, match="found none"):
        TorchBackend.load(model.plan, [])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(PartialError, match="there are 1 CUDA devices"):
        TorchBackend.load(model.plan, model.weights, device="cuda:1")


def test_missing_packages_are_named(
    model: LoadedModel, files: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("openvino", "onnxruntime", "onnxscript", "safetensors", "safetensors.torch"):
        monkeypatch.setitem(sys.modules, package, None)
    for kind, message in (
        ("torch", "pip install safetensors"),
        ("openvino", r"nnunet-partial\[openvino\]"),
        ("onnx", r"nnunet-partial\[onnx\]"),
    ):
        with pytest.raises(PartialError, match=message):
            open_backend(kind, model.plan, files["torch"])
    for kind in ("openvino", "onnx"):
        with pytest.raises(PartialError, match=rf"a package is missing .*nnunet-partial\[{kind}\]"):
            write_network(kind, model.plan, model.weights[0], tmp_path / "n", "w")
    with pytest.raises(PartialError, match="pip install safetensors"):
        write_weights(tmp_path / "w", model.weights[0])


@pytest.mark.parametrize(("kind", "suffix"), [("torch", ".safetensors"), ("openvino", ".xml"), ("onnx", ".onnx")])
def test_missing_and_damaged_files_are_named(kind: str, suffix: str, model: LoadedModel, tmp_path: Path) -> None:
    for package in PACKAGES.get(kind, ()):
        pytest.importorskip(package)
    path = tmp_path / f"n{suffix}"
    with pytest.raises(PartialError, match=f"n{suffix}: no such file"):
        open_backend(kind, model.plan, [path])
    path.write_bytes(b"junk" * 10)
    with pytest.raises(PartialError, match=f"n{suffix}: .*export the model again"):
        open_backend(kind, model.plan, [path])
    with pytest.raises(PartialError, match="found none"):
        open_backend(kind, model.plan, [])


def test_what_a_back_end_cannot_do_is_named(model: LoadedModel, files: dict[str, list[Path]]) -> None:
    for kind, options, message in (
        ("openvino", {"device": "cuda"}, "OpenVINO is used on the CPU only"),
        ("openvino", {"precision": "fp16"}, "in OpenVINO, found 'fp16'"),
        ("openvino", {"compiled": True}, "compiled always"),
        ("onnx", {"precision": "bf16"}, "in fp32 only"),
        ("onnx", {"device": "mps"}, "in ONNX Runtime, found 'mps'"),
        ("tensorrt", {}, "found 'tensorrt'"),
    ):
        for package in PACKAGES.get(kind, ()):
            pytest.importorskip(package)
        with pytest.raises(PartialError, match=message):
            open_backend(kind, model.plan, files.get(kind, []), **options)  # type: ignore[arg-type]


def test_the_fastest_back_end_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"torch", "openvino", "onnxruntime"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in installed else None)
    files = {kind: [Path("x")] for kind in ("torch", "openvino", "onnx")}
    assert choose_backend(files, "cpu") == "openvino"
    assert choose_backend(files, "cuda:0") == "torch"
    installed.remove("openvino")
    assert choose_backend(files, "cpu") == "onnx"
    assert choose_backend({"torch": [Path("x")]}, "cpu") == "torch"
    with pytest.raises(PartialError, match=r"exported for \['onnx'\], and needs one of \['torch'\] there"):
        choose_backend({"onnx": [Path("x")]}, "cuda")
    with pytest.raises(PartialError, match=r"none of \['openvino'\] is installed"):
        choose_backend({"openvino": [Path("x")]}, "cpu")


def test_weights_are_written_once(model: LoadedModel, files: dict[str, list[Path]]) -> None:
    expected = model.weights[0]
    found = read_weights(files["torch"][0])
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    every = sum(tensor.numel() * tensor.element_size() for tensor in expected.values())
    once = sum({tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in expected.values()}.values())
    size = files["torch"][0].stat().st_size
    assert once < size < once + 20_000
    assert once < every


def test_views_are_told_apart(tmp_path: Path) -> None:
    square = torch.arange(4.0).reshape(2, 2)
    weights = {
        "a": square,
        "b": square.T,
        "c": square,
        "empty": torch.zeros(0),
        "none": torch.zeros(0),
        "n": torch.tensor(3),
    }
    write_weights(tmp_path / "w.safetensors", weights)
    found = read_weights(tmp_path / "w.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    assert found["a"] is found["c"]
