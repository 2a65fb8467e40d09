"""AbdomenAtlas Mini: 9 (release 1.0) or 25 (release 1.1) structures in 5195 CT scans, labelled mostly by networks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunet_partial.conversion import Case, Converter, LabelMap, LeftOut, either, find

FOLDERS = ("BDMAP_{id}", "{archive}/BDMAP_{id}")
NUMBER = "[0-9]{8}"
LAST_IMAGE = 5195

FIRST_LABELS = [
    *("aorta", "gallbladder", "kidney_left", "kidney_right", "liver", "pancreas", "inferior_vena_cava", "spleen"),
    "stomach",
]
VESSEL = "liver_vessel"
MORE_LABELS = [
    *("adrenal_gland_left", "adrenal_gland_right", "urinary_bladder", "celiac_trunk", "colon", "duodenum", "esophagus"),
    *("femur_left", "femur_right", VESSEL, "intestine", "lung_left", "lung_right"),
    *("portal_vein_and_splenic_vein", "prostate", "rectum"),
]


def cases(root: Path) -> Iterator[Case | LeftOut]:
    """All cases, one folder each, below the top folder or in the folders of the archives."""
    either(root, *FOLDERS, id=NUMBER)
    for pattern in FOLDERS:
        for folder in find(root, pattern, optional=True, id=NUMBER):
            name, image = folder.path.name, folder.path / "ct.nii.gz"
            if int(folder["id"]) > LAST_IMAGE and not image.exists():
                yield LeftOut(name, "its image is not published")
                continue
            # the origin of label maps differs from that of their images
            yield Case(name, image=image, label=LabelMap(folder.path / "combined_labels.nii.gz", grid="axes"))


def _release(release: str, number: int, labels: list[str], **table: Any) -> Converter:
    notes = table.pop("notes", ())
    return Converter(
        name=f"AbdomenAtlas{release}Mini",
        dataset_id=number,
        modality="CT",
        labels=labels,
        cases=cases,
        layout=tuple(f"{folder}/{file}.nii.gz" for folder in FOLDERS for file in ("ct", "combined_labels")),
        licence="CC BY-NC-SA 4.0",
        citation="Li et al., AbdomenAtlas, Medical Image Analysis 97 (2024)",
        url="https://github.com/MrGiovanni/AbdomenAtlas",
        expected={"train": LAST_IMAGE},
        notes=(
            "most labels were made by networks, and some revised: no ground truth to test on",
            "holds scans of BTCV, CHAOS, NIH_Pancreas-CT, CT-ORG, WORD, LiTS, AMOS22, KiTS, AbdomenCT-1K, MSD and "
            "FLARE23, and which case is which is not published: never test on these what was trained on it",
            "releases 1.0 and 1.1 label the same scans",
            *notes,
        ),
        **table,
    )


CONVERTERS = (
    _release("1_0", 369, FIRST_LABELS),
    _release(
        "1_1",
        370,
        FIRST_LABELS + MORE_LABELS,
        structures={VESSEL: ("hepatic_vessel", "liver_vessel_outside")},
        notes=(
            f"'{VESSEL}' is the published 'hepatic_vessel': that these vessels lie in the liver, and that the label of "
            "the liver leaves them out, is said nowhere, so either label says nothing of the other structure",
            f"cases after {LAST_IMAGE} have labels only, and are left out",
        ),
    ),
)
