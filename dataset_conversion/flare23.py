"""FLARE23: 2200 partly labelled CT scans with 13 abdominal organs and tumours, and 1800 without labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nnunet_partial.conversion import OCCURRING, Case, Converter, LabelMap, find, ids

IMAGE = "imagesTr2200/FLARE23_{id}_0000.nii.gz"
LABEL = "labelsTr2200/FLARE23_{id}.nii.gz"
UNLABELLED = ("unlabelTr1800/FLARE23_{id}_0000.nii.gz", "unlabeledTr1800/FLARE23_{id}_0000.nii.gz")
TUNING = "validation/FLARE23Ts_{id}_0000.nii.gz"


def cases(root: Path) -> Iterator[Case]:
    """Labelled cases, and the unlabelled ones and the images of the tuning set where they were put beside them."""
    for number in ids(root, IMAGE, LABEL, id="[0-9]{4}"):
        # a structure without voxels was not annotated, or is not in the image; nothing tells which
        label = LabelMap(root / LABEL.format(id=number))
        yield Case(f"FLARE23_{number}", image=root / IMAGE.format(id=number), label=label, annotated=OCCURRING)
    for pattern in UNLABELLED:
        for found in find(root, pattern, optional=True, id="[0-9]{4}"):
            yield Case(f"FLARE23_{found['id']}", image=found.path)
    for number in ids(root, TUNING, optional=True, id="[0-9]{4}"):
        yield Case(f"FLARE23Ts_{number}", image=root / TUNING.format(id=number), split="test")


CONVERTER = Converter(
    name="FLARE23",
    dataset_id=324,
    modality="CT",
    labels={
        1: "liver",
        2: "kidney_right",
        3: "spleen",
        4: "pancreas",
        5: "aorta",
        6: "inferior_vena_cava",
        7: "adrenal_gland_right",
        8: "adrenal_gland_left",
        9: "gallbladder",
        10: "esophagus",
        11: "stomach",
        12: "duodenum",
        13: "kidney_left",
        14: "tumor",
    },
    cases=cases,
    layout=(IMAGE, LABEL, *UNLABELLED, TUNING),
    licence="not found: challenge agreement; some parts are non-commercial",
    citation="FLARE23 challenge, MICCAI 2023",
    url="https://github.com/JunMa11/FLARE",
    expected={"train": 2200, "unlabelled": 1800, "test": 100},
    notes=(
        "what was annotated differs from case to case and is not published: what occurs in a label map is taken for "
        "annotated, and of all else nothing is known; no structure is ever taken for absent",
        "tumours are of any organ, and take the place of its voxels; FLARE23-DataInfoTraining.xlsx names the source "
        "of each case, which may tell of which organ",
        "negative label values are reported by one user: such cases are refused; leave them out with --exclude",
        "holds scans of FLARE22, AbdomenCT-1K, MSD (liver, pancreas, colon), LiTS, KiTS19 and NIH_Pancreas-CT: never "
        "test on these what was trained on FLARE23, or the other way round",
        "the official pseudo-labels are no ground truth and are not read",
    ),
)
