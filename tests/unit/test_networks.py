"""The networks, built by nnU-Net from the names and arguments that plans hold."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import nullcontext
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus
from monai.networks.nets.mednext import create_mednext
from monai.networks.nets.swin_unetr import SwinUNETR as MonaiSwinUNETR
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn
from torchvision.models.segmentation import deeplabv3_resnet50

from nnunet_partial.errors import PartialError
from nnunet_partial.networks import segmentation_heads, supports_deep_supervision
from nnunet_partial.networks.deeplab import write_coco_checkpoint
from nnunet_partial.networks.plan_variants import plan_variant
from nnunet_partial.networks.variants import VARIANTS
from tests import documents
from tests.unit.test_plan_variants import make_plans, only, parameters

CLASSES = 3
COSTS = documents.table(documents.ROOT / "docs" / "networks.md", "variant", "parameters, M")
PACKAGE = "nnunet_partial.networks."


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks as small as these are slower on several threads, and far slower on busy processors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def strides(dimensions: int, *stages: int) -> list[list[int]]:
    return [[stage] * dimensions for stage in stages]


TRANSUNET: dict[str, Any] = {
    "n_stages": 3,
    "features_per_stage": [4, 6, 8],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "n_blocks_per_stage": [1, 1, 2],
    "n_conv_per_stage_decoder": [1, 2],
    "patch_size": [4, 8, 8],
    "transformer_width": 12,
    "transformer_layers": 2,
    "transformer_heads": 3,
}
# name: import path, arch_kwargs, size of an image, multiple, image channels
NETWORKS: dict[str, tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...], int]] = {
    "swin": (
        "swin_unetr.SwinUNETR",
        {"strides": strides(2, 1, 2, 2, 2, 2, 2), "feature_size": 12},
        (64, 32),
        (32, 32),
        2,
    ),
    "unet++": (
        "unet_plus_plus.UNetPlusPlus",
        {"strides": strides(3, 1, 2, 2, 2, 2), "features": [2, 2, 4, 4, 4, 3]},
        (32, 16, 16),
        (16, 16, 16),
        1,
    ),
    "mednext": ("mednext.MedNeXt", {"strides": strides(2, 1, 2, 2, 2, 2, 1)}, (32, 16), (16, 16), 1),
    "transunet": ("transunet.TransUNet3D", TRANSUNET, (4, 8, 8), (2, 4, 4), 2),
    "deeplab": ("deeplab.DeepLabV3", {"strides": [[1, 1]]}, (17, 24), (1, 1), 4),
}
DEEP = ("mednext", "transunet")
SHALLOW = ("swin", "unet++", "deeplab")


def build(name: str, deep_supervision: bool = False, **changes: Any) -> Any:
    return _build(name, deep_supervision, **changes) if changes else deepcopy(_built_once(name, deep_supervision))


@cache
def _built_once(name: str, deep_supervision: bool) -> Any:
    return _build(name, deep_supervision)


def _build(name: str, deep_supervision: bool, **changes: Any) -> Any:
    path, kwargs, _, _, channels = NETWORKS[name]
    torch.manual_seed(0)
    arguments = {**kwargs, **changes}
    return get_network_from_plans(
        PACKAGE + path, arguments, [], channels, CLASSES, allow_init=True, deep_supervision=deep_supervision
    )


def image(name: str, batch: int = 2) -> torch.Tensor:
    _, _, size, _, channels = NETWORKS[name]
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_have_the_size_of_the_image_and_all_parameters_learn(name: str) -> None:
    network, x = build(name, deep_supervision=name in DEEP), image(name)
    outputs = network(x)
    assert (outputs[0] if name in DEEP else outputs).shape == (2, CLASSES, *x.shape[2:])
    sum(output.square().sum() for output in (outputs if name in DEEP else [outputs])).backward()
    unused = [key for key, value in network.named_parameters() if value.grad is None]
    assert unused == []  # DistributedDataParallel would wait for them
    assert all(torch.isfinite(value.grad).all() for value in network.parameters())


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "small"])
def test_nnunet_builds_every_variant_with_the_parameters_of_the_document(variant: str) -> None:
    settings = only(plan_variant(make_plans(), variant, "x"))
    architecture, channels = settings["architecture"], 3 if variant == "deeplabv3" else 1
    path = architecture["network_class_name"]
    # MONAI's Swin UNETR reads values of a tensor while it is built
    with nullcontext() if path.endswith("SwinUNETR") else torch.device("meta"):
        network = get_network_from_plans(
            path, architecture["arch_kwargs"], architecture["_kw_requires_import"], channels, 14, deep_supervision=False
        )
    shown = COSTS.column("parameters, M")[COSTS.column("variant").index(variant)]
    digits = len(shown.partition(".")[2])
    assert f"{parameters(network) / 1e6:.{digits}f}" == shown
    image = torch.empty(1, channels, *settings["patch_size"], device="meta")
    assert network.to("meta").eval()(image).shape == (1, 14, *settings["patch_size"])


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("training", [True, False])
def test_deep_supervision_has_the_resolutions_that_nnunet_expects(name: str, training: bool) -> None:
    network, x = build(name, deep_supervision=True).train(training), image(name)
    scale, expected = [1] * (x.ndim - 2), []
    for stage in NETWORKS[name][1]["strides"][:-1]:
        scale = [s * factor for s, factor in zip(scale, stage, strict=True)]
        expected.append((2, CLASSES, *(length // s for length, s in zip(x.shape[2:], scale, strict=True))))
    outputs = network(x)
    assert [output.shape for output in outputs] == expected
    network.decoder.deep_supervision = False  # as nnU-Net's trainer does
    torch.testing.assert_close(network(x), outputs[0])


@pytest.mark.parametrize("name", DEEP)
def test_weights_trained_with_deep_supervision_load_without(name: str) -> None:
    trained, fresh = build(name, deep_supervision=True), build(name)
    with torch.no_grad():
        for value in trained.parameters():
            value.add_(0.1)
    fresh.load_state_dict(trained.state_dict())
    x = image(name)
    torch.testing.assert_close(fresh.eval()(x), trained.eval()(x)[0])


@pytest.mark.parametrize("name", SHALLOW)
def test_networks_without_deep_supervision(name: str) -> None:
    assert not supports_deep_supervision(PACKAGE + NETWORKS[name][0])
    with pytest.raises(PartialError, match="has no deep supervision"):
        build(name, deep_supervision=True)
    network, x = build(name).eval(), image(name)
    expected = network(x)
    network.decoder.deep_supervision = True  # as nnU-Net's trainer does after each validation
    assert torch.equal(network(x), expected)


@pytest.mark.parametrize("name", DEEP)
def test_networks_with_deep_supervision_say_so(name: str) -> None:
    assert supports_deep_supervision(PACKAGE + NETWORKS[name][0])


@pytest.mark.parametrize("name", NETWORKS)
def test_heads_are_convolutions_with_one_output_a_class(name: str) -> None:
    network = build(name)
    heads = segmentation_heads(network)
    assert len(heads) == {"mednext": 5, "transunet": 2}.get(name, 1)
    for head in heads:
        assert isinstance(head, nn.Conv2d | nn.Conv3d)
        assert head.out_channels == CLASSES
        assert set(head.kernel_size) == {1}
        assert head.bias is not None
    # the last head is the one of full resolution: its bias moves the output
    x = image(name)
    before = network.eval()(x)
    with torch.no_grad():
        heads[-1].bias.add_(1)
    torch.testing.assert_close(network(x), before + 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_nnunet_takes_over_all_weights_but_the_heads(name: str, tmp_path: Path) -> None:
    source, target = build(name), build(name)
    with torch.no_grad():
        for value in source.parameters():
            value.add_(1)
    kept = [head.weight.clone() for head in segmentation_heads(target)]
    torch.save({"network_weights": source.state_dict()}, tmp_path / "checkpoint.pth")
    load_pretrained_weights(target, str(tmp_path / "checkpoint.pth"))
    assert all(torch.equal(h.weight, k) for h, k in zip(segmentation_heads(target), kept, strict=True))
    heads = {id(p) for head in segmentation_heads(target) for p in head.parameters()}
    pairs = zip(source.parameters(), target.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs if id(b) not in heads)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "deeplab"])
def test_sizes_that_do_not_fit_are_refused(name: str) -> None:
    _, _, size, multiple, channels = NETWORKS[name]
    network = build(name)
    wrong = (size[0] + 1, *size[1:])
    expected = rf"multiples of \({', '.join(map(str, multiple))}\), found \({', '.join(map(str, wrong))}\)"
    with pytest.raises(PartialError, match=expected):
        network(torch.zeros(1, channels, *wrong))
    with pytest.raises(PartialError, match=f"expected {len(size)} spatial axes"):
        network(torch.zeros(1, channels, *size, 1))


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "transunet"])
def test_strides_that_are_not_the_networks_own_are_refused(name: str) -> None:
    dimensions = len(NETWORKS[name][2])
    with pytest.raises(PartialError, match=r"arch_kwargs 'strides' must be \[\["):
        build(name, strides=strides(dimensions, 1, 2))


def test_deeplab_is_for_2d() -> None:
    with pytest.raises(PartialError, match="2D configurations"):
        build("deeplab", strides=[[1, 1, 1]])


def test_swin_unetr_says_that_einops_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PartialError, match=r"pip install 'nnunet-partial\[networks\]'"):
        build("swin", use_checkpoint=True)


@pytest.mark.parametrize("name", ["swin", "mednext"])
def test_checkpointing_changes_no_gradient(name: str) -> None:
    gradients = []
    for use_checkpoint in (False, True):
        network = build(name, use_checkpoint=use_checkpoint)
        network(image(name)).square().mean().backward()
        gradients.append([value.grad for value in network.decoder.seg_layers[-1:].parameters()])
        gradients[-1] += [next(network.body.parameters()).grad]
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, kept)


def test_swin_unetr_is_monais() -> None:
    network, x = build("swin").eval(), image("swin")
    theirs = MonaiSwinUNETR(in_channels=2, out_channels=CLASSES, feature_size=12, spatial_dims=2).eval()
    theirs.load_state_dict(
        {
            **{key.removeprefix("body."): value for key, value in network.state_dict().items() if "body." in key},
            "out.conv.conv.weight": network.decoder.seg_layers[0].weight,
            "out.conv.conv.bias": network.decoder.seg_layers[0].bias,
        }
    )
    torch.testing.assert_close(network(x), theirs(x))


def test_unet_plus_plus_is_monais() -> None:
    network, x = build("unet++").eval(), image("unet++")
    theirs = BasicUNetPlusPlus(3, 1, CLASSES, features=(2, 2, 4, 4, 4, 3)).eval()
    unused = {key: value for key, value in theirs.state_dict().items() if key.startswith("final_conv")}
    head = network.decoder.seg_layers[0]
    theirs.load_state_dict(
        {
            **unused,
            **{key.removeprefix("body."): value for key, value in network.state_dict().items() if "body." in key},
            "final_conv_0_4.weight": head.weight,
            "final_conv_0_4.bias": head.bias,
        }
    )
    torch.testing.assert_close(network(x), theirs(x)[0])


def test_mednext_is_monais() -> None:
    network, x = build("mednext", deep_supervision=True), image("mednext")
    theirs = create_mednext("S", spatial_dims=2, in_channels=1, out_channels=CLASSES, deep_supervision=True)
    weights = {key.removeprefix("body."): value for key, value in network.state_dict().items() if "body." in key}
    places = [*(f"out_blocks.{n}" for n in range(4)), "out_0"]
    for place, head in zip(places, network.decoder.seg_layers, strict=True):
        weights[f"{place}.conv_out.weight"] = head.weight.transpose(0, 1)
        weights[f"{place}.conv_out.bias"] = head.bias
    theirs.load_state_dict(weights)
    for found, expected in zip(network(x), theirs(x), strict=True):
        torch.testing.assert_close(found, expected)


def test_three_dimensions_of_the_networks_tested_in_two() -> None:
    swin = build("swin", strides=strides(3, 1, 2, 2, 2, 2, 2)).eval()
    mednext = build("mednext", strides=strides(3, 1, 2, 2, 2, 2, 1)).eval()
    with torch.no_grad():
        assert swin(torch.zeros(1, 2, 64, 32, 32)).shape == (1, CLASSES, 64, 32, 32)
        assert mednext(torch.zeros(1, 1, 32, 16, 16)).shape == (1, CLASSES, 32, 16, 16)


def test_transunet_layers_start_from_different_weights() -> None:
    layers = build("transunet").transformer.layers
    assert not torch.equal(layers[0].linear1.weight, layers[1].linear1.weight)


def test_transunet_positions_matter_and_are_interpolated() -> None:
    small, large = build("transunet").eval(), build("transunet", patch_size=[4, 16, 8]).eval()
    assert small.transformer.position.shape == (1, 12, 2, 2, 2)
    x = torch.randn(1, 2, 4, 16, 8, generator=torch.Generator().manual_seed(2))
    weights = small.state_dict()
    # along the doubled axis, linear interpolation of (a, b) at its quarters
    a, b = weights["transformer.position"].unbind(3)
    grid = torch.stack([a, 0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b, b], 3)
    large.load_state_dict({**weights, "transformer.position": grid})
    with torch.no_grad():
        expected = large(x)
        torch.testing.assert_close(small(x), expected)
        large.transformer.position.copy_(grid.flip(3))
        assert not torch.allclose(large(x), expected, atol=1e-4)


def test_transunet_refuses_arguments_that_do_not_fit() -> None:
    with pytest.raises(PartialError, match=r"multiples of \(2, 4, 4\)"):
        build("transunet", patch_size=[4, 8, 6])
    with pytest.raises(PartialError, match="transformer_heads"):
        build("transunet", transformer_heads=5)


def test_deeplab_with_weights_of_coco_is_torchvisions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).eval()
    torch.save(theirs.state_dict(), tmp_path / "coco.pth")
    write_coco_checkpoint(tmp_path / "coco.pth", tmp_path / "pretrained.pth", input_channels=1)
    checkpoint = torch.load(tmp_path / "pretrained.pth", weights_only=True)
    network = get_network_from_plans(PACKAGE + "deeplab.DeepLabV3", {"strides": [[1, 1]]}, [], 1, 21)
    network.load_state_dict(checkpoint["network_weights"])
    x = torch.randn(1, 1, 24, 33)
    with torch.no_grad():
        # a grey image is one with three equal colours
        torch.testing.assert_close(network.eval()(x), theirs(x.expand(1, 3, 24, 33))["out"], rtol=1e-3, atol=1e-4)
    labels = checkpoint["init_args"]["dataset_json"]["labels"]
    assert labels["background"] == 0
    assert labels["person"] == 15
    assert len(labels) == 21


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    weights, target = tmp_path / "weights.pth", tmp_path / "pretrained.pth"
    with pytest.raises(PartialError, match="cannot be read as a state dict"):
        write_coco_checkpoint(weights, target)
    torch.save({"backbone.conv1.weight": torch.zeros(64, 3, 7, 7), "other": torch.zeros(1)}, weights)
    with pytest.raises(PartialError, match=r"deeplabv3_resnet50.*entries differ, e\.g\. backbone"):
        write_coco_checkpoint(weights, target)
    torch.save([1], weights)
    with pytest.raises(PartialError, match="found list"):
        write_coco_checkpoint(weights, target)
    assert not target.exists()
