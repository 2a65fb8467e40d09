"""`nnUNetv2_partial_env`: the line that tells nnU-Net where our trainers are."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from nnunet_partial.cli.command import add_version, run_command
from nnunet_partial.errors import PartialError

__all__ = ["build_parser", "export_line", "main"]

_VARIABLE = "nnUNet_extTrainer"
_PACKAGE = "nnunet_partial.nnunet_ext"


def build_parser() -> argparse.ArgumentParser:
    """The command line of `nnUNetv2_partial_env`."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_partial_env",
        description=f"Prints the line that sets {_VARIABLE}, by which nnU-Net finds the trainers of nnunet_partial. "
        'Use it as: eval "$(nnUNetv2_partial_env)"',
    )
    add_version(parser)
    return parser


def export_line(current: str | None) -> str:
    """The export line for a shell.

    Args:
        current: Value of nnUNet_extTrainer now; folders in it are kept.

    Returns:
        `export nnUNet_extTrainer=...`, quoted where the shell needs it.

    Raises:
        PartialError: The folder is missing, or holds the character that separates folders.
    """
    folder = str(_trainer_folder())
    if os.pathsep in folder:
        raise PartialError(f"{folder}: the folder has a '{os.pathsep}' in its name, which {_VARIABLE} cannot hold")
    folders = [part for part in (current or "").split(os.pathsep) if part]
    if folder not in map(os.path.normpath, folders):
        folders.append(folder)
    joined = os.pathsep.join(folders)
    quoted = shlex.quote(joined)
    return f"export {_VARIABLE}=" + (f'"{joined}"' if quoted == joined else quoted)


def _trainer_folder() -> Path:
    # found, not imported: importing it would import torch and nnU-Net
    spec = importlib.util.find_spec(_PACKAGE)
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places:
        raise PartialError(f"the package {_PACKAGE} is not installed; install nnunet_partial again")
    return Path(places[0]).resolve()


def _run() -> int:
    print(export_line(os.environ.get(_VARIABLE)))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    build_parser().parse_args(argv)
    return run_command(_run)
