"""Flags that name a trained model and the modality of images for it, alike in all commands that use them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "add_checkpoint",
    "add_image_modality",
    "add_modality",
    "add_model",
    "add_prediction",
    "check_model",
    "given_modalities",
    "model_folder",
    "prediction_options",
]

_MODES = {
    "exact": "nnU-Net's windows, mirroring and resampling",
    "fast": "fewer windows, no mirroring, bfloat16 where the processor has it",
    "paper": "as fast, with labels decided before they are resampled",
}
_PRECISIONS = ("fp32", "bf16", "fp16")


def add_model(parser: argparse.ArgumentParser, of_folder: str = "the model folder") -> None:
    """Adds nnU-Net's -d, -c, -tr, -p, -f and -chk, and -m for the folder itself.

    Args:
        parser: Gets a group of its own for them.
        of_folder: What -m may name.
    """
    model = parser.add_argument_group("model")
    model.add_argument("-d", metavar="ID", help="number or name of the dataset the model was trained on")
    model.add_argument("-c", metavar="CONFIGURATION", help="nnU-Net's configuration, e.g. 3d_fullres")
    model.add_argument("-tr", default="nnUNetTrainer", metavar="TRAINER", help="trainer (default: %(default)s)")
    model.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="plans (default: %(default)s)")
    model.add_argument("-m", type=Path, metavar="FOLDER", help=f"{of_folder}, instead of -d, -c, -tr and -p")
    model.add_argument(
        "-f", nargs="+", metavar="FOLD", help="folds to average over, or 'all' (default: all numbered ones)"
    )
    add_checkpoint(model)


def add_checkpoint(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds -chk and --trust_checkpoint."""
    parser.add_argument(
        "-chk", default="checkpoint_final.pth", metavar="FILE", help="checkpoint (default: %(default)s)"
    )
    parser.add_argument(
        "--trust_checkpoint",
        "--trust-checkpoint",
        action="store_true",
        help="load checkpoints that hold more than weights and plain values; these can run anything",
    )


def check_model(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Ends the command where the flags name no model, or two."""
    if arguments.m is None and (arguments.d is None or arguments.c is None):
        parser.error("-d and -c are needed (or -m)")
    if arguments.m is not None and (arguments.d is not None or arguments.c is not None):
        parser.error("-m is the model folder itself; leave out -d and -c")


def model_folder(arguments: argparse.Namespace) -> Path:
    """The folder that the flags name.

    Raises:
        PartialError: There is no such model.
    """
    from nnunet_partial.inference.model.model_folder import find_model_folder

    named: Path | None = arguments.m
    return named or find_model_folder(arguments.d, arguments.c, arguments.tr, arguments.p)


def add_modality(parser: argparse.ArgumentParser | argparse._ArgumentGroup, *, required: bool, more: str = "") -> None:
    """Adds --modality and --modalities, of which one may be given.

    Args:
        parser: The command, or a group of its flags.
        required: One must be given.
        more: What else --modality may be, for its help.
    """
    modality = parser.add_mutually_exclusive_group(required=required)
    modality.add_argument("--modality", metavar="NAME", help=f"modality of all images, as in the merge file{more}")
    modality.add_argument(
        "--modalities", type=Path, metavar="FILE", help="CSV file with the columns 'case' and 'modality'"
    )


def add_image_modality(parser: argparse.ArgumentParser) -> None:
    """Adds the same to a command that predicts images, in a group of its own."""
    add_modality(
        parser.add_argument_group("modality", "for models of CT and MR together, whose images are normalised by it"),
        required=False,
        more="; 'normalised' for images of nnUNetv2_partial_normalize",
    )


def given_modalities(arguments: argparse.Namespace) -> str | dict[str, str] | None:
    """What --modality or --modalities say: the modality of all images, or case to modality; None without them.

    Raises:
        LabelError: The CSV file cannot be read, or lacks a column, or says two things of a case.
    """
    if arguments.modalities is None:
        name: str | None = arguments.modality
        return name
    from nnunet_partial.labels.merge_file import read_csv_mapping

    return read_csv_mapping(arguments.modalities, "case", "modality")


def add_prediction(parser: argparse.ArgumentParser, modes: Sequence[str] = tuple(_MODES)) -> argparse._ArgumentGroup:
    """Adds how a network is run: --mode, -step_size, --disable_tta, -device, --precision, --threads and --batch_size.

    Args:
        parser: Gets a group of its own for them.
        modes: What --mode may be.

    Returns:
        The group, for more of that kind.
    """
    group = parser.add_argument_group("prediction")
    described = "; ".join(f"{mode}: {_MODES[mode]}" for mode in modes)
    group.add_argument("--mode", choices=modes, default=modes[0], help=f"{described} (default: %(default)s)")
    group.add_argument(
        "-step_size", type=float, metavar="PART", help="distance of windows (default: 0.5 of a window; 0.8 if fast)"
    )
    group.add_argument("--disable_tta", action="store_true", help="no mirroring at test time")
    group.add_argument(
        "-device", default="auto", metavar="DEVICE", help="cpu, cuda, cuda:N or mps (default: a GPU if there is one)"
    )
    group.add_argument(
        "--precision", choices=_PRECISIONS, help="of the network (default: fp32; on a GPU fp16, as nnU-Net)"
    )
    group.add_argument("--threads", type=int, metavar="N", help="threads on the CPU (default: all)")
    group.add_argument("--batch_size", type=int, default=1, metavar="N", help="windows at once (default: %(default)s)")
    return group


def prediction_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What these flags and those of the checkpoint say, as keyword arguments of `open_predictor`."""
    return {
        "checkpoint": arguments.chk,
        "mode": arguments.mode,
        "device": arguments.device,
        "precision": arguments.precision,
        "step": arguments.step_size,
        "mirroring": False if arguments.disable_tta else None,
        "batch_size": arguments.batch_size,
        "threads": arguments.threads,
        "trust_checkpoint": arguments.trust_checkpoint,
    }
