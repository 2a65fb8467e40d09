"""KiTS23: kidneys with tumours and cysts in 489 CT scans, without sides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nnunet_partial.conversion import Case, Converter, LabelMap, ids

FOLDER = "dataset/case_{id}"
IMAGE, LABEL = f"{FOLDER}/imaging.nii.gz", f"{FOLDER}/segmentation.nii.gz"
FIRST_TEST_CASE = 589


def cases(root: Path) -> Iterator[Case]:
    """Training cases, and images of the test set. Images are a download of their own: a missing one is an error."""
    for number in ids(root, IMAGE, LABEL, id="[0-9]{5}"):
        image = root / IMAGE.format(id=number)
        if int(number) < FIRST_TEST_CASE:
            yield Case(f"case_{number}", image=image, label=LabelMap(root / LABEL.format(id=number)))
        else:
            yield Case(f"case_{number}", image=image, split="test")


CONVERTER = Converter(
    name="KiTS23",
    dataset_id=323,
    modality="CT",
    labels={1: "kidney_tissue", 2: "kidney_tumor", 3: "kidney_cyst"},
    classes=("kidneys", "kidney_mass", "kidney_tumor"),
    cases=cases,
    layout=(IMAGE, LABEL),
    licence="CC BY-NC-SA 4.0",
    citation="KiTS23, the 2023 Kidney Tumor Segmentation Challenge",
    url="https://github.com/neheller/kits23",
    expected={"train": 489, "test": 110},
    notes=(
        "holds the scans of KiTS19 and KiTS21, with other labels: use one of the three",
        "left and right kidney have the same label",
    ),
)
