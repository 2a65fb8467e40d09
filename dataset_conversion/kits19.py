"""KiTS19: kidneys with their tumours and cysts in 210 CT scans, without sides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nnunet_partial.conversion import Case, Converter, LabelMap, ids

FOLDER = "data/case_{id}"
IMAGE, LABEL = f"{FOLDER}/imaging.nii.gz", f"{FOLDER}/segmentation.nii.gz"
FIRST_TEST_CASE = 210

NOTES = {
    **dict.fromkeys((15, 23, 37, 125), "its label map was corrected in December 2019"),
    **dict.fromkeys((15, 60, 102, 174), "its image was replaced in April 2019"),
    **dict.fromkeys((22, 61, 117), "its image was cropped in April 2019"),
    15: "its image was replaced in April 2019, its label map corrected in December 2019",
    160: "its slices are reported to be 512 x 796 pixels",
}


def cases(root: Path) -> Iterator[Case]:
    """Training cases, and images of the test set. Images are a download of their own: a missing one is an error."""
    for number in ids(root, IMAGE, LABEL, id="[0-9]{5}"):
        image, note = root / IMAGE.format(id=number), NOTES.get(int(number), "")
        if int(number) < FIRST_TEST_CASE:
            yield Case(f"case_{number}", image=image, label=LabelMap(root / LABEL.format(id=number)), note=note)
        else:
            yield Case(f"case_{number}", image=image, split="test", note=note)


CONVERTER = Converter(
    name="KiTS19",
    dataset_id=351,
    modality="CT",
    labels={1: "kidney_tissue", 2: "kidney_mass"},
    classes=("kidneys", "kidney_mass"),
    cases=cases,
    layout=(IMAGE, LABEL),
    licence="CC BY-NC-SA 4.0",
    citation="Heller et al., The KiTS19 Challenge Data, arXiv 1904.00445 (2019)",
    url="https://github.com/neheller/kits19",
    top=("kits19",),
    expected={"train": 210, "test": 90},
    notes=(
        "label 2, the tumour of the challenge, marks cysts as well: it could be either",
        "left and right kidney have the same label",
        "nnU-Net leaves cases out whose labels it found wrong: --exclude "
        "case_00015,case_00023,case_00037,case_00068,case_00125,case_00133; four of them were corrected in December "
        "2019, so download again what is older",
        "KiTS21 and KiTS23 hold these scans with other labels, the test set as well: use one of the three",
        "AbdomenCT-1K, FLARE, C4KC-KiTS, SegA and AbdomenAtlas hold scans of this dataset, too",
    ),
)
