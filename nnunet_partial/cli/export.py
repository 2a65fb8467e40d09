"""`nnUNetv2_partial_export`: a trained model as a small folder for fast prediction."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from nnunet_partial.cli.command import add_version, output_console, run_command
from nnunet_partial.cli.model_arguments import add_model, check_model, model_folder

__all__ = ["build_parser", "main"]

_FORMATS = ("torch", "openvino", "onnx")


def build_parser() -> argparse.ArgumentParser:
    """The command line of `nnUNetv2_partial_export`."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_partial_export",
        description="Writes a trained model of nnU-Net as a small folder that nnUNetv2_partial_predict starts from "
        "faster: without nnU-Net, without pickles, and with OpenVINO or ONNX Runtime without PyTorch. Each format is "
        "loaded again and compared with PyTorch before the folder appears.",
    )
    add_model(parser)
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="folder to write")
    parser.add_argument(
        "--formats",
        nargs="+",
        choices=_FORMATS,
        default=["torch", "openvino"],
        metavar="FORMAT",
        help=f"some of {', '.join(_FORMATS)} (default: torch openvino)",
    )
    parser.add_argument(
        "--label_values",
        type=Path,
        metavar="FILE",
        help="numbers that label maps of the exported model have by default: the file of nnUNetv2_partial_predict "
        "--label_values",
    )
    parser.add_argument(
        "--compete",
        action="store_true",
        help="classes compete in label maps of the exported model by default: nnUNetv2_partial_predict --compete",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a model exported to that folder")
    add_version(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    check_model(parser, arguments)
    return run_command(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from nnunet_partial.inference.model.exported_model import export_model

    values = None
    if arguments.label_values is not None:
        from nnunet_partial.inference.label_values import LabelValues

        values = LabelValues.read(arguments.label_values)
    agreement = export_model(
        model_folder(arguments),
        arguments.o,
        arguments.f,
        arguments.chk,
        arguments.formats,
        trust_checkpoint=arguments.trust_checkpoint,
        overwrite=arguments.overwrite,
        label_values=values,
        compete=arguments.compete,
    )
    console = output_console()
    columns = ("format", "largest difference", "relative", "tolerance", "windows")
    table = Table(*columns, title="logits against PyTorch's in fp32")
    for kind, found in agreement.items():
        numbers = (f"{number:.2g}" for number in (found.maximum, found.relative, found.tolerance))
        table.add_row(*map(Text, (kind, *numbers, str(found.windows))))
    console.print(table)
    command = ["nnUNetv2_partial_predict", "-i", "IMAGES", "-o", "PREDICTIONS", "-m", str(arguments.o)]
    console.print(Text(f"written to {arguments.o}"), soft_wrap=True)
    console.print(Text(f"next: {shlex.join(command)}"), soft_wrap=True)
    return 0
