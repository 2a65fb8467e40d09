"""A pipeline as TotalSegmentator's: `python -m tests.bench.inference.totalsegmentator_like IMAGES OUTPUT MODEL`.

The image is interpolated linearly to the network's voxels and written to a temporary file; nnU-Net's predictor takes
windows every 0.8 of a window, without mirroring, and writes labels to a second one; these are taken over to the
image's voxels by the nearest neighbour. TotalSegmentator's own code is not used.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["main", "predict"]

_STEP = 0.8


def _zoomed(volume: NDArray[Any], shape: tuple[int, ...], order: Literal[0, 1]) -> NDArray[Any]:
    factors = [new / old for new, old in zip(shape, volume.shape, strict=True)]
    # voxel centres correspond, so that nothing is shifted
    return np.asarray(ndimage.zoom(volume, factors, order=order, mode="nearest", grid_mode=True))


def _predict_file(image: Path, output: Path, model: Path, device: str) -> None:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    if device == "cpu":
        torch.set_num_threads(torch.multiprocessing.cpu_count())  # as nnUNetv2_predict does
    predictor = nnUNetPredictor(
        tile_step_size=_STEP, use_mirroring=False, device=torch.device(device), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(model), (0,))
    # worker processes as TotalSegmentator has them
    predictor.predict_from_files(
        [[str(image)]],
        [str(output).removesuffix(".nii.gz")],
        num_processes_preprocessing=1,
        num_processes_segmentation_export=1,
    )


def predict(images: Path, output: Path, model: Path, device: str = "cpu") -> None:
    """Predicts each image of a folder.

    Args:
        images: Folder with CASE_0000.nii.gz.
        output: Folder for CASE.nii.gz.
        model: nnU-Net's model folder.
        device: 'cpu' or 'cuda'.
    """
    plans = json.loads((model / "plans.json").read_text(encoding="utf-8"))
    spacing_zyx = plans["configurations"]["3d_fullres"]["spacing"]
    output.mkdir(parents=True, exist_ok=True)
    for path in sorted(images.glob("*_0000.nii.gz")):
        with tempfile.TemporaryDirectory() as folder:
            low_image, low_labels = Path(folder) / "case_0000.nii.gz", Path(folder) / "case.nii.gz"
            image = nib.load(path)
            sizes = [float(mm) for mm in image.header.get_zooms()[:3]]
            shape = tuple(
                round(n * mm / new) for n, mm, new in zip(image.shape, sizes, reversed(spacing_zyx), strict=True)
            )
            volume = np.asarray(image.dataobj).astype(np.float32)
            low = np.rint(_zoomed(volume, shape, 1)).astype(np.int16)
            affine = image.affine.copy()
            affine[:3, :3] *= np.array(image.shape) / shape
            nib.save(nib.Nifti1Image(low, affine), low_image)
            _predict_file(low_image, low_labels, model, device)
            labels = _zoomed(np.asarray(nib.load(low_labels).dataobj).astype(np.uint8), image.shape, 0)
            nib.save(nib.Nifti1Image(labels, image.affine), output / path.name.replace("_0000.nii.gz", ".nii.gz"))


def main() -> None:
    """Runs on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    predict(arguments.images, arguments.output, arguments.model, arguments.device)


if __name__ == "__main__":
    main()
