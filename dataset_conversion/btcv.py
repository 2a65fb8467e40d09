"""BTCV, "beyond the cranial vault": 13 structures of the abdomen, and 4 of the female pelvis (cervix), in CT scans."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunet_partial.conversion import Case, Converter, LabelMap, ids

IMAGE, LABEL, TEST = "Training/img/img{id}.nii.gz", "Training/label/label{id}.nii.gz", "Testing/img/img{id}.nii.gz"
CERVIX_IMAGE, CERVIX_LABEL = "Training/img/{id}-Image.nii.gz", "Training/label/{id}-Mask.nii.gz"


def abdomen(root: Path) -> Iterator[Case]:
    """Training cases, and test images, whose labels are hidden."""
    for number in ids(root, IMAGE, LABEL, id="[0-9]{4}"):
        label = LabelMap(root / LABEL.format(id=number))
        image = root / IMAGE.format(id=number)
        yield Case(f"img{number}", image=image, label=label, patient=f"BTCV_{number}")
    for number in ids(root, TEST, optional=True, id="[0-9]{4}"):
        image = root / TEST.format(id=number)
        yield Case(f"img{number}", image=image, split="test", patient=f"BTCV_{number}")


def cervix(root: Path) -> Iterator[Case]:
    """Training cases."""
    for number in ids(root, CERVIX_IMAGE, CERVIX_LABEL, id="[0-9]{7}"):
        label = LabelMap(root / CERVIX_LABEL.format(id=number))
        yield Case(number, image=root / CERVIX_IMAGE.format(id=number), label=label)


_SYNAPSE: dict[str, Any] = {
    "licence": "registered access at Synapse; no open licence found",
    "citation": "Landman et al., Multi-Atlas Labeling Beyond the Cranial Vault, MICCAI workshop and challenge (2015)",
    "url": "https://www.synapse.org/#!Synapse:syn3193805",
}

CONVERTERS = (
    Converter(
        name="BTCV",
        dataset_id=363,
        modality="CT",
        labels=[
            "spleen",
            "kidney_right",
            "kidney_left",
            "gallbladder",
            "esophagus",
            "liver",
            "stomach",
            "aorta",
            "inferior_vena_cava",
            "portal_vein_and_splenic_vein",
            "pancreas",
            "adrenal_gland_right",
            "adrenal_gland_left",
        ],
        cases=abdomen,
        layout=(IMAGE, LABEL, TEST),
        top=("RawData",),
        expected={"train": 30, "test": 20},
        notes=(
            "BTCV_Gibson holds labels of all training images and of 17 of the 20 test images: never train on it and "
            "test here; patients have the same names in both",
            "AbdomenAtlas holds these scans, too",
        ),
        **_SYNAPSE,
    ),
    Converter(
        name="BTCV_Cervix",
        dataset_id=364,
        modality="CT",
        labels=["urinary_bladder", "uterus", "rectum", "small_bowel"],
        cases=cervix,
        layout=(CERVIX_IMAGE, CERVIX_LABEL),
        top=("CervixRawData",),
        expected={"train": 30},
        notes=("others found its labels to be bad; look at them before you train",),
        **_SYNAPSE,
    ),
)
