"""Networks built from plans alone, against those nnU-Net's predictor builds."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.model.model_folder import load_model
from nnunet_partial.inference.model.network import build_network, load_weights
from nnunet_partial.inference.model.plan import Architecture, PredictionPlan
from tests.unit import tiny_models
from tests.unit.tiny_models import REGIONS, architecture, configuration, make_dataset_json, make_plans

OURS: dict[str, Any] = {
    "network_class_name": "nnunet_partial.networks.unet_plus_plus.UNetPlusPlus",
    "arch_kwargs": {"strides": [[1] * 3, [2] * 3, [2] * 3, [2] * 3, [2] * 3], "features": [4, 4, 4, 4, 4, 4]},
    "_kw_requires_import": [],
}
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("3d_fullres", make_plans(), make_dataset_json()),
    "regions": ("3d_fullres", make_plans(), make_dataset_json(REGIONS, regions_class_order=[2, 1, 2])),
    "2d, two channels": (
        "2d",
        make_plans(**{"2d": configuration(2, channels=2)}),
        make_dataset_json(channels=("CT", "MR")),
    ),
    "residual": (
        "3d_fullres",
        make_plans(**{"3d_fullres": configuration(architecture=architecture(3, residual=True))}),
        make_dataset_json(),
    ),
    "ours": (
        "3d_fullres",
        make_plans(**{"3d_fullres": configuration(architecture=OURS, patch_size=[32, 32, 32])}),
        make_dataset_json(),
    ),
}


def changed(plan: PredictionPlan, class_name: str | None = None, **arguments: Any) -> PredictionPlan:
    found = plan.architecture
    new = Architecture(class_name or found.class_name, {**found.arguments, **arguments}, found.imported)
    return dataclasses.replace(plan, architecture=new)


@pytest.fixture
def plan(tmp_path: Path) -> PredictionPlan:
    return load_model(tiny_models.write_model(tmp_path / "m")).plan


@pytest.mark.parametrize("case", MODELS)
def test_the_network_is_that_of_nnunet(case: str, tmp_path: Path) -> None:
    name, plans, dataset_json = copy.deepcopy(MODELS[case])
    axes = tuple(range(len(plans["configurations"][name]["patch_size"])))
    folder = tiny_models.write_model(
        tmp_path / "m", plans, dataset_json, name=name, inference_allowed_mirroring_axes=axes
    )
    stock = nnUNetPredictor(device=torch.device("cpu"))
    stock.initialize_from_trained_model_folder(str(folder), (0,), "checkpoint_final.pth")
    model = load_model(folder)
    network = build_network(model.plan)
    load_weights(network, model.weights[0], model.plan, "here")
    assert not network.training
    image = torch.randn(2, len(model.plan.channel_names), *model.plan.patch_size)
    with torch.inference_mode():
        expected = stock.network.eval()(image)
        found = network(image)
    assert found.shape[1] == len(model.plan.decoding.values)
    assert torch.equal(found, expected)


def test_weights_of_another_network_name_the_trainer(plan: PredictionPlan) -> None:
    other = dataclasses.replace(plan, trainer="MyTrainer")
    network = build_network(plan)
    weights = dict(network.state_dict())
    weights["encoder.extra"] = weights.pop("encoder.stages.0.0.convs.0.conv.bias")
    weights["decoder.seg_layers.0.weight"] = torch.zeros(5, 4, 1, 1, 1)
    with pytest.raises(PartialError) as caught:
        load_weights(network, weights, other, "fold_0")
    message = str(caught.value)
    assert message.startswith("fold_0: ")
    assert "1 missing (encoder.stages.0.0.convs.0.conv.bias)" in message
    assert "1 unknown (encoder.extra)" in message
    assert "decoder.seg_layers.0.weight (5, 4, 1, 1, 1) instead of (3, 4, 1, 1, 1)" in message
    assert "MyTrainer" in message
    assert "nnUNetv2_predict" in message


def test_classes_that_moved_are_found(plan: PredictionPlan) -> None:
    moved = changed(plan, "dynamic_network_architectures.architectures.residual_unet.PlainConvUNet")
    assert type(build_network(moved)).__name__ == "PlainConvUNet"


def test_what_cannot_be_built_is_named(plan: PredictionPlan) -> None:
    with pytest.raises(PartialError, match=r"the network, no_such_package.Net, cannot be imported"):
        build_network(changed(plan, "no_such_package.Net"))
    with pytest.raises(PartialError, match="to be a class of torch modules"):
        build_network(changed(plan, "os.system"))
    with pytest.raises(PartialError, match=r"argument 'conv_op' of .*PlainConvUNet, torch.nn.Conv9d"):
        build_network(changed(plan, conv_op="torch.nn.Conv9d"))
    with pytest.raises(PartialError, match="cannot be built with the arguments of the plans"):
        build_network(changed(plan, magic=1))
