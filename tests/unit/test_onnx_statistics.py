"""Instance normalisation in ONNX Runtime against PyTorch in double precision."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nnunet_partial.inference.backends import conversion
from nnunet_partial.inference.backends.onnx_statistics import StagedInstanceNorm, sum_in_stages
from nnunet_partial.inference.model.model_folder import load_model
from tests.unit import tiny_models
from tests.unit.tiny_models import configuration, make_plans

onnx, runtime = (pytest.importorskip(package) for package in ("onnx", "onnxruntime"))
pytest.importorskip("onnxscript")


def written(network: nn.Module, values: Tensor, path: Path) -> Path:
    with torch.no_grad():
        program = torch.onnx.export(network, (values,), dynamo=True, input_names=["x"], verbose=False)
    assert program is not None
    program.save(path, external_data=False)
    return path


def operations(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def computed(path: Path, values: Tensor) -> np.ndarray:
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: values.numpy()})[0])


def largest_error(found: np.ndarray, network: nn.Module, values: Tensor) -> float:
    with torch.no_grad():
        wanted = copy.deepcopy(network).double()(values.double()).numpy()
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def with_air(share: float, *shape: int) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values[..., : int(share * shape[-1])] = -1.7
    return values


def normalisation(dimensions: int, channels: int, **options: Any) -> nn.Module:
    kinds = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
    network = kinds[dimensions - 1](channels, **options)
    torch.manual_seed(0)
    for weights in network.parameters():
        nn.init.normal_(weights)
    return network.eval()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(1, 2, 96, 96, 96), (2, 3, 7, 40, 23), (1, 3, 640, 512), (1, 2, 300)])
def test_sums_hold_where_most_voxels_are_equal(tmp_path: Path, affine: bool, shape: tuple[int, ...]) -> None:
    network = normalisation(len(shape) - 2, shape[1], affine=affine)
    values = with_air(0.95, *shape)
    exchanged = nn.Sequential(copy.deepcopy(network)).eval()
    assert sum_in_stages(exchanged) == 1
    path = written(exchanged, values, tmp_path / "n.onnx")
    assert "InstanceNormalization" not in operations(path)
    assert largest_error(computed(path, values), network, values) < 2e-6


@pytest.mark.parametrize("dimensions", [2, 3])
def test_networks_are_written_without_the_runtimes_sums(tmp_path: Path, dimensions: int) -> None:
    size = {2: 320, 3: 48}[dimensions]
    name = {2: "2d", 3: "3d_fullres"}[dimensions]
    plans = make_plans(**{name: configuration(dimensions, patch_size=[size] * dimensions)})
    axes = tuple(range(dimensions))
    folder = tiny_models.write_model(tmp_path / "m", plans, name=name, inference_allowed_mirroring_axes=axes)
    model = load_model(folder)
    before = {key: tensor.clone() for key, tensor in model.weights[0].items()}
    (path,) = conversion.write_network("onnx", model.plan, model.weights[0], tmp_path / "n", "w")
    assert "InstanceNormalization" not in operations(path)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.weights[0].items())
    network = conversion.build_network(model.plan)
    conversion.load_weights(network, model.weights[0], model.plan, "w")
    assert not any(isinstance(module, StagedInstanceNorm) for module in network.modules())
    values = with_air(0.95, 1, 1, *[size] * dimensions)
    assert largest_error(computed(path, values), network, values) < 1e-5


def test_what_openvino_reads_keeps_one_operation_a_normalisation(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    model = load_model(tiny_models.write_model(tmp_path / "m"))
    path, _ = conversion.write_network("openvino", model.plan, model.weights[0], tmp_path / "n", "w")
    kinds = [node.get_type_name() for node in openvino.Core().read_model(path).get_ordered_ops()]
    normalisations = sum(
        isinstance(module, nn.InstanceNorm3d) for module in conversion.build_network(model.plan).modules()
    )
    assert kinds.count("MVN") == normalisations > 0


def test_modules_of_several_names_stay_one_and_keep_their_weights() -> None:
    shared, alone = nn.InstanceNorm3d(2, affine=True), nn.InstanceNorm2d(3)
    network = nn.ModuleDict({"block": nn.ModuleList([shared, nn.Identity()]), "norm": shared, "other": alone})
    state = set(network.state_dict())
    assert sum_in_stages(network) == 2
    assert network["norm"] is network["block"][0]  # type: ignore[index]
    assert network["norm"].weight is shared.weight
    assert set(network.state_dict()) == state


def test_other_normalisations_are_left_alone() -> None:
    class Own(nn.InstanceNorm3d):
        """May compute anything."""

    layers = [nn.InstanceNorm3d(2, track_running_stats=True), nn.BatchNorm3d(2), nn.GroupNorm(1, 2), Own(2)]
    network = nn.Sequential(*layers)
    assert sum_in_stages(network) == 0
    assert list(network) == layers


def test_a_mean_of_many_deviations_loses_nothing() -> None:
    values = 300 + torch.randn((1, 2, 40, 40, 40), generator=torch.Generator().manual_seed(0))
    network = normalisation(3, 2, affine=True)
    with torch.no_grad():
        found = StagedInstanceNorm(network)(values).numpy()  # type: ignore[arg-type]
        unbatched = StagedInstanceNorm(network)(values[0]).numpy()  # type: ignore[arg-type]
    assert largest_error(found, network, values) < 1e-4
    np.testing.assert_array_equal(unbatched, found[0])
