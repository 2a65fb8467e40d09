"""nnUNetv2_partial_demo: the whole way on built-in phantoms, in minutes, on a CPU."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunet_partial.cli.command import add_version, run_command

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_partial_demo",
        description="Makes partly labelled phantom CT datasets, merges them, trains a small network with the stock "
        "nnU-Net commands, predicts held-out phantoms and scores them. Takes some minutes on two CPU cores.",
    )
    parser.add_argument("-o", type=Path, default=Path("demo"), help="work folder (default: %(default)s)")
    parser.add_argument("-device", choices=("cpu", "cuda"), default="cpu", help="where to train (default: %(default)s)")
    parser.add_argument("-np", type=int, default=None, help="worker processes (default: up to 4)")
    parser.add_argument("--epochs", type=int, default=None, help="epochs of 50 iterations (default: 9)")
    add_version(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = build_parser().parse_args(argv)

    def run() -> int:
        from dataclasses import replace

        from nnunet_partial.demo.phantom_demo import DEMO_SIZE, run_phantom_demo

        size = replace(DEMO_SIZE, epochs=arguments.epochs) if arguments.epochs else DEMO_SIZE
        run_phantom_demo(arguments.o, device=arguments.device, size=size, processes=arguments.np)
        return 0

    return run_command(run)
