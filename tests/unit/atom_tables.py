"""What the tests of losses over atoms share: random label sets, voxels one by one, and a run on two ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Place = tuple[int, ...]
SHAPES = [(5, 4, 3), (6, 7), (1, 1, 1)]


def random_batch(seed: int, batch: int = 2, atoms: int = 5, shape: tuple[int, ...] = (5, 4, 3)) -> Batch:
    """Logits, labels (some -1) and label sets: arbitrary ones for even seeds, nested and disjoint ones for odd seeds.

    Only some values occur in a case, and fewer in the first half of its planes, so that some regions tell much.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, atoms, *shape, generator=generator, dtype=torch.float64) * 3
    possible = torch.rand(batch, 8, atoms, generator=generator) < 0.5
    possible[:, 7] = True
    if seed % 2:
        structures = torch.eye(atoms, dtype=torch.bool)[1:]
        possible[:, :3] = structures[:3]
        possible[:, 3] = ~structures[:3].any(0)
        possible[:, 4] = ~structures[0]
        possible[:, 5] = structures[1:3].any(0)
    possible[..., 0] |= ~possible.any(-1)
    labels = torch.full((batch, 1, *shape), -1)
    for case in range(batch):
        occurring = torch.randperm(8, generator=generator)[: 2 + (seed + case) % 4]
        drawn = torch.randint(-1, len(occurring), shape, generator=generator)
        drawn[: shape[0] // 2].clamp_(max=1)
        labels[case, 0] = torch.cat([torch.tensor([-1]), occurring])[drawn + 1]
    return logits, labels, possible


def full_batch(seed: int, atoms: int = 4, shape: tuple[int, ...] = (6, 5, 4)) -> tuple[Batch, torch.Tensor]:
    """Two cases whose values are the atoms, and their one-hot labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, atoms, *shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, atoms, (2, 1, *shape), generator=generator)
    onehot = torch.cat([(labels == a).double() for a in range(atoms)], 1)
    return (logits, labels, torch.eye(atoms, dtype=torch.bool).repeat(2, 1, 1)), onehot


def protocol(atoms: int, *sets: tuple[int, ...]) -> torch.Tensor:
    """The table of one case: the possible atoms of value 0, 1, ..."""
    table = torch.zeros(1, len(sets), atoms, dtype=torch.bool)
    for value, members in enumerate(sets):
        table[0, value, list(members)] = True
    return table


def twice(logits: torch.Tensor, labels: torch.Tensor, possible: torch.Tensor) -> Batch:
    """The batch side by side with itself, where the second half has atoms and label values of its own.

    No atom has any probability in the half that is not its own, and no label says that it could be one of the other.
    """
    nowhere, rest = torch.full_like(logits, -1e4), torch.zeros_like(possible)
    halves = torch.cat([logits, nowhere], 1), torch.cat([nowhere, logits], 1)
    values = torch.cat([labels, torch.where(labels < 0, labels, labels + possible.shape[1])], -1)
    tables = torch.cat([possible, rest], 2), torch.cat([rest, possible], 2)
    return torch.cat(halves, -1), values, torch.cat(tables, 1)


def label_set(labels: torch.Tensor, possible: torch.Tensor, case: int, place: Place) -> frozenset[int]:
    """The atoms that a voxel could be."""
    value, atoms = int(labels[(case, 0, *place)]), possible.shape[2]
    return frozenset(a for a in range(atoms) if value < 0 or bool(possible[case, value, a]))


def everything(possible: torch.Tensor) -> frozenset[int]:
    return frozenset(range(possible.shape[2]))


def regions_of(shape: tuple[int, ...], slice_axis: int | None) -> list[list[Place]]:
    """Places region by region."""
    places = list(np.ndindex(*shape))
    if slice_axis is None:
        return [places]
    return [[place for place in places if place[slice_axis] == at] for at in range(shape[slice_axis])]


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    return logits.exp() / logits.exp().sum(1, keepdim=True)


def rolled_within_label_sets(p: torch.Tensor, labels: torch.Tensor, possible: torch.Tensor) -> torch.Tensor:
    """Probabilities that moved on to the next possible atom of their voxel."""
    p = p.clone()
    for case in range(len(p)):
        for place in np.ndindex(*p.shape[2:]):
            members = sorted(label_set(labels, possible, case, place))
            p[(case, members, *place)] = p[(case, members, *place)].roll(1)
    return p


def loss_and_gradient(
    loss: Callable[..., torch.Tensor], logits: torch.Tensor, labels: torch.Tensor, possible: torch.Tensor
) -> tuple[float, np.ndarray]:
    leaf = logits.detach().clone().requires_grad_()
    value = loss(leaf, labels, possible)
    value.backward()
    return value.item(), leaf.grad.double().numpy()


def assert_equals(loss: Callable[..., torch.Tensor], reference: Callable[..., torch.Tensor], batch: Batch) -> None:
    """The loss and its gradient must be those of a reference that autograd differentiates."""
    value, gradient = loss_and_gradient(loss, *batch)
    # the sum keeps the graph whole where nothing is known
    expected_value, expected_gradient = loss_and_gradient(lambda x, *rest: reference(x, *rest) + 0 * x.sum(), *batch)
    np.testing.assert_allclose(value, expected_value, rtol=0, atol=1e-9)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


def on_two_ranks(losses: list[torch.nn.Module], batch: Batch, folder: Path) -> list[list[tuple[torch.Tensor, ...]]]:
    """Each rank's loss and averaged gradients of a convolution, where a rank gets every other case."""
    mp.spawn(_rank, args=(2, str(folder), losses, batch), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def network_gradient(loss: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, ...]:
    """The loss of a seeded convolution, and the gradients of its parameters."""
    logits, labels, possible = batch
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, logits.shape[1], 3, padding=1).double()
    value = loss(network(logits[:, :1]), labels, possible)
    value.backward()
    return value.detach(), *(p.grad for p in network.parameters())


def _rank(rank: int, world: int, folder: str, losses: list[torch.nn.Module], batch: Batch) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    mine = tuple(tensor[rank::world] for tensor in batch)
    results = []
    for loss in losses:
        value, *gradients = network_gradient(loss, mine)
        for gradient in gradients:
            dist.all_reduce(gradient)
            gradient.div_(world)
        results.append((value, *gradients))
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
