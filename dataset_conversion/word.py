"""WORD: 16 abdominal structures in 150 CT scans made for planning radiotherapy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from nnunet_partial.conversion import Case, Converter, LabelMap, find, ids

IMAGE, LABEL = "images{part}/word_{{id}}.nii.gz", "labels{part}/word_{{id}}.nii.gz"
SPLITS: dict[str, Literal["train", "val", "test"]] = {"Tr": "train", "Val": "val", "Ts": "test"}


def cases(root: Path) -> Iterator[Case]:
    """The official split; labels of the test cases are a download of their own."""
    for part, split in SPLITS.items():
        image, label = IMAGE.format(part=part), LABEL.format(part=part)
        labelled = split != "test" or bool(find(root, label, optional=True, id="[0-9]{4}"))
        patterns = (image, label) if labelled else (image,)
        for number in ids(root, *patterns, optional=split != "train", id="[0-9]{4}"):
            labels = LabelMap(root / label.format(id=number)) if labelled else None
            yield Case(f"word_{number}", image=root / image.format(id=number), label=labels, split=split)


CONVERTER = Converter(
    name="WORD",
    dataset_id=367,
    modality="CT",
    labels=[
        "liver",
        "spleen",
        "kidney_left",
        "kidney_right",
        "stomach",
        "gallbladder",
        "esophagus",
        "pancreas",
        "duodenum",
        "colon",
        "intestine",
        "adrenal_glands",
        "rectum",
        "urinary_bladder",
        "femoral_head_left",
        "femoral_head_right",
    ],
    cases=cases,
    layout=tuple(name.format(part=part).format(id="{id}") for part in SPLITS for name in (IMAGE, LABEL)),
    licence="academic use only (stated beside GPL-3.0 in its repository)",
    citation="Luo et al., WORD, Medical Image Analysis 82 (2022)",
    url="https://github.com/HiLab-git/WORD",
    top=("WORD-V0.1.0",),
    expected={"train": 120, "test": 30},
    notes=(
        "the labels of version 0.1.0; a list of 17 with two adrenal glands belongs to another release",
        "left and right adrenal gland have the same label",
        "intestine is the small bowel without the duodenum, by a protocol of its own; keep it apart from the small "
        "bowel of TotalSegmentator",
        "labels of the test cases (WORD_V0.1.0_labelsTs.zip of its repository) go to labelsTs beside imagesTs",
        "the official validation cases become the one fold of splits_final.json; a merge makes folds of its own",
        "AbdomenAtlas holds these scans, too",
    ),
)
