"""`nnUNetv2_partial_predict`: predictions of any nnU-Net v2 model, fast and in little memory."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from nnunet_partial.cli.command import add_version, output_console, run_command
from nnunet_partial.cli.model_arguments import add_modality, add_model, check_model, given_modalities, model_folder

__all__ = ["build_parser", "main"]

_MODES = ("exact", "fast", "paper")
_OUTPUTS = ("labels", "classes", "seg.nrrd")
_BACKENDS = ("auto", "torch", "openvino", "onnx")
_PRECISIONS = ("fp32", "bf16", "fp16")


def build_parser() -> argparse.ArgumentParser:
    """The command line of `nnUNetv2_partial_predict`."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_partial_predict",
        description="Predicts images with any trained nnU-Net v2 model: as nnUNetv2_predict does, in less time and "
        "memory. Several processes may predict one folder; each case goes to one of them.",
    )
    parser.add_argument(
        "-i", type=Path, required=True, metavar="IMAGES", help="images CASE_0000.ending, or DICOM folders"
    )
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="where predictions go")
    add_model(parser, "the model folder, or what nnUNetv2_partial_export wrote")
    add_modality(
        parser.add_argument_group("modality", "for models of CT and MR together, whose images are normalised by it"),
        required=False,
        more="; 'normalised' for images of nnUNetv2_partial_normalize",
    )
    _add_prediction(parser)
    _add_output(parser)
    add_version(parser)
    return parser


def _add_prediction(parser: argparse.ArgumentParser) -> None:
    prediction = parser.add_argument_group("prediction")
    prediction.add_argument(
        "--mode",
        choices=_MODES,
        default="exact",
        help="exact: nnU-Net's windows, mirroring and resampling; fast: fewer windows, no mirroring, bfloat16 where the"
        " processor has it; paper: as fast, with labels decided before they are resampled (default: %(default)s)",
    )
    prediction.add_argument(
        "-step_size", type=float, metavar="PART", help="distance of windows (default: 0.5 of a window; 0.8 if fast)"
    )
    prediction.add_argument("--disable_tta", action="store_true", help="no mirroring at test time")
    prediction.add_argument(
        "-device", default="auto", metavar="DEVICE", help="cpu, cuda, cuda:N or mps (default: a GPU if there is one)"
    )
    prediction.add_argument(
        "--backend", choices=_BACKENDS, default="auto", help="what runs the network (default: auto)"
    )
    prediction.add_argument(
        "--precision", choices=_PRECISIONS, help="of the network (default: fp32; on a GPU fp16, as nnU-Net)"
    )
    prediction.add_argument("--threads", type=int, metavar="N", help="threads on the CPU (default: all)")
    prediction.add_argument(
        "--batch_size", type=int, default=1, metavar="N", help="windows at once (default: %(default)s)"
    )
    prediction.add_argument("--compile", action="store_true", help="compile the network (PyTorch)")


def _add_output(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        choices=_OUTPUTS,
        default="labels",
        help="labels: one label map a case; classes: a folder a case with one mask a class, which may overlap; "
        "seg.nrrd: for 3D Slicer (default: %(default)s)",
    )
    output.add_argument(
        "--protocol",
        metavar="NAME",
        help="write labels as the annotators of this source or annotation set would have drawn them; their values are "
        "those of the merged dataset (models of merged datasets only)",
    )
    output.add_argument(
        "--save_probabilities",
        action="store_true",
        help="also write the probability of each class, 0 to 255, to CASE_probabilities/CLASS.ending",
    )
    output.add_argument("--continue_prediction", action="store_true", help="skip cases whose output exists")
    output.add_argument("-num_parts", type=int, default=1, metavar="N", help="deal the cases out to N jobs")
    output.add_argument("-part_id", type=int, default=0, metavar="K", help="which of them this is, from 0")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status.

    Raises:
        SystemExit: The arguments make no sense (2), or the process was told to end by SIGTERM (143).
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    check_model(parser, arguments)
    if arguments.protocol is not None and arguments.output != "labels":
        parser.error("--protocol gives label maps; leave out --output")
    with _ended_in_order():
        return run_command(lambda: _run(arguments, sys.argv[1:] if argv is None else list(argv)))


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Makes SIGTERM, which schedulers send at a job's time limit, leave no unfinished files and no claims behind.

    Raises:
        SystemExit: With the status that a shell reports for that signal, 143.
    """

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not interrupt the tidying
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # Python allows handlers there only
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        # None: a handler that was not set by Python, and cannot be set by it either
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _run(arguments: argparse.Namespace, command: list[str]) -> int:
    from nnunet_partial import __version__
    from nnunet_partial.inference.folder_prediction import Job, predict_folder
    from nnunet_partial.inference.predictor import Predictor, open_predictor, plan_of

    model = model_folder(arguments)
    job = Job(
        arguments.i,
        arguments.o,
        arguments.output,
        arguments.save_probabilities,
        arguments.num_parts,
        arguments.part_id,
        arguments.continue_prediction,
        given_modalities(arguments),
    )
    job.check()

    def load() -> Predictor:
        return open_predictor(
            model,
            folds=arguments.f,
            checkpoint=arguments.chk,
            mode=arguments.mode,
            device=arguments.device,
            backend=arguments.backend,
            precision=arguments.precision,
            step=arguments.step_size,
            mirroring=False if arguments.disable_tta else None,
            batch_size=arguments.batch_size,
            threads=arguments.threads,
            compiled=arguments.compile,
            trust_checkpoint=arguments.trust_checkpoint,
            protocol=arguments.protocol,
        )

    plan = plan_of(model, arguments.f, arguments.chk, arguments.trust_checkpoint)
    record: dict[str, object] = {
        "command": shlex.join(["nnUNetv2_partial_predict", *command]),
        "model": str(model),
        "nnunet_partial": __version__,
    }
    predicted = predict_folder(job, plan, load, output_console(), record)
    output_console().print(f"{len(predicted)} cases predicted", highlight=False)
    return 0
