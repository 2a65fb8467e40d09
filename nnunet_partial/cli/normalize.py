"""`nnUNetv2_partial_normalize`: normalises new images by the rules of the images that a model was trained on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunet_partial.cli.command import add_processes, add_version, output_console, run_command
from nnunet_partial.cli.model_arguments import add_modality, given_modalities

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """The command line of `nnUNetv2_partial_normalize`."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_partial_normalize",
        description="Normalises images for nnUNetv2_predict, where the model's images were normalised by modality "
        "when they were merged; nnUNetv2_partial_predict does so itself. Images that are there already are not made "
        "again. See docs/how-to-ct-and-mr.md.",
    )
    parser.add_argument("-i", type=Path, required=True, metavar="FOLDER", help="images CASE_0000.ending")
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="where the normalised images go")
    rules = parser.add_mutually_exclusive_group(required=True)
    rules.add_argument("-d", metavar="ID_OR_NAME_OR_FOLDER", help="merged dataset of the model, e.g. 100 or a folder")
    rules.add_argument("-m", type=Path, metavar="FOLDER", help="model folder, or its dataset.json")
    add_modality(parser, required=True)
    add_processes(parser)
    parser.add_argument("--overwrite", action="store_true", help="make all images again")
    add_version(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = build_parser().parse_args(argv)
    return run_command(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from nnunet_partial.labels.raw_dataset import find_dataset_folder
    from nnunet_partial.labels.sidecar import has_partial_labels, load_dataset_json, partial_labels_of
    from nnunet_partial.normalisation import normalise_folder

    place = arguments.m if arguments.m is not None else find_dataset_folder(arguments.d)
    content = load_dataset_json(place)
    written, kept = normalise_folder(
        arguments.i,
        arguments.o,
        partial_labels_of(content, str(place)).normalisation if has_partial_labels(content) else {},
        given_modalities(arguments) or {},
        file_ending=str(content.get("file_ending")),
        processes=arguments.np,
        overwrite=arguments.overwrite,
    )
    output_console().print(
        f"{written} images normalised, {kept} were there already: {arguments.o}", markup=False, soft_wrap=True
    )
    return 0
