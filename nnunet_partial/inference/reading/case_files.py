"""Which files make up the cases of an input folder, by nnU-Net's file names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_partial.dicom import holds_dicom
from nnunet_partial.errors import VolumeError
from nnunet_partial.inference.reading.nifti_bytes import is_nifti, peek_header

__all__ = ["FoundCases", "cases_of_folder", "natural_order"]

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
_DIGITS = re.compile(r"(\d+)")
_COLOURED = (".png", ".bmp", ".tif")
_KNOWN_ENDINGS = re.compile(r"(\.nii\.gz|\.[^.]+)$")


def natural_order(name: str) -> tuple[tuple[int, int | str], ...]:
    """Key that sorts 'case_2' before 'case_10'."""
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in _DIGITS.split(name) if part)


@dataclass(frozen=True)
class FoundCases:
    """What an input folder holds.

    Attributes:
        files: Case to its files in the order of the channels; cases in natural order.
        problems: One line a case, or a file without a case, that cannot be predicted.
    """

    files: Mapping[str, list[Path]]
    problems: Sequence[str] = ()


def cases_of_folder(folder: Path, file_ending: str, n_channels: int) -> FoundCases:
    """Finds the cases to predict.

    A case is CASE_0000.ending, CASE_0001.ending, ...; or CASE_0000.ending alone where that file holds all channels;
    or, in a folder without such files, a folder with a DICOM series. `folder` may itself be a DICOM folder, or one
    image file: any name will do for a model of one channel, and the other channels are looked up beside it.

    Args:
        folder: Folder or file.
        file_ending: Ending of the model's images with its dot; hidden files are left out.
        n_channels: Channels of the model.

    Returns:
        The cases whose files are complete; and as problems those with channels missing or too many, or whose only
        file cannot be read, and files that are not named after nnU-Net's manner.

    Raises:
        VolumeError: The folder is missing or holds no images, or a single file does not fit the model.
    """
    if folder.is_file():
        return _single_file(folder, file_ending, n_channels)
    if not folder.is_dir():
        raise VolumeError(f"{folder}: no such file or folder; expected images to predict")
    names = [path for path in folder.iterdir() if not path.name.startswith(".")]
    # not only files: a link that leads nowhere is a case as well, which fails when it is read
    images = [path for path in names if path.name.endswith(file_ending) and not path.is_dir()]
    if images:
        return _named_cases(images, file_ending, n_channels)
    cases = _dicom_cases(folder, names)
    if not cases:
        found = Counter(_ending(path) for path in names if path.is_file())
        listed = ", ".join(f"{count} x {ending}" for ending, count in sorted(found.items())) or "no files"
        raise VolumeError(
            f"{folder}: expected images named CASE_0000{file_ending}, or folders with DICOM files, found {listed}"
        )
    if n_channels != 1:
        raise VolumeError(
            f"{folder}: the model takes {n_channels} channels, a DICOM series is one; convert the series to "
            f"CASE_0000{file_ending}, CASE_0001{file_ending}, ..."
        )
    return FoundCases(cases)


def _ending(path: Path) -> str:
    match = _KNOWN_ENDINGS.search(path.name)
    return match[0] if match else "(no ending)"


def _named_cases(images: list[Path], file_ending: str, n_channels: int) -> FoundCases:
    found: dict[str, dict[int, Path]] = {}
    problems: list[str] = []
    for path in images:
        match = _CHANNEL.fullmatch(path.name[: -len(file_ending)])
        if match:
            found.setdefault(match["case"], {})[int(match["channel"])] = path
        else:
            problems.append(f"{path.name}: expected a name like CASE_0000{file_ending}, with the number of the channel")
    complete = {}
    for case in sorted(found, key=natural_order):
        problem = _channel_problem(case, found[case], n_channels)
        if problem is None:
            complete[case] = [found[case][channel] for channel in sorted(found[case])]
        else:
            problems.append(problem)
    return FoundCases(complete, sorted(problems, key=natural_order))


def _channel_problem(case: str, files: Mapping[int, Path], n_channels: int) -> str | None:
    """What keeps a case from being predicted; None where its channels are complete."""
    try:
        if set(files) == set(range(n_channels)) or (set(files) == {0} and _holds_channels(files[0], n_channels)):
            return None
    except (VolumeError, OSError) as error:
        return f"{case}: {error}"
    missing = [f"{channel:04d}" for channel in range(n_channels) if channel not in files]
    surplus = [f"{channel:04d}" for channel in sorted(files) if channel >= n_channels]
    parts = [f"missing {', '.join(missing)}"] * bool(missing) + [f"unexpected {', '.join(surplus)}"] * bool(surplus)
    return f"{case}: the model takes {n_channels} channels; {'; '.join(parts)}"


def _holds_channels(path: Path, n_channels: int) -> bool:
    """Whether one file may hold all channels; the reader counts them in the end."""
    if is_nifti(path):
        shape = peek_header(path).shape
        return len(shape) == 4 and shape[3] == n_channels
    if path.name.lower().endswith(_COLOURED):
        return n_channels in (3, 4)
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise VolumeError(f"{path}: cannot be read as an image ({str(error).splitlines()[-1].strip()})") from error
    return bool(reader.GetDimension() == 4 and reader.GetSize()[3] == n_channels)


def _single_file(path: Path, file_ending: str, n_channels: int) -> FoundCases:
    if not path.name.endswith(file_ending):
        raise VolumeError(f"{path}: expected a file that ends in {file_ending}, which the model was trained on")
    stem = path.name[: -len(file_ending)]
    match = _CHANNEL.fullmatch(stem)
    if match is None:
        files = {0: path}
        if n_channels > 1 and not _holds_channels(path, n_channels):
            raise VolumeError(
                f"{path}: the model takes {n_channels} channels; name them {stem}_0000{file_ending}, "
                f"{stem}_0001{file_ending}, ..."
            )
        return FoundCases({stem: [path]})
    pattern = re.compile(re.escape(match["case"]) + r"_(\d{4})" + re.escape(file_ending))
    files = {int(m[1]): other for other in path.parent.iterdir() if (m := pattern.fullmatch(other.name))}
    problem = _channel_problem(match["case"], files, n_channels)
    if problem is not None:
        return FoundCases({}, [problem])
    return FoundCases({match["case"]: [files[channel] for channel in sorted(files)]})


def _dicom_cases(folder: Path, names: list[Path]) -> dict[str, list[Path]]:
    folders = [path for path in names if path.is_dir() and holds_dicom(path)]
    if not folders:
        return {folder.resolve().name: [folder]} if holds_dicom(folder) else {}
    return {path.name: [path] for path in sorted(folders, key=lambda path: natural_order(path.name))}
