"""One download of scans of real size, its conversion, and reading and writing the same volumes.

python -m tests.bench.conversion_case {files,masks} FOLDER prints the peak memory of a conversion in MB (Linux).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nnunet_partial.conversion.engine import Options, convert_dataset
from nnunet_partial.dataset_conversion import converters
from tests.bench.measure import peak_growth_megabytes

__all__ = ["ORIENTATIONS", "VOLUME_MB", "Kind", "Orientation", "case_functions", "make_download"]

SHAPE = (512, 512, 200)
VOLUME_MB = np.prod(SHAPE) * 2 / 2**20
Kind = Literal["files", "masks"]
Orientation = Literal["RAS", "as-is"]
ORIENTATIONS: tuple[Orientation, ...] = ("RAS", "as-is")

_AFFINE = np.diag([-0.8, -0.8, 2.5, 1.0])  # the axes of most downloads; RAS has to turn two of them
_MASKS = ("liver", "spleen", "stomach", "pancreas", "aorta", "kidney_left", "kidney_right", "gallbladder")
_ORGANS = len(_MASKS)


def _organs() -> npt.NDArray[np.uint8]:
    """Ellipsoids in a row, of values 1 and up."""
    coarse = np.zeros([n // 4 for n in SHAPE], np.uint8)
    grid = np.indices(coarse.shape, np.float32)
    for index in range(_ORGANS):
        centre = [(index + 0.5) / _ORGANS * coarse.shape[0], *(n / 2 for n in coarse.shape[1:])]
        squared = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, (7, 30, 15), strict=True))
        coarse[squared < 1] = index + 1
    return coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2)


def _save(array: npt.NDArray[Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, _AFFINE), path)


def make_download(folder: Path, kind: Kind) -> None:
    """One scan in the layout of WORD ('files': a label map) or of TotalSegmentator ('masks': a file a structure)."""
    rng = np.random.default_rng(0)
    organs = _organs()
    noise = ndimage.gaussian_filter(rng.normal(0, 40, SHAPE).astype(np.float32), 1)
    image = (organs.astype(np.int16) * 20 + noise).astype(np.int16)
    if kind == "files":
        _save(image, folder / "imagesTr" / "word_0002.nii.gz")
        _save(organs, folder / "labelsTr" / "word_0002.nii.gz")
        return
    case = folder / "s0000"
    _save(image, case / "ct.nii.gz")
    for value, name in enumerate(_MASKS, start=1):
        _save((organs == value).astype(np.uint8), case / "segmentations" / f"{name}.nii.gz")
    (folder / "meta.csv").write_text("image_id;split\ns0000;train\n", encoding="utf-8")


def case_functions(
    download: Path, kind: Kind, orientation: Orientation
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Converting the download, and reading all its files and writing an image and a label map, both with nibabel."""
    converter = converters()["WORD" if kind == "files" else "TotalSegmentator_v2"]
    options = Options(orientation=orientation, labels=_MASKS if kind == "masks" else None)
    raw = download.parent / f"raw_{kind}_{orientation}"

    def convert() -> None:
        shutil.rmtree(raw, ignore_errors=True)
        convert_dataset(converter, download, raw_folder=raw, options=options)

    def read_and_write() -> None:
        shutil.rmtree(raw, ignore_errors=True)
        files = sorted(download.rglob("*.nii.gz"))
        image = next(path for path in files if path.name == "ct.nii.gz" or path.parent.name == "imagesTr")
        for path in files:
            array = np.asarray(nib.load(path).dataobj)
            if path in (image, files[-1]):
                _save(array, raw / path.name)

    return convert, read_and_write


def main() -> None:
    """Prints the growth in MB."""
    kind, folder = sys.argv[1], Path(sys.argv[2])
    convert, _ = case_functions(folder, "masks" if kind == "masks" else "files", "RAS")
    print(peak_growth_megabytes(convert))


if __name__ == "__main__":
    main()
