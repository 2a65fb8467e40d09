"""Flags that name a trained model and the modality of images for it, alike in all commands that use them."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_modality", "add_model", "check_model", "given_modalities", "model_folder"]


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
    model.add_argument("-chk", default="checkpoint_final.pth", metavar="FILE", help="checkpoint (default: %(default)s)")
    model.add_argument(
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
