"""`nnUNetv2_train -num_gpus 2` on a machine without GPUs: CUDA and NCCL are replaced, everything else is real."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

_spawn = mp.spawn


def run_rank(rank: int, arguments: tuple[Any, ...]) -> None:
    """One rank of nnU-Net's `run_ddp`, on the CPU with gloo."""
    from nnunetv2.run import run_training
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module

    from nnunet_partial.training import PartialTrainer

    torch.set_num_threads(1)
    make = PartialTrainer.__init__

    def on_cpu(self: PartialTrainer, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        self.device, self.grad_scaler = torch.device("cpu"), None

    on_cpu.__signature__ = __import__("inspect").signature(make)  # type: ignore[attr-defined]
    with (
        mock.patch.object(
            run_training, "setup_ddp", lambda r, w: dist.init_process_group("gloo", rank=r, world_size=w)
        ),
        mock.patch.object(torch.cuda, "set_device", lambda device: None),
        mock.patch.object(trainer_module, "DDP", lambda network, device_ids: DistributedDataParallel(network)),
        mock.patch.object(trainer_module, "GradScaler", lambda *args: None),
        mock.patch.object(PartialTrainer, "__init__", on_cpu),
    ):
        run_training.run_ddp(rank, *arguments)


def train_on_two(dataset: str, trainer: str, plans: str) -> None:
    """Runs nnU-Net's own `run_training` with num_gpus=2."""
    from nnunetv2.run import run_training

    def spawn(function: Any, args: tuple[Any, ...], nprocs: int, join: bool) -> None:
        assert function is run_training.run_ddp
        _spawn(run_rank, args=(args,), nprocs=nprocs, join=join)

    with mock.patch.object(run_training.mp, "spawn", spawn):
        run_training.run_training(dataset, "3d_fullres", 0, trainer, plans, num_gpus=2, device=torch.device("cuda"))
