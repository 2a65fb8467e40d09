"""KiTS21: kidneys with tumours and cysts in 300 CT scans, without sides; the majority vote of its raters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nnunet_partial.conversion import Case, Converter, LabelMap, ids

FOLDER = "data/case_{id}"
IMAGE = f"{FOLDER}/imaging.nii.gz"
LABEL = f"{FOLDER}/aggregated_MAJ_seg.nii.gz"  # ..._AND_seg and ..._OR_seg are other votes on the same structures


def cases(root: Path) -> Iterator[Case]:
    """All cases. Images are downloaded by a script of the dataset: a missing one is an error."""
    for number in ids(root, IMAGE, LABEL, id="[0-9]{5}"):
        label = LabelMap(root / LABEL.format(id=number))
        yield Case(f"case_{number}", image=root / IMAGE.format(id=number), label=label)


CONVERTER = Converter(
    name="KiTS21",
    dataset_id=352,
    modality="CT",
    labels={1: "kidney_tissue", 2: "kidney_tumor", 3: "kidney_cyst"},
    classes=("kidneys", "kidney_mass", "kidney_tumor"),
    cases=cases,
    layout=(IMAGE, LABEL),
    licence="CC BY-NC-SA 4.0",
    citation="Heller et al., The KiTS21 Challenge, arXiv 2307.01984 (2023)",
    url="https://github.com/neheller/kits21",
    top=("kits21/kits21", "kits21"),  # the repository has a folder of its own name
    expected={"train": 300},
    notes=(
        "left and right kidney have the same label",
        "labels the test set of KiTS19, cases 00210 to 00299: never test on it what was trained on these",
        "KiTS19 and KiTS23 hold these scans with other labels: use one of the three",
        "AbdomenCT-1K and AbdomenAtlas hold scans of this dataset, too",
    ),
)
