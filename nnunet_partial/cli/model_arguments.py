"""Flags that name a trained model, alike in all commands that use one."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_model", "check_model", "model_folder"]


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
