"""`nnUNetv2_partial_predict`: predictions of any nnU-Net v2 model, fast and in little memory."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_partial.cli.command import add_version, ended_in_order, output_console, run_command
from nnunet_partial.cli.model_arguments import (
    add_image_modality,
    add_model,
    add_prediction,
    check_model,
    given_modalities,
    model_folder,
    prediction_options,
)

if TYPE_CHECKING:
    from nnunet_partial.inference.label_values import LabelValues
    from nnunet_partial.inference.model.plan import PredictionPlan

__all__ = ["build_parser", "main"]

_OUTPUTS = ("labels", "classes", "seg.nrrd")
_BACKENDS = ("auto", "torch", "openvino", "onnx")


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
    add_image_modality(parser)
    prediction = add_prediction(parser)
    prediction.add_argument(
        "--backend", choices=_BACKENDS, default="auto", help="what runs the network (default: auto)"
    )
    prediction.add_argument("--compile", action="store_true", help="compile the network (PyTorch)")
    _add_output(parser)
    _add_without_meaning(parser)
    add_version(parser)
    return parser


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
        "--label_values",
        type=Path,
        metavar="FILE",
        help="write these numbers: a JSON object from class names to 1..65535. Classes may share a number; those not "
        "named are not written; of the classes at one voxel the one named last is (default: the model's own values, or "
        "what nnUNetv2_partial_export was given)",
    )
    output.add_argument(
        "--compete",
        action=argparse.BooleanOptionalAction,
        help="of classes that exclude each other write the most probable one; of sigmoid heads nnU-Net writes the last "
        "one above one half (default: as nnU-Net, or as nnUNetv2_partial_export was told)",
    )
    output.add_argument(
        "--save_probabilities",
        action="store_true",
        help="also write the probability of each class, 0 to 255, to CASE_probabilities/CLASS.ending",
    )
    output.add_argument(
        "--continue_prediction",
        action="store_true",
        help="skip cases whose output exists; refused where prediction.json tells of another model or other settings. "
        "Without it, a process makes every output anew that was there when the process started, another process's too: "
        "of processes that predict one folder, give it to those that may start later",
    )
    output.add_argument("-num_parts", type=int, default=1, metavar="N", help="deal the cases out to N jobs")
    output.add_argument("-part_id", type=int, default=0, metavar="K", help="which of them this is, from 0")


def _add_without_meaning(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "flags of nnUNetv2_predict",
        "accepted, so that its command lines need another name only; without effect, but for the last one",
    )
    group.add_argument("--disable_progress_bar", action="store_true", help="there is none: a line a case is printed")
    group.add_argument("--verbose", action="store_true", help="there is no more to tell")
    group.add_argument("--not_on_device", action="store_true", help="the logits of a whole image never are")
    for flag, work in (("-npp", "reads and preprocesses"), ("-nps", "writes")):
        group.add_argument(flag, type=int, metavar="N", help=f"has no meaning here: no other process {work}")
    group.add_argument("-prev_stage_predictions", metavar="FOLDER", help="refused: cascades cannot be predicted")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status.

    Raises:
        SystemExit: The arguments make no sense (2), or the process was told to end by SIGTERM (143).
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    check_model(parser, arguments)
    if arguments.prev_stage_predictions is not None:
        parser.error("-prev_stage_predictions: cascades cannot be predicted here; use nnUNetv2_predict for this model")
    for flag in ("protocol", "label_values", "compete"):
        if getattr(arguments, flag) and arguments.output != "labels":
            parser.error(f"--{flag} gives label maps; leave out --output")
    if arguments.label_values is not None and arguments.protocol is not None:
        parser.error("--protocol and --label_values both say what is written; give one of them")
    with ended_in_order():
        return run_command(lambda: _run(arguments, sys.argv[1:] if argv is None else list(argv)))


def _run(arguments: argparse.Namespace, command: list[str]) -> int:
    from nnunet_partial import __version__
    from nnunet_partial.inference.folder_prediction import Job, predict_folder
    from nnunet_partial.inference.model.rivals import with_competition
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
            backend=arguments.backend,
            compiled=arguments.compile,
            protocol=arguments.protocol,
            label_values=values,
            compete=arguments.compete,
            **prediction_options(arguments),
        )

    plan = with_competition(plan_of(model, arguments.f, arguments.chk, arguments.trust_checkpoint), arguments.compete)
    values = _label_values(arguments, plan)
    if values is not None:
        job = replace(job, dataset_json=values.described(plan.dataset_json, plan.decoding))
    record: dict[str, object] = {
        "command": shlex.join(["nnUNetv2_partial_predict", *command]),
        "nnunet_partial": __version__,
        "settings": _settings(arguments, model, plan, values),
    }
    predicted = predict_folder(job, plan, load, output_console(), record)
    output_console().print(f"{len(predicted)} cases predicted", highlight=False)
    return 0


def _label_values(arguments: argparse.Namespace, plan: PredictionPlan) -> LabelValues | None:
    """What label maps are to have; None where it is the values of the model or of a protocol."""
    from nnunet_partial.inference.label_view import plan_label_values

    if arguments.label_values is None:
        return plan_label_values(plan) if arguments.protocol is None else None
    from nnunet_partial.inference.label_values import LabelValues

    return LabelValues.read(arguments.label_values)


def _settings(
    arguments: argparse.Namespace, model: Path, plan: PredictionPlan, values: LabelValues | None
) -> dict[str, object]:
    """What predictions of one folder have in common: not how they are computed, but what comes out."""
    chosen = ("f", "chk", "mode", "step_size", "disable_tta", "precision", "protocol", "modality")
    return {
        "model": str(model.resolve()),
        **{name: getattr(arguments, name) for name in chosen},
        "compete": plan.decoding.rivals is not None,
        # pairs, because their order counts and that of objects does not
        "label_values": None if values is None else [list(pair) for pair in values.numbers.items()],
    }
