"""One case of a download: where its image and its labels lie, and what is peculiar about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

__all__ = [
    "OCCURRING",
    "Box",
    "Case",
    "Dicom",
    "Grid",
    "ImageSource",
    "LabelMap",
    "LabelSource",
    "LeftOut",
    "Masks",
    "Slices",
]

OCCURRING: Final = "*occurring*"
"""As `Case.annotated`: what occurs in the label map was annotated; of all else nothing is known.

For datasets that do not say which structures were annotated in which case. It never takes a structure for absent.
"""

Box = tuple[tuple[int, int], ...]
"""First and one past the last voxel along each array axis."""

Grid = Literal["own", "axes", "image"]


@dataclass(frozen=True)
class Dicom:
    """An image that is a DICOM series.

    Attributes:
        folder: Folder with one series; its files may lie in folders in it.
        series: Series instance UID, where the folder holds several.
    """

    folder: Path
    series: str | None = None


ImageSource = Path | Dicom
"""A file (NIfTI, NRRD, MetaImage, PNG) or a DICOM series."""


@dataclass(frozen=True, kw_only=True)
class _Placed:
    """How the voxels of a label file lie on the image.

    Attributes:
        grid: What its header is trusted in. 'own': everything; the label map is brought into the image's axis order and
            must then lie on the image. 'axes': the directions of its axes; origin and spacing are those of the image.
            'image': nothing; its array is laid on the image's, index to index.
        axes: For 'image': which axis of the file comes first, second, third, e.g. ('yxz',) for transposed slices.
        flips: For 'image': axes of the image to turn around, e.g. ('z',) or ('xy',). Where 'axes' or 'flips' hold
            several candidates, such as ('xyz', 'yxz') and `ALL_FLIPS`, all pairs are tried, and the one is taken that
            the converter's checks speak for.
        box: The part of the file's array in which structures were annotated; outside of it nothing is known.
    """

    grid: Grid = "own"
    axes: tuple[str, ...] = ("xyz",)
    flips: tuple[str, ...] = ("",)
    box: Box | None = None

    def __post_init__(self) -> None:
        if self.grid not in ("own", "axes", "image"):
            raise ValueError(f"grid: expected 'own', 'axes' or 'image', found {self.grid!r}")
        if not self.axes or any(sorted(axes) != ["x", "y", "z"] for axes in self.axes):
            raise ValueError(f"axes: expected orders of 'xyz', e.g. ('xyz', 'yxz'), found {self.axes!r}")
        if not self.flips or any(set(flip) - set("xyz") for flip in self.flips):
            raise ValueError(f"flips: expected letters of 'xyz', e.g. ('', 'z'), found {self.flips!r}")
        if (self.axes != ("xyz",) or self.flips != ("",)) and self.grid != "image":
            raise ValueError("'axes' and 'flips' turn the array against its header; they need grid='image'")


@dataclass(frozen=True)
class LabelMap(_Placed):
    """One file with label values; the converter's `labels` say what they mean.

    Attributes:
        path: The file. Floating-point files are taken where all values are whole numbers.
        clip_negative: Take negative values for 0, which otherwise are errors where `labels` does not list them.
    """

    path: Path
    clip_negative: bool = False


@dataclass(frozen=True)
class Masks(_Placed):
    """One file a structure; everything but 0 belongs to it.

    Attributes:
        files: Structure (a label name of the converter) to its file.
        missing: What a file that is not there means: an incomplete download ('error'), that the structure is not in
            the image ('absent'), or that nobody annotated it ('unannotated').
    """

    files: Mapping[str, Path]
    missing: Literal["error", "absent", "unannotated"] = "error"


@dataclass(frozen=True)
class Slices(_Placed):
    """One picture a slice, such as a folder of PNG files beside a DICOM series.

    Attributes:
        files: The pictures, in the order of the image's last axis or, with flips=('z',), against it.
        grid: Pictures have no world coordinates, so only 'image' makes sense.
    """

    files: tuple[Path, ...]
    grid: Grid = field(default="image", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grid != "image":
            raise ValueError(f"pictures have no world coordinates to trust: expected grid='image', found {self.grid!r}")


LabelSource = LabelMap | Masks | Slices


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        id: Its name in the new dataset: letters, digits, '-', '_' and '.'.
        image: Its image, or one image a channel.
        label: Its labels; None where it has none.
        split: 'train'; 'val' or a fold number, counted from 0, for training cases that an official split validates on;
            'test' for cases that are not trained on (imagesTs, and labelsTs where they have labels).
        annotated: What was annotated: None for all labels of the converter, or all masks that are given; the name of
            one of the converter's `sets`; label names; or `OCCURRING`. Of cases without labels nothing is known.
        patient: Who was imaged, where several cases may be of one patient.
        note: What is peculiar about the case; recorded in conversion.json.
    """

    id: str
    image: ImageSource | tuple[ImageSource, ...]
    label: LabelSource | None = None
    split: Literal["train", "val", "test"] | int = "train"
    annotated: str | tuple[str, ...] | None = None
    patient: str | None = None
    note: str = ""

    @property
    def channels(self) -> tuple[ImageSource, ...]:
        """The images, one a channel."""
        return self.image if isinstance(self.image, tuple) else (self.image,)


@dataclass(frozen=True)
class LeftOut:
    """A case of the download that is left out on purpose.

    Attributes:
        id: Its name.
        reason: Why, e.g. 'withdrawn by its authors'.
        split: Where it would have gone; it may stand for a case that a full download is expected to have.
    """

    id: str
    reason: str
    split: Literal["train", "test"] = "train"
