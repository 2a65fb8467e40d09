"""Run while an image is built: refuses a model that the image could not predict with.

Usage: check_model.py FOLDER DEVICE
"""

from __future__ import annotations

import sys
from pathlib import Path

from nnunet_partial.cli.command import run_command
from nnunet_partial.inference.backends.open_backend import choose_backend, open_backend
from nnunet_partial.inference.model.exported_model import load_exported


def check(folder: Path, device: str) -> int:
    """Loads the network that `device` would use; on the CPU, because builds see no GPU."""
    model = load_exported(folder)
    kind = choose_backend(model.files, device)
    backend = open_backend(kind, model.plan, model.files[kind], device="cpu")
    print(f"{folder}: {backend.description}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(lambda: check(Path(sys.argv[1]), sys.argv[2])))
