"""Heads that a pretrained network hands over: weights are their channel numbers, so every mean is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nnunet_partial.labels import (
    AnnotationSet,
    LabelSpace,
    PartialLabels,
    keep_apart,
    one_axis_per_source,
    with_atom_labels,
    with_region_labels,
)
from nnunet_partial.networks.heads import SegmentationHeads
from nnunet_partial.training.transfer import Transfer, channel_names, load_pretrained

UNTRAINED = -1.0
EVERYTHING = ("background", "liver", "tumour", "spleen", "vertebra.L1")


class Network(nn.Module):
    """A body and two heads, as nnU-Net names them."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 2, 1)
        self.decoder = SegmentationHeads([2, 2], classes, 2, deep_supervision=True)

    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        feature = self.body(image)
        return self.decoder([feature, feature])


def labels_of(sources: dict[str, Sequence[str]], classes: Sequence[str]) -> PartialLabels:
    """Sources that label some structures; the liver contains its tumour."""
    sets = {}
    for source, structures in sources.items():
        possible = {value: frozenset({atom}) for value, atom in enumerate(structures, 1)}
        possible[0] = frozenset(EVERYTHING) - set(structures)
        sets[source] = AnnotationSet(source, source, "CT", possible)
    atoms = {"liver": frozenset({"liver", "tumour"})}
    space = LabelSpace({"anatomy": EVERYTHING}, {name: atoms.get(name, frozenset({name})) for name in classes})
    return PartialLabels(space, sets, {f"{source}_1": source for source in sources})


LITS, BTCV = ("liver", "tumour"), ("liver", "tumour", "spleen")
SHARED = labels_of({"lits": LITS, "btcv": BTCV}, ["liver", "tumour", "spleen"])
APART = one_axis_per_source(SHARED)


def sigmoid(labels: PartialLabels) -> dict[str, Any]:
    return with_region_labels({"channel_names": {"0": "CT"}}, labels)


@pytest.fixture
def pretrained(tmp_path: Path) -> Callable[[dict[str, Any]], str]:
    """A factory of checkpoints: channel c has weight 10 (c + 1) and bias c + 1 in the last head, twice that below."""

    def make(dataset_json: dict[str, Any]) -> str:
        network = Network(len(channel_names(dataset_json)[1]))
        with torch.no_grad():
            for parameter in network.body.parameters():
                parameter.fill_(7)
            for factor, head in zip((2, 1), network.decoder.seg_layers, strict=True):
                for channel in range(len(head.bias)):
                    head.weight[channel] = 10 * (channel + 1) * factor
                    head.bias[channel] = (channel + 1) * factor
        path = tmp_path / "checkpoint_final.pth"
        content = {"network_weights": network.state_dict(), "init_args": {"dataset_json": dataset_json}}
        torch.save(content, path)
        return str(path)

    return make


def transferred(checkpoint: str, dataset_json: dict[str, Any]) -> tuple[Transfer, dict[str, float]]:
    """What was transferred to an untrained network, and the bias of every channel; checks all other parameters."""
    names = channel_names(dataset_json)[1]
    network = Network(len(names))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(UNTRAINED)
    transfer = load_pretrained(network, checkpoint, dataset_json)
    low, high = network.decoder.seg_layers
    for channel, bias in enumerate(high.bias.tolist()):
        untrained = bias == UNTRAINED
        assert (names[channel] in transfer.fresh) == untrained
        assert low.bias[channel].item() == (UNTRAINED if untrained else 2 * bias)
        assert (high.weight[channel] == (UNTRAINED if untrained else 10 * bias)).all()
        assert (low.weight[channel] == (UNTRAINED if untrained else 20 * bias)).all()
    assert all((parameter == 7).all() for parameter in network.body.parameters())
    return transfer, dict(zip(names, high.bias.tolist(), strict=True))


def test_the_label_spaces_of_these_tests() -> None:
    assert SHARED.class_names == ("liver", "tumour", "spleen")
    assert APART.class_names == ("lits.liver", "lits.tumour", "btcv.liver", "btcv.tumour", "btcv.spleen")


def test_channels_of_the_same_name_are_copied_whatever_their_order(pretrained: Callable[..., str]) -> None:
    target = labels_of({"new": ("spleen", "vertebra.L1", "liver", "tumour")}, ["spleen", "vertebra.L1", "liver"])
    transfer, bias = transferred(pretrained(sigmoid(SHARED)), sigmoid(target))
    assert bias == {"spleen": 3, "vertebra.L1": UNTRAINED, "liver": 1}
    assert transfer.origins == {"spleen": ("spleen",), "liver": ("liver",)}
    assert (transfer.heads, transfer.fresh) == (("spleen", "liver"), ("vertebra.L1",))
    assert str(transfer).endswith("heads taken over: spleen, liver; untrained heads: vertebra.L1")


def test_a_class_starts_from_the_mean_of_those_that_sources_kept_apart(pretrained: Callable[..., str]) -> None:
    transfer, bias = transferred(pretrained(sigmoid(APART)), sigmoid(SHARED))
    assert bias == {"liver": (1 + 3) / 2, "tumour": (2 + 4) / 2, "spleen": 5}
    assert transfer.origins == {
        "liver": ("lits.liver", "btcv.liver"),
        "tumour": ("lits.tumour", "btcv.tumour"),
        "spleen": ("btcv.spleen",),
    }
    assert "liver from the mean of lits.liver and btcv.liver, tumour from" in str(transfer)
    assert str(transfer).endswith("spleen from btcv.spleen; untrained heads: none")


def test_the_mean_of_heads_gives_the_mean_of_logits(pretrained: Callable[..., str]) -> None:
    checkpoint = pretrained(sigmoid(APART))
    source, target = Network(5), Network(3)
    source.load_state_dict(torch.load(checkpoint, weights_only=False)["network_weights"])
    load_pretrained(target, checkpoint, sigmoid(SHARED))
    image = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for before, after in zip(source(image), target(image), strict=True):
        torch.testing.assert_close(after[:, 0], (before[:, 0] + before[:, 2]) / 2)


def test_a_class_kept_apart_starts_from_the_shared_one(pretrained: Callable[..., str]) -> None:
    transfer, bias = transferred(pretrained(sigmoid(SHARED)), sigmoid(APART))
    assert bias == {"lits.liver": 1, "lits.tumour": 2, "btcv.liver": 1, "btcv.tumour": 2, "btcv.spleen": 3}
    assert transfer.origins["btcv.liver"] == ("liver",)


def test_a_class_kept_apart_by_another_source_starts_from_the_mean(pretrained: Callable[..., str]) -> None:
    target = one_axis_per_source(labels_of({"chaos": BTCV, "btcv": BTCV}, ["liver", "spleen"]))
    transfer, bias = transferred(pretrained(sigmoid(APART)), sigmoid(target))
    assert bias["chaos.liver"] == (1 + 3) / 2
    assert bias["chaos.spleen"] == 5
    assert (bias["btcv.liver"], transfer.origins["btcv.liver"]) == (3, ("btcv.liver",))


def test_the_shared_class_goes_before_those_kept_apart(pretrained: Callable[..., str]) -> None:
    mixed = keep_apart(SHARED, "btcv", ["liver"])
    number = {name: channel + 1 for channel, name in enumerate(mixed.class_names)}
    assert {"liver", "btcv.liver"} < set(number)
    checkpoint = pretrained(sigmoid(mixed))
    assert transferred(checkpoint, sigmoid(SHARED))[1]["liver"] == number["liver"]
    bias = transferred(checkpoint, sigmoid(APART))[1]
    assert (bias["lits.liver"], bias["btcv.liver"]) == (number["liver"], number["btcv.liver"])


def test_a_dot_in_a_name_is_no_source(pretrained: Callable[..., str]) -> None:
    known = labels_of({"lits": ("vertebra.L1",)}, ["vertebra.L1"])
    stock = {"labels": {"background": 0, "L1": [1, 2], "vertebra.L1": [2, 2]}}
    transfer, bias = transferred(pretrained(sigmoid(known)), stock)
    assert bias == {"L1": UNTRAINED, "vertebra.L1": 1}
    assert transfer.fresh == ("L1",)


def test_a_class_of_a_source_with_a_dot_in_its_name_keeps_its_dot(pretrained: Callable[..., str]) -> None:
    plain = labels_of({"spine": ("vertebra.L1",), "lits": LITS}, ["vertebra.L1"])
    apart = one_axis_per_source(plain)
    assert apart.class_names[0] == "spine.vertebra.L1"
    transfer, bias = transferred(pretrained(sigmoid(apart)), sigmoid(plain))
    assert (bias["vertebra.L1"], transfer.origins["vertebra.L1"]) == (1, ("spine.vertebra.L1",))


def test_regions_of_stock_nnunet_are_taken_by_name(pretrained: Callable[..., str]) -> None:
    stock = {"labels": {"background": 0, "organs": [1, 2], "liver": [2, 2]}}
    transfer, bias = transferred(pretrained(stock), sigmoid(APART))
    assert (bias["lits.liver"], bias["btcv.liver"], bias["btcv.spleen"]) == (2, 2, UNTRAINED)
    assert transfer.heads == ("lits.liver", "btcv.liver")


def test_softmax_heads_are_taken_by_atom(pretrained: Callable[..., str]) -> None:
    content = with_atom_labels({}, SHARED)
    transfer, bias = transferred(pretrained(content), content)
    assert list(bias.values()) == [1, 2, 3, 4, 5]
    assert transfer.heads == EVERYTHING


@pytest.mark.parametrize("softmax_first", [True, False])
def test_a_sigmoid_and_a_softmax_share_no_head(pretrained: Callable[..., str], softmax_first: bool) -> None:
    contents = [with_atom_labels({}, SHARED), sigmoid(SHARED)]
    known, target = contents if softmax_first else contents[::-1]
    transfer, bias = transferred(pretrained(known), target)
    assert set(bias.values()) == {UNTRAINED}
    assert transfer.heads == ()
    assert "heads taken over: none; untrained heads: " in str(transfer)
