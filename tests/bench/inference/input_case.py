"""One resampling of an image to the network's voxels, in this process: `python -m ...input_case JSON`.

The JSON holds the fields of `InputCase`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_partial.inference.model.plan import Resampling
from nnunet_partial.inference.resampling import resample_image
from tests.bench.inference.child import measured, print_result

__all__ = ["InputCase", "main", "run_input"]

_CUBIC = 3


@dataclass(frozen=True)
class InputCase:
    """A resampling.

    Attributes:
        who: 'ours' or 'nnunet'.
        shape: Voxels of the image, (z, y, x).
        spacing_mm: Their size.
        low_shape: Voxels for the network.
        low_spacing_mm: Their size.
        output: .npy file for the result; None for none.
    """

    who: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    low_shape: tuple[int, int, int]
    low_spacing_mm: tuple[float, float, float]
    output: str | None = None


def _resampled(case: InputCase, image: NDArray[np.float32]) -> NDArray[Any]:
    if case.who == "ours":
        rule = Resampling("spline", _CUBIC, 0, None)
        return resample_image(image, case.low_shape, case.spacing_mm, case.low_spacing_mm, rule)
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    found = resample_data_or_seg_to_shape(
        image, case.low_shape, case.spacing_mm, case.low_spacing_mm, order=_CUBIC, force_separate_z=None
    )
    return np.asarray(found)


def run_input(case: InputCase) -> dict[str, float]:
    """Resamples noise, in which every rounding shows, once.

    Args:
        case: To what and by whom.

    Returns:
        'seconds', 'extra_mb' above the image, 'process_mb' of the whole process.
    """
    image = np.random.default_rng(0).standard_normal((1, *case.shape), np.float32)
    found: list[NDArray[Any]] = []
    values = measured(lambda: found.append(_resampled(case, image)))
    if case.output is not None:
        with Path(case.output).open("wb") as file:
            np.save(file, found[0])
    return values


def main(argument: str) -> None:
    """Runs a case given as JSON, after a small one that does what is done only once in a process: imports."""
    content = json.loads(argument)
    run_input(InputCase(**{**content, "shape": (8, 12, 12), "low_shape": (6, 6, 6), "output": None}))
    print_result(run_input(InputCase(**content)))


if __name__ == "__main__":
    main(sys.argv[1])
