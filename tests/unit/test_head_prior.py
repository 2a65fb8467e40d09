"""Segmentation heads are found in any network, and their prior is set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from nnunet_partial.errors import PartialError
from nnunet_partial.networks import segmentation_heads, supports_deep_supervision
from nnunet_partial.networks.heads import SegmentationHeads
from nnunet_partial.training.head_prior import set_head_prior


def nnunet() -> nn.Module:
    return PlainConvUNet(
        1,
        n_stages=3,
        features_per_stage=[2, 3, 4],
        conv_op=nn.Conv2d,
        kernel_sizes=3,
        strides=[1, 2, 2],
        n_conv_per_stage=1,
        num_classes=5,
        n_conv_per_stage_decoder=1,
        deep_supervision=True,
    )


class OurKind(nn.Module):
    """Two feature maps, as our networks hand them to their heads."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 3, 3, padding=1)
        self.decoder = SegmentationHeads([3, 3], 5, 2, deep_supervision=True)

    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        feature = self.body(image)
        return self.decoder([feature[..., ::2, ::2], feature])


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "bare": lambda network: network,
    "compiled": torch.compile,
    "parallel": nn.parallel.DistributedDataParallel,
    "parallel and compiled": lambda network: nn.parallel.DistributedDataParallel(torch.compile(network)),
}


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(("make", "widths"), [(nnunet, [3, 2]), (OurKind, [3, 3])])
def test_heads_are_found_inside_wrappers(make: Callable[[], nn.Module], widths: list[int], wrapper: str) -> None:
    network = make()
    heads = segmentation_heads(WRAPPERS[wrapper](network))
    assert [head.weight.shape for head in heads] == [(5, width, 1, 1) for width in widths]
    assert [id(head) for head in heads] == [id(head) for head in network.decoder.seg_layers]


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("prior", [0.01, 0.5, 0.9])
def test_a_zero_feature_gives_the_prior(prior: float, wrapper: str) -> None:
    network = OurKind()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    set_head_prior(WRAPPERS[wrapper](network), prior)
    for head, width in zip(network.decoder.seg_layers, (3, 3), strict=True):
        assert torch.sigmoid(head(torch.zeros(1, width, 2, 2))).flatten().tolist() == pytest.approx([prior] * 20)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert all(name.startswith("decoder.seg_layers.") and name.endswith(".bias") for name in changed)
    assert len(changed) == 2


def test_the_prior_of_nnunets_own_network() -> None:
    network = nnunet()
    set_head_prior(network, 0.2)
    biases = torch.cat([head.bias for head in network.decoder.seg_layers])
    assert biases.tolist() == pytest.approx([math.log(0.25)] * 10)


def test_a_network_without_such_heads_is_refused() -> None:
    with pytest.raises(PartialError, match=r"Sequential has no heads called 'seg_layers'.*decoder\.seg_layers"):
        set_head_prior(nn.Sequential(nn.Conv2d(1, 1, 1)), 0.1)


def test_heads_without_a_bias_are_refused() -> None:
    network = OurKind()
    network.decoder.seg_layers[1] = nn.Conv2d(3, 5, 1, bias=False)
    with pytest.raises(PartialError, match="heads without a bias"):
        set_head_prior(network, 0.1)


def test_heads_follow_the_switch_of_deep_supervision() -> None:
    network, image = OurKind(), torch.randn(2, 1, 8, 4)
    outputs = network(image)
    assert [output.shape for output in outputs] == [(2, 5, 8, 4), (2, 5, 4, 2)]
    network.decoder.deep_supervision = False
    assert torch.equal(network(image), outputs[0])


def test_one_feature_map_has_nothing_to_switch() -> None:
    heads, feature = SegmentationHeads([3], 2, 3, deep_supervision=False), torch.randn(1, 3, 2, 2, 2)
    expected = heads([feature])
    heads.deep_supervision = True
    assert torch.equal(heads([feature]), expected)


def test_heads_of_nnunet_support_deep_supervision() -> None:
    assert supports_deep_supervision("dynamic_network_architectures.architectures.unet.PlainConvUNet")
    assert supports_deep_supervision("no.such.Network")  # nnU-Net looks for networks that moved; it decides


def test_the_package_has_no_other_lazy_names() -> None:
    import nnunet_partial.networks

    with pytest.raises(AttributeError, match="has no attribute 'segmentation_head'"):
        _ = nnunet_partial.networks.segmentation_head
