"""Reading an image and writing a label map of its size, in this process: `python -m ...files_case JSON`."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from nnunet_partial.inference.reading.image_reader import read_image
from nnunet_partial.inference.writing.label_writer import write_labels
from tests.bench.inference.child import measured, print_result

__all__ = ["main", "read_and_write"]


def read_and_write(image: Path) -> dict[str, float]:
    """Reads an image and writes labels that are about as hard to pack as a prediction.

    Args:
        image: NIfTI file.
    """

    def both() -> None:
        found = read_image([image], "SimpleITKIO")
        labels = (found.data[0] > 0).astype(np.uint8)
        with tempfile.TemporaryDirectory() as folder:
            write_labels(labels, found, Path(folder) / "labels.nii.gz")

    return measured(both)


def main(argument: str) -> None:
    """Runs on an image given as JSON, twice: the first time imports what is needed."""
    image = Path(json.loads(argument)["image"])
    read_and_write(image)
    print_result(read_and_write(image))


if __name__ == "__main__":
    main(sys.argv[1])
