"""The CT tasks of the Medical Segmentation Decathlon: liver, lung, pancreas, hepatic vessels, spleen, colon."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_partial.conversion import Case, Converter, LabelMap, ids

IMAGE, LABEL, TEST = "imagesTr/{id}.nii.gz", "labelsTr/{id}.nii.gz", "imagesTs/{id}.nii.gz"


def cases(root: Path, prefix: str) -> Iterator[Case]:
    """Training cases, and test images, whose labels are hidden. Case names have no leading zeros in some tasks."""
    pattern = f"{prefix}_[0-9]+"
    for name in ids(root, IMAGE, LABEL, id=pattern):
        yield Case(name, image=root / IMAGE.format(id=name), label=LabelMap(root / LABEL.format(id=name)))
    for name in ids(root, TEST, optional=True, id=pattern):
        yield Case(name, image=root / TEST.format(id=name), split="test")


def _task(number: int, title: str, train: int, test: int, labels: dict[int, str], **table: Any) -> Converter:
    return Converter(
        name=f"MSD_{title}",
        dataset_id=300 + number,
        modality="CT",
        labels=labels,
        cases=partial(cases, prefix=title.lower()),
        layout=(IMAGE, LABEL, TEST),
        licence="CC BY-SA 4.0",
        citation="Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13, 4128 (2022)",
        url="http://medicaldecathlon.com",
        top=(f"Task{number:02d}_{title}",),
        expected={"train": train, "test": test},
        **table,
    )


_SHARED = "tasks 7 to 10 may share patients"

CONVERTERS = (
    _task(
        3,
        "Liver",
        131,
        70,
        {1: "liver_tissue", 2: "liver_tumor"},
        classes=("liver", "liver_tumor"),
        notes=(
            "the same scans as LiTS, with repaired headers: use one of the two",
            "holds the scans of 3D-IRCADb (20); AbdomenCT-1K, FLARE22, FLARE23 and AbdomenAtlas hold these scans",
        ),
    ),
    _task(6, "Lung", 63, 32, {1: "lung_tumor"}, notes=("the lungs themselves are not labelled",)),
    _task(
        7,
        "Pancreas",
        281,
        139,
        {1: "pancreas_tissue", 2: "pancreas_tumor"},
        classes=("pancreas", "pancreas_tumor"),
        notes=("AbdomenCT-1K, FLARE22, FLARE23, PANORAMA and AbdomenAtlas hold these scans, too", _SHARED),
    ),
    _task(
        8,
        "HepaticVessel",
        303,
        140,
        {1: "hepatic_vessel", 2: "liver_tumor"},
        notes=(
            "the liver itself is not labelled, and vessels inside of tumours are lost",
            "tumours follow another protocol than those of MSD_Liver",
            "AbdomenAtlas holds these scans, too",
            _SHARED,
        ),
    ),
    _task(
        9,
        "Spleen",
        41,
        20,
        {1: "spleen"},
        notes=("AbdomenCT-1K, FLARE and AbdomenAtlas hold these scans, too", _SHARED),
    ),
    _task(
        10,
        "Colon",
        126,
        64,
        {1: "colon_tumor"},
        notes=(
            "the wall of the colon is not labelled, only its tumours",
            "FLARE23 and AbdomenAtlas hold these scans, too",
            _SHARED,
        ),
    ),
)
