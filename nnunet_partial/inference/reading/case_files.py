"""Which files make up the cases of an input folder, by nnU-Net's file names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_partial.dicom import holds_dicom, is_dicom
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
        left_out: One line a folder, beside named images, that is taken for none of the cases.
    """

    files: Mapping[str, list[Path]]
    problems: Sequence[str] = ()
    left_out: Sequence[str] = ()


def cases_of_folder(folder: Path, file_ending: str, n_channels: int, *, output: Path | None = None) -> FoundCases:
    """Finds the cases to predict.

    A case is CASE_0000.ending, CASE_0001.ending, ...; or CASE_0000.ending alone where that file holds all channels;
    or a folder with a DICOM series. Where one folder holds DICOM files, each folder is taken for a case: one without
    such files was emptied or cut off, and is a problem. Elsewhere folders are left out. `folder` may itself be a DICOM
    folder, or one image file: any name will do for a model of one channel, and the other channels are looked up beside
    it.

    Args:
        folder: Folder or file.
        file_ending: Ending of the model's images with its dot; hidden files are left out.
        n_channels: Channels of the model.
        output: Folder that is no case, wherever it is.

    Returns:
        The cases whose files are complete; and as problems those with channels missing or too many, or whose only
        file cannot be read, folders without DICOM files, and files that are not named after nnU-Net's manner.

    Raises:
        VolumeError: The folder is missing, cannot be read or holds no images, or a single file does not fit the model.
    """
    try:
        if folder.is_file():
            return _single_file(folder, file_ending, n_channels)
        if not folder.is_dir():
            raise VolumeError(f"{folder}: no such file or folder; expected images to predict")
        names = [path for path in folder.iterdir() if not path.name.startswith(".")]
        if output is not None and output.resolve().parent == folder.resolve():
            names = [path for path in names if path.name != output.resolve().name]
        return _cases_of_names(folder, names, file_ending, n_channels)
    except OSError as error:
        raise VolumeError(f"{folder}: cannot be read ({error.strerror or error})") from error


def _cases_of_names(folder: Path, names: list[Path], file_ending: str, n_channels: int) -> FoundCases:
    # not only files: a link that leads nowhere is a case as well, which fails when it is read
    images = {path for path in names if path.name.endswith(file_ending) and not path.is_dir()}
    rest = sorted((path for path in names if path not in images), key=lambda path: natural_order(path.name))
    series, others = _series_and_others([path for path in rest if path.is_dir() or not path.exists()])
    loose, unreadable = _first_dicom([path for path in rest if path.is_file()])
    if not images and n_channels != 1 and (series or loose):
        raise VolumeError(f"{folder}: {_one_channel(file_ending, n_channels)}")
    if not images and not series:
        if loose is not None:
            return FoundCases({folder.resolve().name: [folder]})
        details = [f"{name}: {why}" for name, why in others.items()] + [str(unreadable)] * (unreadable is not None)
        raise VolumeError(
            f"{folder}: expected images named CASE_0000{file_ending}, or folders with DICOM files, found "
            f"{_listed(names)}" + "".join(f"\n  - {detail}" for detail in details)
        )
    named = _named_cases(images, file_ending, n_channels)
    files, problems = dict(named.files), list(named.problems)
    for path in series:
        if n_channels != 1:
            problems.append(f"{path.name}: {_one_channel(file_ending, n_channels)}")
        elif path.name in files:
            problems.append(f"{path.name}: a folder of DICOM files and an image are both of this name; rename one")
        else:
            files[path.name] = [path]
    if series:
        problems += [f"{name}: expected a folder with one DICOM series, {why}" for name, why in others.items()]
    if loose is not None:
        problems.append(f"{loose.name}: a DICOM file beside other cases; put each series in a folder of its own")
    left_out = () if series else tuple(f"{name}: {why}" for name, why in others.items())
    ordered = {case: files[case] for case in sorted(files, key=natural_order)}
    return FoundCases(ordered, sorted(problems, key=natural_order), left_out)


def _series_and_others(folders: Sequence[Path]) -> tuple[list[Path], dict[str, str]]:
    """Folders with DICOM files; and the names of the others, with the reason."""
    series, others = [], {}
    for path in folders:
        try:
            if not path.exists():
                others[path.name] = "found a link that leads nowhere"
            elif holds_dicom(path):
                series.append(path)
            else:
                others[path.name] = f"found {_listed(path.rglob('[!.]*'))}"
        except VolumeError as error:
            others[path.name] = str(error)
    return series, others


def _first_dicom(files: Sequence[Path]) -> tuple[Path | None, VolumeError | None]:
    """The first DICOM file; where there is none, what is wrong with the first file that cannot be read."""
    unreadable: VolumeError | None = None
    for path in files:
        try:
            if is_dicom(path):
                return path, None
        except VolumeError as error:
            unreadable = unreadable or error
    return None, unreadable


def _one_channel(file_ending: str, n_channels: int) -> str:
    return (
        f"the model takes {n_channels} channels, a DICOM series is one; convert the series to CASE_0000{file_ending}, "
        f"CASE_0001{file_ending}, ..."
    )


def _listed(paths: Iterable[Path]) -> str:
    """What there is, for messages: files by their endings, and folders."""
    found, folders, empty = Counter[str](), 0, 0
    for path in paths:
        if path.is_dir():
            folders += 1
        elif path.is_file():
            found[_ending(path)] += 1
            empty += path.stat().st_size == 0
    parts = [f"{count} x {ending}" for ending, count in sorted(found.items())]
    parts += [f"{folders} folder{'s' * (folders > 1)} without DICOM files"] * bool(folders)
    return (", ".join(parts) or "no files") + f" ({empty} of 0 bytes)" * bool(empty)


def _ending(path: Path) -> str:
    match = _KNOWN_ENDINGS.search(path.name)
    return match[0] if match else "(no ending)"


def _named_cases(images: Iterable[Path], file_ending: str, n_channels: int) -> FoundCases:
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
