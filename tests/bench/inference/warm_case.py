"""The second image that one process predicts: `python -m tests.bench.inference.warm_case JSON`.

The JSON holds the fields of `WarmCase`. Both images are the same one; the first makes everything ready, the second is
measured from file to file.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from tests.bench.inference.child import print_result

__all__ = ["WarmCase", "main", "run_warm"]


@dataclass(frozen=True)
class WarmCase:
    """Who predicts what.

    Attributes:
        who: 'nnunet' or 'ours'.
        model: nnU-Net's model folder, or the exported one.
        image: CASE_0000.nii.gz.
        output: Folder for the label maps.
        device: 'cpu' or 'cuda'.
        mode: Of ours.
        precision: Of ours.
    """

    who: str
    model: str
    image: str
    output: str
    device: str
    mode: str = "exact"
    precision: str | None = None


def _by_nnunet(case: WarmCase) -> Callable[[Path, Path], None]:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device(case.device), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(case.model, (0,))

    def predict(image: Path, target: Path) -> None:
        predictor.predict_from_files_sequential([[str(image)]], [str(target).removesuffix(".nii.gz")])

    return predict


def _by_us(case: WarmCase) -> Callable[[Path, Path], None]:
    from nnunet_partial.inference.predictor import Mode, open_predictor
    from nnunet_partial.inference.reading.image_reader import read_image
    from nnunet_partial.inference.writing.label_writer import write_labels

    predictor = open_predictor(
        Path(case.model),
        mode=cast(Mode, case.mode),
        device=case.device,
        backend="torch",
        precision=cast('Literal["fp32", "bf16", "fp16"] | None', case.precision),
        mirroring=False,
    )

    def predict(image: Path, target: Path) -> None:
        found = read_image([image], predictor.plan.reader)
        write_labels(predictor(found.data, found.spacing), found, target)

    return predict


def run_warm(case: WarmCase) -> dict[str, Any]:
    """Predicts twice.

    Args:
        case: Who and what.

    Returns:
        'first_seconds' (with everything that is made once, imports excepted), 'seconds' of the second image, and on a
        GPU 'allocated_mb' and 'reserved_mb', the largest that PyTorch held for the second one.
    """
    import torch

    on_gpu = case.device.startswith("cuda")
    predict = (_by_nnunet if case.who == "nnunet" else _by_us)(case)
    output, image, seconds = Path(case.output), Path(case.image), []
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    for number in range(2):
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        predict(image, output / f"{number}.nii.gz")
        seconds.append(time.perf_counter() - start)
    values: dict[str, Any] = {"first_seconds": seconds[0], "seconds": seconds[1]}
    if on_gpu:
        values["allocated_mb"] = torch.cuda.max_memory_allocated() / 2**20
        values["reserved_mb"] = torch.cuda.max_memory_reserved() / 2**20
    return values


def main(argument: str) -> None:
    """Runs a case given as JSON."""
    print_result(run_warm(WarmCase(**json.loads(argument))))


if __name__ == "__main__":
    main(sys.argv[1])
