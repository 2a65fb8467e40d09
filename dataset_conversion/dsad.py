"""DSAD, the Dresden Surgical Anatomy Dataset: laparoscopic pictures in subsets of one organ, and one of seven."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from nnunet_partial.conversion import Case, Converter, Masks, find
from nnunet_partial.errors import ProblemsError

IMAGE, MASK = "{folder}/{surgery}/image{id}.png", "{folder}/{surgery}/mask{id}.png"
MULTILABEL_MASK = "{folder}/{surgery}/mask{id}_{organ}.png"
MULTILABEL = ("abdominal_wall", "colon", "liver", "pancreas", "small_intestine", "spleen", "stomach")
ORGANS = sorted((*MULTILABEL, "inferior_mesenteric_artery", "intestinal_veins", "ureter", "vesicular_glands"))

# by surgery: Kolbinger et al., Anatomy segmentation in laparoscopic surgery, Int. Journal of Surgery 109(10) (2023)
SPLIT: dict[Literal["train", "val", "test"], tuple[int, ...]] = {
    "train": (1, 4, 5, 6, 8, 9, 10, 12, 15, 16, 17, 19, 22, 23, 24, 25, 27, 28, 29, 30, 31),
    "val": (3, 21, 26),
    "test": (2, 7, 11, 13, 14, 18, 20, 32),
}
SPLIT_OF = {surgery: part for part, surgeries in SPLIT.items() for surgery in surgeries}


def cases(root: Path, organ: str) -> Iterator[Case]:
    """The pictures of an organ."""
    for surgery, number in _pictures(root, organ, IMAGE, MASK):
        mask = root / MASK.format(folder=organ, surgery=surgery, id=number)
        yield _case(root, organ, surgery, number, label=Masks({organ: mask}))


def multilabel_cases(root: Path) -> Iterator[Case]:
    """The pictures of the shared subset. Of organs that are not visible the mask may be empty or missing."""
    strange = [
        str(one.path)
        for one in find(root, MULTILABEL_MASK.replace("{folder}", "multilabel"), surgery="[0-9]+", id="[0-9]+")
        if one["organ"] not in MULTILABEL
    ]
    if strange:
        raise ProblemsError(f"expected masks of {', '.join(MULTILABEL)}; is it another release?", strange)
    for surgery, number in _pictures(root, "multilabel", IMAGE, MULTILABEL_MASK):
        path = root / MULTILABEL_MASK.format(folder="multilabel", surgery=surgery, id=number, organ="{organ}")
        files = {organ: path.with_name(path.name.format(organ=organ)) for organ in MULTILABEL}
        missing = [organ for organ, file in files.items() if not file.exists()]
        if "stomach" in missing:  # which all pictures show: files were lost, so none that is missing says 'absent'
            yield _case(root, "multilabel", surgery, number, label=Masks(files, missing="error"))
            continue
        note = f"no mask, so taken for absent: {', '.join(missing)}" if missing else ""
        yield _case(root, "multilabel", surgery, number, label=Masks(files, missing="absent"), note=note)


def _pictures(root: Path, folder: str, *patterns: str) -> list[tuple[str, str]]:
    """Surgery and number of pictures. Folders in those of the surgeries hold drafts with the same file names."""
    patterns = tuple(pattern.replace("{folder}", folder) for pattern in patterns)
    files = [one for pattern in patterns for one in find(root, pattern, surgery="[0-9]+", id="[0-9]+")]
    strange = sorted({str(one.path.parent) for one in files if int(one["surgery"]) not in SPLIT_OF})
    if strange:
        raise ProblemsError(f"the official split knows the surgeries 1 to {max(SPLIT_OF)} only", strange)
    return sorted({(one["surgery"], one["id"]) for one in files})


def _case(root: Path, folder: str, surgery: str, number: str, **entries: Any) -> Case:
    image = root / IMAGE.format(folder=folder, surgery=surgery, id=number)
    name = f"{int(surgery):02d}"
    return Case(f"{name}_{number}", image=image, split=SPLIT_OF[int(surgery)], patient=f"DSAD_{name}", **entries)


def _subset(number: int, subset: str, mask: str, *notes: str, **table: Any) -> Converter:
    return Converter(
        name=f"DSAD_{subset}",
        dataset_id=number,
        modality="laparoscopy",
        channels=("R", "G", "B"),
        file_ending=".png",
        layout=tuple(pattern.replace("{folder}", subset) for pattern in (IMAGE, mask)),
        licence="CC BY 4.0",
        citation="Carstens et al., The Dresden Surgical Anatomy Dataset, Scientific Data 10, 3 (2023)",
        url="https://doi.org/10.6084/m9.figshare.21702600",
        notes=(
            "give the folder above those of the organs with -i; the papers resize pictures: --size 640x512",
            "the official split by surgery: pictures of three surgeries are the one fold of splits_final.json, those "
            "of eight go to imagesTs, and their labels to labelsTs; a surgery is the same patient in all subsets",
            *notes,
        ),
        **table,
    )


CONVERTERS = (
    *(
        _subset(
            number,
            organ,
            MASK,
            "one organ is annotated; nothing is known of the others, which may be in the same picture",
            "13195 pictures in eleven subsets, of more than 1000 each",
            labels=[organ],
            cases=partial(cases, organ=organ),
        )
        for number, organ in enumerate(ORGANS, start=371)
    ),
    _subset(
        382,
        "multilabel",
        MULTILABEL_MASK,
        "seven organs are annotated in 1430 pictures, which are those of DSAD_stomach: train on one of the two, and "
        "never test on one what was trained on the other",
        "sources differ on whether an organ that is not visible has an empty mask or none: one that is missing is "
        "taken for absent, which conversion.json notes at each case; masks of the stomach must be there",
        "masks may overlap; see --overlaps",
        labels=MULTILABEL,
        cases=multilabel_cases,
    ),
)
