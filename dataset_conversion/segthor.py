"""SegTHOR: esophagus, heart, trachea and aorta in 40 CT scans of the thorax."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nnunet_partial.conversion import Case, Converter, LabelMap, ids

IMAGE, LABEL = "train/Patient_{id}/Patient_{id}.nii.gz", "train/Patient_{id}/GT.nii.gz"
TEST = "test/Patient_{id}.nii.gz"


def cases(root: Path) -> Iterator[Case]:
    """Training cases, whose label maps all have the same name, and test images, whose labels are hidden."""
    for number in ids(root, IMAGE, LABEL, id="[0-9]+"):
        label = LabelMap(root / LABEL.format(id=number))
        yield Case(f"Patient_{number}", image=root / IMAGE.format(id=number), label=label)
    for number in ids(root, TEST, optional=True, id="[0-9]+"):
        yield Case(f"Patient_{number}", image=root / TEST.format(id=number), split="test")


CONVERTER = Converter(
    name="SegTHOR",
    dataset_id=354,
    modality="CT",
    labels={1: "esophagus", 2: "heart", 3: "trachea", 4: "aorta"},
    cases=cases,
    layout=(IMAGE, LABEL, TEST),
    licence="by a signed data usage agreement; no other licence is known",
    citation="Lambert et al., SegTHOR: Segmentation of Thoracic Organs at Risk in CT images, arXiv 1912.05950 (2019)",
    url="https://competitions.codalab.org/competitions/21145",
    expected={"train": 40, "test": 20},
    notes=(
        "lungs and spinal cord are not labelled",
        "the scans end above the abdomen: aorta and esophagus are cut off there, unlike those of abdominal datasets",
        "no other dataset is known to hold these scans",
    ),
)
