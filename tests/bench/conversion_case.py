"""One download of scans of real size, its conversion, and reading and writing the same volumes.

python -m tests.bench.conversion_case {files,masks,scaled,dicom} FOLDER prints the peak memory of a conversion in MB
(Linux); where there is no such folder, the download is made in it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nnunet_partial.conversion import Case, Converter, Dicom, LabelMap
from nnunet_partial.conversion.engine import Options, convert_dataset
from nnunet_partial.dataset_conversion import converters
from tests.bench.measure import peak_growth_megabytes
from tests.conversion_fakes.scene import Scene, write_dicom, write_nifti

__all__ = ["KINDS", "ORIENTATIONS", "VOLUME_MB", "Kind", "Orientation", "case_functions", "make_download"]

SHAPE = (512, 512, 200)
VOLUME_MB = np.prod(SHAPE) * 2 / 2**20
Kind = Literal["files", "masks", "scaled", "dicom"]
KINDS: tuple[Kind, ...] = get_args(Kind)
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


def _series(root: Path) -> Iterator[Case]:
    yield Case("a", image=Dicom(root / "series"), label=LabelMap(root / "label.nii.gz"))


def _converter(kind: Kind) -> Converter:
    known = converters()
    if kind == "dicom":
        return replace(known["WORD"], cases=_series)
    return known["TotalSegmentator_v2" if kind == "masks" else "WORD"]


def _save(array: npt.NDArray[Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, _AFFINE), path)


def make_download(folder: Path, kind: Kind) -> None:
    """One scan and its labels.

    Args:
        folder: Where it is made.
        kind: 'files' has the layout of WORD, an image and a label map, 'scaled' the same with unsigned intensities that
            the header moves to HU; 'masks' that of TotalSegmentator, a file a structure; 'dicom' is a series in 12 bits
            that their header moves to HU, and a label map.
    """
    rng = np.random.default_rng(0)
    organs = _organs()
    noise = ndimage.gaussian_filter(rng.normal(0, 40, SHAPE).astype(np.float32), 1)
    image = (organs.astype(np.int16) * 20 + noise).astype(np.int16)
    if kind == "dicom":
        scene = Scene(image, {}, np.abs(_AFFINE))
        for path in write_dicom(folder / "series", scene):
            _declare_12_bits(path)
        write_nifti(folder / "label.nii.gz", organs, scene.affine, "LPS")
        return
    if kind in ("files", "scaled"):
        path = folder / "imagesTr" / "word_0002.nii.gz"
        _save(image, path)
        if kind == "scaled":
            stored = nib.Nifti1Image((image + 1024).astype(np.uint16), _AFFINE)
            stored.header.set_slope_inter(1, -1024)
            nib.save(stored, path)
        _save(organs, folder / "labelsTr" / "word_0002.nii.gz")
        return
    case = folder / "s0000"
    _save(image, case / "ct.nii.gz")
    for value, name in enumerate(_MASKS, start=1):
        _save((organs == value).astype(np.uint8), case / "segmentations" / f"{name}.nii.gz")
    (folder / "meta.csv").write_text("image_id;split\ns0000;train\n", encoding="utf-8")


def _declare_12_bits(path: Path) -> None:
    """Unsigned numbers in 12 of 16 bits, as most scanners write them; ITK declares signed ones in all 16."""
    content = path.read_bytes()
    for element, found, wanted in ((1, 16, 12), (2, 15, 11), (3, 1, 0)):  # bits stored, highest bit, sign
        tag = bytes([0x28, 0, element, 1]) + b"\2\0\0\0"
        assert content.count(tag + bytes([found, 0])) == 1
        content = content.replace(tag + bytes([found, 0]), tag + bytes([wanted, 0]))
    path.write_bytes(content)


def case_functions(
    download: Path, kind: Kind, orientation: Orientation
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Converting the download, and reading all its files and writing an image and a label map, both with nibabel."""
    converter = _converter(kind)
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
    kind = next(kind for kind in KINDS if kind == sys.argv[1])
    folder = Path(sys.argv[2])
    if not folder.exists():
        make_download(folder, kind)
    convert, _ = case_functions(folder, kind, "RAS")
    print(peak_growth_megabytes(convert))


if __name__ == "__main__":
    main()
