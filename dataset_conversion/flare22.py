"""FLARE22: 50 CT scans with 13 abdominal organs, and 2000 without labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nnunet_partial.conversion import Case, Converter, LabelMap, ids

IMAGE = "images/FLARE22_Tr_{id}_0000.nii.gz"
LABEL = "labels/FLARE22_Tr_{id}.nii.gz"
UNLABELLED = "Case_{id}_0000.nii.gz"
TUNING = "FLARETs_{id}_0000.nii.gz"


def cases(root: Path) -> Iterator[Case]:
    """Labelled cases, and the unlabelled ones and the images of the tuning set where they were put beside them."""
    for number in ids(root, IMAGE, LABEL):
        label = LabelMap(root / LABEL.format(id=number))
        yield Case(f"FLARE22_Tr_{number}", image=root / IMAGE.format(id=number), label=label)
    for number in ids(root, UNLABELLED, optional=True):
        yield Case(f"Case_{number}", image=root / UNLABELLED.format(id=number))
    for number in ids(root, TUNING, optional=True):
        yield Case(f"FLARETs_{number}", image=root / TUNING.format(id=number), split="test")


CONVERTER = Converter(
    name="FLARE22",
    dataset_id=322,
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
    },
    cases=cases,
    layout=(IMAGE, LABEL, UNLABELLED, TUNING),
    licence="unclear: re-hosts differ (CC BY-SA 4.0, CC BY-NC-SA 4.0, research only)",
    citation="FLARE22 challenge, MICCAI 2022",
    url="https://flare22.grand-challenge.org/Dataset/",
    expected={"train": 50, "unlabelled": 2000, "test": 50},
    notes=(
        "the 50 labelled images are from MSD_Pancreas, and others from AbdomenCT-1K: never test on these what was "
        "trained on FLARE22, or the other way round",
        "an older release with 12 organs (Organ12_0001_0000.nii.gz) has other labels and is not read",
    ),
)
