"""CHAOS: DICOM series with slices numbered downwards, and a picture a slice that runs along with them, or against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from tests.conversion_fakes.scene import Fake, Scene, make_scene, write_dicom, write_picture

GREY = {"liver": 63, "kidney_right": 126, "kidney_left": 189, "spleen": 252}
OFF = {"liver": 70, "kidney_right": 110, "kidney_left": 176, "spleen": 255}
IMAGES = ("T1DUAL_InPhase", "T1DUAL_OutPhase", "T2SPIR")
LIVER_HU = 110
_MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"


def make(folder: Path, name: str) -> Fake:
    return _make_ct(folder) if name == "CHAOS_CT" else _make_mr(folder)


def _make_ct(folder: Path) -> Fake:
    train = {f"CT_{number}": _bright_liver(number) for number in (1, 2, 10)}
    for case, scene in train.items():
        place = folder / "Train_Sets" / "CT" / case.removeprefix("CT_")
        _write_ct(place, scene, backwards=case != "CT_2")
        white = 1 if case == "CT_10" else 255
        _write_pictures(place / "Ground", "liver_GT_{:03d}.png", scene, {"liver": white}, upwards=case == "CT_2")
    test = make_scene(3, [])
    _write_ct(folder / "Test_Sets" / "CT" / "3", test, backwards=True)
    return Fake(folder, train, test={"CT_3": test})


def _make_mr(folder: Path) -> Fake:
    train: dict[str, Scene] = {}
    for number in (1, 2, 3, 5, 8):
        place = folder / "Train_Sets" / "MR" / str(number)
        dual, spir = abdomen(number), abdomen(100 + number)
        out = Scene(_magnetic(200 + number).image, dual.structures, dual.affine)
        _write_mr(place / "T1DUAL" / "DICOM_anon" / "InPhase", dual)
        _write_mr(place / "T1DUAL" / "DICOM_anon" / "OutPhase", out)
        _write_mr(place / "T2SPIR" / "DICOM_anon", spir)
        grey = OFF if number == 2 else GREY
        _write_pictures(place / "T1DUAL" / "Ground", "IMG-0004-{:05d}.png", dual, grey, upwards=number == 3)
        _write_pictures(place / "T2SPIR" / "Ground", "IMG-0002-{:05d}.png", spir, grey, upwards=False)
        train |= {f"MR_{number}_T1DUAL_InPhase": dual, f"MR_{number}_T1DUAL_OutPhase": out, f"MR_{number}_T2SPIR": spir}
    test = {f"MR_4_{image}": _magnetic(seed) for seed, image in enumerate(IMAGES)}
    place = folder / "Test_Sets" / "MR" / "4"
    for case, scene in test.items():
        sequence, _, phase = case.removeprefix("MR_4_").partition("_")
        _write_mr(place / sequence / "DICOM_anon" / phase, scene)
    patients = {case: "_".join(case.split("_")[:2]) for case in train}
    return Fake(folder, train, test=test, patients=patients)


def abdomen(seed: int) -> Scene:
    """Liver and right kidney on the right, spleen and left kidney on the left, kidneys below."""
    scene = _magnetic(seed)
    speckles = np.random.default_rng(seed).random(scene.image.shape) < 0.3
    left, below = slice(None, 4), slice(None, 3)
    right, above = slice(5, None), slice(4, None)
    places = {"liver": (right, above), "kidney_right": (right, below), "kidney_left": (left, below)}
    for organ, (side, height) in {**places, "spleen": (left, above)}.items():
        scene.structures[organ] = np.zeros_like(speckles)
        scene.structures[organ][side, :, height] = speckles[side, :, height]
    return scene


def _magnetic(seed: int) -> Scene:
    """An image without negative intensities."""
    scene = make_scene(seed, [])
    scene.image = np.abs(scene.image)
    return scene


def _bright_liver(seed: int) -> Scene:
    scene = make_scene(seed, ["liver"])
    scene.image[scene.structures["liver"]] = LIVER_HU
    return scene


def _write_ct(place: Path, scene: Scene, *, backwards: bool) -> None:
    for file in write_dicom(place / "DICOM_anon", scene, backwards=backwards):
        number = int(file.stem.rpartition("_")[2])
        file.rename(file.with_name(f"i{number:04d},0000b.dcm"))


def _write_mr(folder: Path, scene: Scene) -> None:
    """A series of MR, whose stored values are the intensities."""
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, file in enumerate(write_dicom(folder, scene, backwards=True), start=1):
        slice_of_ct = sitk.ReadImage(str(file), sitk.sitkUInt16)
        piece = sitk.GetImageFromArray(sitk.GetArrayFromImage(slice_of_ct))
        piece.CopyInformation(slice_of_ct)
        tags = {key: slice_of_ct.GetMetaData(key) for key in slice_of_ct.GetMetaDataKeys() if key[:4] != "0028"}
        for key, value in {**tags, "0008|0060": "MR", "0008|0016": _MR_STORAGE}.items():
            piece.SetMetaData(key, value)
        file.unlink()
        writer.SetFileName(str(file.with_name(f"IMG-0004-{number:05d}.dcm")))
        writer.Execute(piece)


def _write_pictures(folder: Path, name: str, scene: Scene, grey: dict[str, int], *, upwards: bool) -> None:
    """Pictures with rows and columns of the DICOM slices, which run to the left and to the back."""
    drawn = scene.values(grey)[::-1, ::-1]
    count = drawn.shape[2]
    for number in range(count):
        write_picture(folder / name.format(number), drawn[:, :, number if upwards else count - 1 - number])
