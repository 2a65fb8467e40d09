"""Networks of PyTorch written in the formats of the other back ends."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.backends.onnx_statistics import sum_in_stages
from nnunet_partial.inference.model.network import build_network, load_weights
from nnunet_partial.inference.model.plan import PredictionPlan

__all__ = ["write_network"]


def write_network(
    kind: str, plan: PredictionPlan, weights: Mapping[str, Tensor], target: Path, source: str
) -> tuple[Path, ...]:
    """Writes a network that takes one window, (1, C, *patch), in fp32.

    The shape is fixed because that lets the runtimes plan ahead, and CPUs are fastest with one window at a time.

    Args:
        kind: 'openvino' or 'onnx'.
        plan: Of the model.
        weights: Of one fold.
        target: Path without its suffix.
        source: Where the weights are from, for messages.

    Returns:
        The files written; the first is the one to load.

    Raises:
        PartialError: A package is missing, or the network cannot be written in that format.
    """
    write = _WRITERS[kind]
    network = build_network(plan)
    load_weights(network, weights, plan, source)
    example = torch.zeros((1, len(plan.channel_names), *plan.patch_size))
    try:
        with torch.no_grad(), _quiet():
            return write(network, example, target)
    except ImportError as error:
        raise PartialError(
            f"format '{kind}': a package is missing ({error}); pip install 'nnunet-partial[{kind}]'"
        ) from error
    except PartialError:
        raise
    except Exception as error:  # converters fail with whatever the operator they stumble on raises
        reason = " ".join(str(error).split())[:500]
        raise PartialError(
            f"format '{kind}': {plan.architecture.class_name} cannot be written in it "
            f"({type(error).__name__}: {reason}); choose other --formats"
        ) from error


def _write_openvino(network: nn.Module, example: Tensor, target: Path) -> tuple[Path, ...]:
    import openvino

    # from traced modules: instance normalisation stays one operation, which `openvino_statistics` knows, and which is
    # faster where it is left as it is
    model = openvino.convert_model(network, example_input=example, input=[tuple(example.shape)])
    path = target.with_name(f"{target.name}.xml")
    openvino.save_model(model, path, compress_to_fp16=False)
    return path, path.with_suffix(".bin")


def _write_onnx(network: nn.Module, example: Tensor, target: Path) -> tuple[Path, ...]:
    import onnxscript  # noqa: F401  (PyTorch's exporter says less clearly that it is missing)

    sum_in_stages(network)
    path = target.with_name(f"{target.name}.onnx")
    program = torch.onnx.export(
        network, (example,), dynamo=True, input_names=["patches"], output_names=["logits"], verbose=False
    )
    if program is None:
        raise PartialError("format 'onnx': PyTorch's exporter returned nothing; choose other --formats")
    program.save(path, external_data=False)
    return (path,)


_WRITERS: dict[str, Callable[[nn.Module, Tensor, Path], tuple[Path, ...]]] = {
    "openvino": _write_openvino,
    "onnx": _write_onnx,
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the converters' warnings and progress, which are about their own code."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
