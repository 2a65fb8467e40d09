"""`nnUNetv2_partial_ensemble`: one model a class, the baseline of one model for all classes."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from nnunet_partial.cli.command import add_version, ended_in_order, output_console, run_command
from nnunet_partial.cli.model_arguments import (
    add_checkpoint,
    add_image_modality,
    add_prediction,
    given_modalities,
    prediction_options,
)

if TYPE_CHECKING:
    from nnunet_partial.ensemble import Ensemble

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """The command line of `nnUNetv2_partial_ensemble`."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_partial_ensemble",
        description="Trains one model for each class of a merged dataset with stock nnUNetv2_train, each on the cases "
        "that annotate its class, and combines what they predict into one label map.",
    )
    add_version(parser)
    steps = parser.add_subparsers(dest="step", required=True, metavar="train | predict")

    train = steps.add_parser(
        "train",
        help="train one model a class",
        description="Trains one model a class. Settings nnUNet_partial_* are passed on. Finished models are skipped, "
        "interrupted ones continued. Models go to $nnUNet_results/one_model_a_class/CLASS.",
    )
    _add_model(train)
    train.add_argument("-f", type=_fold, required=True, metavar="FOLD", help="fold, or 'all'")
    train.add_argument(
        "-device", choices=("cuda", "cpu", "mps"), default="cuda", help="where to compute (default: %(default)s)"
    )
    train.set_defaults(run=_train)

    predict = steps.add_parser(
        "predict",
        help="predict images and combine the classes",
        description="Predicts images with the model of every class and combines them: a class is given where its "
        "probability is above 0.5 and no class that excludes it has a higher one. An interrupted prediction goes on "
        "where it stopped. Several processes may predict one folder; each case goes to one of them.",
    )
    predict.add_argument(
        "-i", type=Path, required=True, metavar="IMAGES", help="images CASE_0000.ending, or DICOM folders"
    )
    predict.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="where label maps go")
    _add_model(predict)
    predict.add_argument("-f", type=_fold, nargs="+", required=True, metavar="FOLD", help="folds to average over")
    add_checkpoint(predict)
    add_image_modality(predict)
    add_prediction(predict, ("exact", "fast"))
    predict.add_argument(
        "--independent",
        action="store_true",
        help="also write what each model finds on its own, before classes compete, to OUTPUT/independent/CLASS",
    )
    predict.add_argument(
        "--save_probabilities",
        action="store_true",
        help="also write the probability of each class, 0 to 255, to CASE_probabilities/CLASS.ending",
    )
    predict.set_defaults(run=_predict)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status.

    Raises:
        SystemExit: The arguments make no sense (2), or the process was told to end by SIGTERM while it predicted (143).
    """
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = build_parser().parse_args(words)
    return run_command(lambda: int(arguments.run(arguments, words)))


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", required=True, metavar="ID", help="number or name of the merged dataset")
    parser.add_argument("-c", required=True, metavar="CONFIGURATION", help="nnU-Net's configuration, e.g. 3d_fullres")
    parser.add_argument(
        "-tr", default="PartialLabelTrainerImplicit", metavar="TRAINER", help="trainer (default: %(default)s)"
    )
    parser.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="plans (default: %(default)s)")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="these classes only")


def _fold(text: str) -> str:
    return text if text == "all" else str(int(text))


def _ensemble(arguments: argparse.Namespace) -> Ensemble:
    from nnunet_partial.ensemble import find_ensemble

    return find_ensemble(
        arguments.d,
        arguments.c,
        trainer=arguments.tr,
        plans=arguments.p,
        classes=arguments.classes,
    )


def _train(arguments: argparse.Namespace, _: list[str]) -> int:
    from nnunet_partial.ensemble import train_ensemble

    console = output_console()
    ensemble = _ensemble(arguments)
    train_ensemble(ensemble, arguments.f, arguments.device, console)
    console.print(Text(f"models: {ensemble.results}/CLASS/{ensemble.dataset}/{ensemble.model}"), soft_wrap=True)
    return 0


def _predict(arguments: argparse.Namespace, words: list[str]) -> int:
    from nnunet_partial.ensemble import predict_ensemble

    console = output_console()
    with ended_in_order():
        predicted = predict_ensemble(
            _ensemble(arguments),
            arguments.i,
            arguments.o,
            arguments.f,
            independent=arguments.independent,
            save_probabilities=arguments.save_probabilities,
            modalities=given_modalities(arguments),
            command=shlex.join(["nnUNetv2_partial_ensemble", *words]),
            console=console,
            **prediction_options(arguments),
        )
    evaluate = ["nnUNetv2_partial_evaluate", "-ref", "REFERENCES", "-pred"]
    chosen = ["--classes", *arguments.classes] if arguments.classes else []
    lines = [
        f"{len(predicted)} cases predicted",
        f"next: {shlex.join([*evaluate, str(arguments.o), *chosen])}",
    ]
    if arguments.independent:
        alone = [*evaluate, str(arguments.o / "independent" / "CLASS"), "--classes", "CLASS"]
        lines.append(f"      {shlex.join(alone)}")
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    return 0
