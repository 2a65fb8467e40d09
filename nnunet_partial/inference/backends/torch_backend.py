"""The network in PyTorch, on a CPU or a GPU."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.backends.backend import Precision
from nnunet_partial.inference.model.network import build_network, load_weights
from nnunet_partial.inference.model.plan import PredictionPlan

__all__ = ["TorchBackend"]

_REDUCED = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TorchBackend:
    """The network of a plan in PyTorch. Its arrays are float32 tensors on `device`.

    Every fold has a module of its own, because exchanging weights for each batch of windows would copy all of them
    time and again: a nnU-Net of 30 million weights takes 120 MB a fold.

    Attributes:
        outputs: See `Backend`.
        description: See `Backend`.
        adds_beside: See `Backend`; PyTorch's own threads, or a GPU, add up fast enough.
        device: Where the tensors are.

    Args:
        networks: One a fold, in evaluation mode on `device`, without deep supervision.
        plan: Of the model.
        device: 'cpu', 'cuda', 'cuda:N' or 'mps'.
        precision: 'fp32', or what autocast computes convolutions in: 'bf16', or 'fp16' on a GPU as nnU-Net does.
        channels_last: Whether the networks keep the channels of a voxel together in memory.

    Raises:
        PartialError: The device does not exist, or cannot compute at that precision.
    """

    adds_beside = False

    def __init__(
        self,
        networks: Sequence[nn.Module],
        plan: PredictionPlan,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        channels_last: bool = False,
    ) -> None:
        self.outputs = len(plan.decoding.values)
        self.device = _device(device, precision)
        self._networks = list(networks)
        self._dtype = _REDUCED.get(precision)
        self._layout = _layout(plan, channels_last)
        self.description = f"PyTorch {torch.__version__}, {self._place()}, {precision}"

    @classmethod
    def load(
        cls,
        plan: PredictionPlan,
        weights: Sequence[Mapping[str, Tensor]],
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        threads: int | None = None,
        compiled: bool = False,
        channels_last: bool = True,
        sources: Sequence[str] | None = None,
    ) -> TorchBackend:
        """Builds the networks of a plan.

        Args:
            plan: Of the model.
            weights: One a fold.
            device: See the class.
            precision: See the class.
            threads: Threads that PyTorch uses on the CPU, in the whole process; as it is by default.
            compiled: Compile the network (`torch.compile`), which takes up to minutes at first use.
            channels_last: Keep the channels of a voxel together in memory, which is faster on most devices.
            sources: Where each fold's weights are from, for messages.

        Raises:
            PartialError: As the class, or weights do not fit the plan.
        """
        if not weights:
            raise PartialError("weights: expected those of one fold or more, found none")
        place = _device(device, precision)
        if threads is not None:
            torch.set_num_threads(threads)
        if place.type == "cuda":
            torch.backends.cudnn.benchmark = True  # all windows have one size, so trying algorithms pays
        names = sources or [f"weights {index}" for index in range(len(weights))]
        network = build_network(plan)
        networks: list[nn.Module] = []
        for index, (fold, name) in enumerate(zip(weights, names, strict=True)):
            module = network if index == len(weights) - 1 else copy.deepcopy(network)
            load_weights(module, fold, plan, name)
            module = module.to(place).to(memory_format=_layout(plan, channels_last)).requires_grad_(False)
            networks.append(torch.compile(module) if compiled else module)  # type: ignore[arg-type]
        backend = cls(networks, plan, device=device, precision=precision, channels_last=channels_last)
        if compiled:
            backend.description = backend.description.replace(",", " compiled,", 1)
        return backend

    def predict(self, patches: Tensor) -> Tensor:
        """See `Backend`."""
        # not inference_mode, whose tensors the caller could not add to
        with torch.no_grad(), self._autocast():
            laid_out = patches.to(self.device, memory_format=self._layout)
            total: Tensor | None = None
            for network in self._networks:
                logits = network(laid_out).float()
                total = logits if total is None else total.add_(logits)
            assert total is not None
            return total if len(self._networks) == 1 else total.div_(len(self._networks))

    def zeros(self, shape: Sequence[int]) -> Tensor:
        """See `Backend`."""
        return torch.zeros(tuple(shape), device=self.device)

    def flip(self, array: Tensor, axes: Sequence[int]) -> Tensor:
        """See `Backend`; a copy."""
        return array.flip(tuple(axes))

    def to_backend(self, array: npt.NDArray[np.float32]) -> Tensor:
        """See `Backend`."""
        # tensors have neither negative strides nor memory that must not be written
        return torch.from_numpy(np.require(array, np.float32, ("C", "W"))).to(self.device)

    def to_numpy(self, array: Tensor) -> npt.NDArray[np.float32]:
        """See `Backend`."""
        found: npt.NDArray[np.float32] = array.float().cpu().numpy()
        return found

    def _autocast(self) -> AbstractContextManager[object]:
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self._dtype)

    def _place(self) -> str:
        if self.device.type == "cuda":
            return str(torch.cuda.get_device_name(self.device))
        if self.device.type == "cpu":
            return f"CPU, {torch.get_num_threads()} threads"
        return str(self.device)


def _layout(plan: PredictionPlan, channels_last: bool) -> torch.memory_format:
    if not channels_last:
        return torch.contiguous_format
    return torch.channels_last_3d if len(plan.patch_size) == 3 else torch.channels_last


def _device(name: str, precision: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise PartialError(f"device: expected cpu, cuda, cuda:N or mps, found '{name}'") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise PartialError(f"device '{name}': PyTorch {torch.__version__} finds no CUDA device; use -device cpu")
        if (device.index or 0) >= count:
            raise PartialError(f"device '{name}': there are {count} CUDA devices, counted from 0")
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise PartialError(f"device '{name}': PyTorch {torch.__version__} finds none; use -device cpu")
    elif device.type != "cpu":
        raise PartialError(f"device: expected cpu, cuda, cuda:N or mps, found '{name}'")
    known = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16"), "mps": ("fp32", "fp16")}[device.type]
    if precision not in known:
        raise PartialError(f"precision: expected one of {list(known)} on {device.type}, found '{precision}'")
    return device
