"""Instance normalisation in OpenVINO against PyTorch in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nnunet_partial.inference.backends.openvino_statistics import sum_in_stages

openvino = pytest.importorskip("openvino")


def converted(network: nn.Module, values: torch.Tensor) -> Any:
    return openvino.convert_model(network.eval(), example_input=values, input=[tuple(values.shape)])


def computed(model: Any, values: torch.Tensor) -> np.ndarray:
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(compiled(values.numpy())[0])


def largest_error(network: nn.Module, values: torch.Tensor, rewritten: int) -> float:
    model = converted(network, values)
    assert sum_in_stages(model) == rewritten
    found = computed(model, values)
    with torch.no_grad():
        wanted = network.double()(values.double()).numpy()
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def half_air(*shape: int) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values[..., : shape[-1] // 2] = -1.7
    return values


@pytest.mark.parametrize("shape", [(1, 3, 96, 96, 96), (1, 2, 17, 40, 23), (1, 3, 256, 192)])
def test_sums_hold_where_many_voxels_are_equal(shape: tuple[int, ...]) -> None:
    norm = nn.InstanceNorm3d if len(shape) == 5 else nn.InstanceNorm2d
    network = norm(shape[1], affine=True)
    nn.init.normal_(network.weight)
    nn.init.normal_(network.bias)
    assert largest_error(network, half_air(*shape), 1) < 1e-5


def test_a_network_of_several_layers() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv3d(1, 8, 3, padding=1), nn.InstanceNorm3d(8, affine=True), nn.LeakyReLU(0.01)]
    layers += [nn.Conv3d(8, 4, 3, padding=1, stride=2), nn.InstanceNorm3d(4, affine=True), nn.LeakyReLU(0.01)]
    assert largest_error(nn.Sequential(*layers), half_air(1, 1, 48, 48, 48), 2) < 1e-5


def test_small_maps_are_left_to_openvino() -> None:
    assert largest_error(nn.InstanceNorm3d(2), half_air(1, 2, 15, 16, 16), 0) < 1e-5


def test_other_normalisations_are_left_alone() -> None:
    network = nn.Sequential(nn.Conv3d(2, 2, 1), nn.BatchNorm3d(2))
    assert largest_error(network, half_air(1, 2, 16, 16, 16), 0) < 1e-5


def test_a_mean_of_thirty_deviations() -> None:
    values = 30 + torch.randn((1, 2, 64, 64, 64), generator=torch.Generator().manual_seed(0))
    assert largest_error(nn.InstanceNorm3d(2), values, 1) < 5e-4


@pytest.mark.parametrize("level", [0.0, 1.0, -300.0])
def test_a_constant_channel_becomes_zero(level: float) -> None:
    values = torch.full((1, 1, 32, 32, 32), level)
    model = converted(nn.InstanceNorm3d(1), values)
    sum_in_stages(model)
    # the rounding of one mean, times the largest factor: 1 / sqrt(epsilon)
    np.testing.assert_allclose(computed(model, values), 0, atol=abs(level) * 2**-22 / np.sqrt(1e-5) + 1e-12)


def test_epsilon_outside_of_the_root() -> None:
    operations = openvino.opset13
    values = 1e-3 * half_air(1, 2, 24, 24, 24)
    given = operations.parameter(list(values.shape), np.float32)
    axes = operations.constant(np.array([2, 3, 4]))
    model = openvino.Model([operations.mvn(given, axes, True, 1e-2, "OUTSIDE_SQRT")], [given], "network")
    assert sum_in_stages(model) == 1
    inner = values.double()
    mean, deviation = inner.mean((2, 3, 4), keepdim=True), inner.std((2, 3, 4), correction=0, keepdim=True)
    np.testing.assert_allclose(computed(model, values), ((inner - mean) / (deviation + 1e-2)).numpy(), atol=1e-6)
