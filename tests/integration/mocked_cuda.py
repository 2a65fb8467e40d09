"""`nnUNetv2_train -num_gpus 2` on a machine without GPUs: CUDA and NCCL are replaced, everything else is real."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

_spawn = mp.spawn


def run_rank(rank: int, folder: Path, trainings: Sequence[tuple[Any, ...]]) -> None:
    """One rank of nnU-Net's `run_ddp`, one training after the other, on the CPU with gloo.

    Args:
        rank: The rank.
        folder: An empty folder in which the ranks meet.
        trainings: Arguments of `run_ddp`.
    """
    from nnunetv2.run import run_training
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module

    from nnunet_partial.training import PartialTrainer, final_validation

    torch.set_num_threads(1)
    make = PartialTrainer.__init__

    def on_cpu(self: PartialTrainer, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        self.device, self.grad_scaler = torch.device("cpu"), None

    meetings = iter(range(len(trainings)))

    def meet(number: int, world: int) -> None:
        dist.init_process_group("gloo", f"file://{folder}/{next(meetings)}", rank=number, world_size=world)

    on_cpu.__signature__ = __import__("inspect").signature(make)  # type: ignore[attr-defined]
    with (
        mock.patch.object(run_training, "setup_ddp", meet),
        mock.patch.object(torch.cuda, "set_device", lambda device: None),
        mock.patch.object(trainer_module, "DDP", lambda network, device_ids: DistributedDataParallel(network)),
        mock.patch.object(trainer_module, "GradScaler", lambda *args: None),
        mock.patch.object(PartialTrainer, "__init__", on_cpu),
        mock.patch.object(final_validation, "_CASES_BETWEEN_BARRIERS", 1),
        mock.patch.object(final_validation.dist, "barrier", wraps=dist.barrier) as barrier,
    ):
        for number, arguments in enumerate(trainings):
            barrier.reset_mock()
            run_training.run_ddp(rank, *arguments)
            (folder / f"barriers_{number}_{rank}").write_text(str(barrier.call_count))


def train_on_two(dataset: str, trainers: Sequence[str], plans: str, folder: Path) -> None:
    """Runs nnU-Net's own `run_training` with num_gpus=2, for all trainers in the same two processes."""
    from nnunetv2.run import run_training

    trainings = []

    def spawn(function: Any, args: tuple[Any, ...], nprocs: int, join: bool) -> None:
        assert function is run_training.run_ddp
        assert (nprocs, join) == (2, True)
        trainings.append(args)

    with mock.patch.object(run_training.mp, "spawn", spawn):
        for name in trainers:
            run_training.run_training(dataset, "3d_fullres", 0, name, plans, num_gpus=2, device=torch.device("cuda"))
    _spawn(run_rank, args=(folder, trainings), nprocs=2, join=True)
