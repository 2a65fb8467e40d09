"""AMOS22: 15 abdominal structures in 300 CT and 60 MR scans; the number of a case tells its modality."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from nnunet_partial.conversion import Case, Converter, LabelMap, ids

IMAGE, LABEL = "images{part}/amos_{{id}}.nii.gz", "labels{part}/amos_{{id}}.nii.gz"
SPLITS: dict[str, Literal["train", "val"]] = {"Tr": "train", "Va": "val"}
TEST = IMAGE.format(part="Ts")
LAST_CT = 500


def cases(root: Path, modality: str) -> Iterator[Case]:
    """Training and validation cases of a modality, and test images, whose labels are hidden."""
    for part, split in SPLITS.items():
        image, label = IMAGE.format(part=part), LABEL.format(part=part)
        for number in _numbers(root, modality, image, label, optional=split == "val"):
            labels = LabelMap(root / label.format(id=number))
            yield Case(f"amos_{number}", image=root / image.format(id=number), label=labels, split=split)
    for number in _numbers(root, modality, TEST, optional=True):
        yield Case(f"amos_{number}", image=root / TEST.format(id=number), split="test")


def _numbers(root: Path, modality: str, *patterns: str, optional: bool) -> list[str]:
    found = ids(root, *patterns, optional=optional, id="[0-9]{4}")
    return [number for number in found if (int(number) <= LAST_CT) == (modality == "CT")]


def _part(modality: str, number: int, train: int, *notes: str) -> Converter:
    return Converter(
        name=f"AMOS22_{modality}",
        dataset_id=number,
        modality=modality,
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
            "pancreas",
            "adrenal_gland_right",
            "adrenal_gland_left",
            "duodenum",
            "urinary_bladder",
            "prostate_or_uterus",
        ],
        cases=partial(cases, modality=modality),
        layout=(*(name.format(part=part).format(id="{id}") for part in SPLITS for name in (IMAGE, LABEL)), TEST),
        licence="unclear: CC BY 4.0 (Zenodo) or CC BY-NC-SA (OpenReview)",
        citation="Ji et al., AMOS: A Large-Scale Abdominal Multi-Organ Benchmark, NeurIPS (2022)",
        url="https://amos22.grand-challenge.org",
        top=("amos22",),
        expected={"train": train},
        notes=(
            f"CT and MR lie in the same folders: cases up to {LAST_CT} are CT; AMOS22_CT and AMOS22_MR convert them",
            "the official validation cases (Va) become the one fold of splits_final.json; a merge makes folds of its "
            "own, and other papers test on these cases",
            "prostate and uterus have the same label",
            "AbdomenAtlas holds these scans, too",
            *notes,
        ),
    )


CONVERTERS = (
    _part("CT", 361, 300),
    _part("MR", 362, 60, "urinary bladder and prostate or uterus often lie outside of the image"),
)
