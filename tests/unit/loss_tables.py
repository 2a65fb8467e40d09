"""What the tests of losses share: random tables, a look at states voxel by voxel, and a run on two ranks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def random_batch(
    seed: int,
    batch: int = 2,
    classes: int = 4,
    values: int = 5,
    shape: tuple[int, ...] = (5, 4, 3),
    unknown: float = 0.3,
) -> Batch:
    """Logits, labels (some -1) and a table with random states."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, *shape, generator=generator, dtype=torch.float64) * 3
    labels = torch.randint(-1, values, (batch, 1, *shape), generator=generator)
    table = torch.randint(0, 2, (batch, values, classes), generator=generator, dtype=torch.int8)
    table[torch.rand(table.shape, generator=generator) < unknown] = -1
    return logits, labels, table


def full_table(batch: int, classes: int) -> torch.Tensor:
    """Value c + 1 is class c, and everything is known."""
    table = torch.zeros(batch, classes + 1, classes, dtype=torch.int8)
    for c in range(classes):
        table[:, c + 1, c] = 1
    return table


def full_batch(seed: int, classes: int = 3, shape: tuple[int, ...] = (8, 8, 8)) -> tuple[Batch, torch.Tensor]:
    """Two cases of which everything is known, and their one-hot targets."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, *shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes + 1, (2, 1, *shape), generator=generator)
    onehot = torch.cat([(labels == c + 1).double() for c in range(classes)], 1)
    return (logits, labels, full_table(2, classes)), onehot


def known_voxels(
    labels: torch.Tensor, table: torch.Tensor, case: int, c: int
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Places in the logits where a class is known, and whether it is present there."""
    for index in np.ndindex(*labels.shape[2:]):
        value = int(labels[(case, 0, *index)])
        if value >= 0 and int(table[case, value, c]) >= 0:
            yield (case, c, *index), float(table[case, value, c])


def loss_and_gradient(
    loss: torch.nn.Module, logits: torch.Tensor, labels: torch.Tensor, table: torch.Tensor
) -> tuple[float, np.ndarray]:
    leaf = logits.detach().clone().requires_grad_()
    value = loss(leaf, labels, table)
    value.backward()
    return value.item(), leaf.grad.double().numpy()


def unequal_batches() -> list[Batch]:
    """Cases of which a rank of two gets every other.

    Much is known to one rank and little, or nothing, to the other; and of three cases one rank gets two.
    """
    little, nothing = (random_batch(seed, batch=4, shape=(4, 3, 3)) for seed in (21, 22))
    little[2][0::2, :, 1:] = -1
    nothing[2][1::2] = -1
    odd, odd_nothing, odd_rest_nothing = (random_batch(seed, batch=3, shape=(4, 3, 3)) for seed in (23, 24, 25))
    odd_nothing[2][1::2] = -1
    odd_rest_nothing[2][0::2] = -1
    return [little, nothing, odd, odd_nothing, odd_rest_nothing]


def assert_two_ranks_equal_one(loss: torch.nn.Module, folder: Path, wrapped: bool = False) -> None:
    """Loss and averaged gradient of a convolution on two ranks must be those of one rank with all cases.

    Args:
        loss: Called as `loss(logits, labels, table)`.
        folder: An empty folder.
        wrapped: DistributedDataParallel averages the gradients, and not this module; takes seconds to import.
    """
    mp.spawn(_rank, args=(2, str(folder), loss, wrapped), nprocs=2)
    found = [torch.load(folder / f"{rank}.pt") for rank in range(2)]
    for number, (image, labels, table) in enumerate(unequal_batches()):
        network = _network()
        expected = loss(network(image[:, :1]), labels, table)
        expected.backward()
        gradients = [p.grad for p in network.parameters()]
        assert any((g != 0).any() for g in gradients)
        for rank in range(2):
            value, averaged = found[rank][number]
            assert value.item() == pytest.approx(expected.item(), abs=1e-9)
            for ours, theirs in zip(averaged, gradients, strict=True):
                np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-12, rtol=1e-9)


def _network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Conv3d(1, 4, 3, padding=1).double()


def _rank(rank: int, world: int, folder: str, loss: torch.nn.Module, wrapped: bool) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    results = []
    for image, labels, table in unequal_batches():
        network = _network()
        parallel = torch.nn.parallel.DistributedDataParallel(network) if wrapped else network
        mine = slice(rank, None, world)
        value = loss(parallel(image[mine, :1]), labels[mine], table[mine])
        value.backward()
        gradients = [p.grad for p in network.parameters()]
        if not wrapped:
            for gradient in gradients:
                dist.all_reduce(gradient)
                gradient.div_(world)
        results.append((value.detach(), gradients))
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
