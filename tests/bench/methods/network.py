"""The network of the benchmark, its training on in-memory patches, and sliding-window prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from monai.inferers import sliding_window_inference
from numpy.typing import NDArray
from torch import Tensor, nn

from nnunet_partial.labels import PartialLabels
from nnunet_partial.losses import positive_weights_of
from nnunet_partial.training import Recipe
from nnunet_partial.training.head_prior import set_head_prior
from nnunet_partial.training.patch_sources import drawable_cases
from nnunet_partial.training.slice_axes import SLICES
from tests.bench.methods.collection import Case
from tests.bench.methods.patches import PatchStream, voxel_counts
from tests.bench.methods.presets import Preset

__all__ = ["logits_of", "make_loss", "make_network", "train"]

_SMALLEST_FEATURE_MAP = 4
_LARGEST_GRADIENT = 12.0  # nnU-Net's
_DECAY = 0.9
_OVERLAP = 0.5


def make_network(inputs: int, channels: int, patch: Sequence[int], preset: Preset) -> nn.Module:
    """A U-Net that halves an axis as long as at least four voxels of the patch stay, and is flat where the patch is.

    Args:
        inputs: Channels of the image.
        channels: Output channels.
        patch: Voxels of a training patch.
        preset: Its size.
    """
    stages = len(preset.features)
    strides = [[1, 1, 1]]
    sizes = list(patch)
    for _ in range(stages - 1):
        step = [2 if size >= 2 * _SMALLEST_FEATURE_MAP else 1 for size in sizes]
        sizes = [size // s for size, s in zip(sizes, step, strict=True)]
        strides.append(step)
    kernel = [3 if size > 1 else 1 for size in patch]
    network: nn.Module = PlainConvUNet(
        inputs,
        stages,
        preset.features,
        nn.Conv3d,
        [kernel] * stages,
        strides,
        preset.convolutions,
        channels,
        preset.convolutions,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )
    network.apply(PlainConvUNet.initialize)
    return network


def make_loss(recipe: Recipe, labels: PartialLabels, cases: Sequence[Case], table: NDArray[Any]) -> nn.Module:
    """The loss of a recipe.

    Args:
        recipe: Which one, and its options.
        labels: The label space that is trained.
        cases: Training cases.
        table: What each case knows, of the recipe's heads.
    """
    options: dict[str, Any] = {}
    if recipe.positive_weights:
        names = [case.name for case in cases]
        counts = voxel_counts(cases, table.shape[1]).matrix(names)
        options["positive_weights"] = positive_weights_of(counts, table[[labels.row_of(n) for n in names]]).tolist()
    if recipe.slices:
        options["slice_axis"] = SLICES[recipe.slices]  # axes of cases are those of the body
    if recipe.optional:
        channels = recipe.heads.channels(labels)
        options["optional"] = [channels.index(name.strip()) for name in recipe.optional.split(",")]
    return recipe.loss(**options)


def train(
    recipe: Recipe,
    labels: PartialLabels,
    cases: Sequence[Case],
    patch: tuple[int, int, int],
    preset: Preset,
    seed: int,
    device: torch.device,
) -> nn.Module:
    """Trains one network, its convolutions in bfloat16 and its loss in float32.

    Args:
        recipe: Loss, heads and sampling.
        labels: The label space that is trained.
        cases: Training cases.
        patch: Voxels of a patch.
        preset: Length, pace and size.
        seed: Of initial weights and draws.
        device: Where to train.

    Returns:
        The trained network, in evaluation mode.
    """
    torch.manual_seed(seed)
    network = make_network(len(cases[0].image), len(recipe.heads.channels(labels)), patch, preset)
    if recipe.head_prior is not None:
        set_head_prior(network, recipe.head_prior)
    network.to(device, memory_format=torch.channels_last_3d)
    table = recipe.heads.table(labels, recipe.implied_negatives)
    loss = make_loss(recipe, labels, cases, table).to(device)
    drawable = set(drawable_cases([case.name for case in cases], labels, recipe))
    stream = PatchStream([case for case in cases if case.name in drawable], labels, recipe.sampling, patch, seed)
    optimizer = torch.optim.AdamW(network.parameters(), preset.learning_rate, weight_decay=preset.weight_decay)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, preset.iterations, _DECAY)
    for _ in range(preset.iterations):
        batch = stream.batch(preset.batch_size)
        rows = torch.from_numpy(table[[labels.row_of(name) for name in batch.cases]])
        with torch.autocast(device.type, torch.bfloat16):
            logits = network(batch.images.to(device, memory_format=torch.channels_last_3d))
        value: Tensor = loss(logits, batch.labels.to(device), rows)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), _LARGEST_GRADIENT)
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.inference_mode()
def logits_of(network: nn.Module, image: NDArray[np.float32], patch: Sequence[int], device: torch.device) -> Tensor:
    """Logits of a whole image, (channels, X, Y, Z), on the CPU; windows overlap by half and fade to their rims."""
    volume = torch.from_numpy(image)[None].to(device)
    logits: Tensor = sliding_window_inference(
        volume, tuple(patch), 4, network, overlap=_OVERLAP, mode="gaussian", padding_mode="replicate"
    )
    return logits[0].float().cpu()
