"""StructSeg 2019, task 3: organs at risk in 50 CT scans of the thorax, whose order of labels is not settled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nnunet_partial.conversion import Case, Converter, Intensity, LabelMap, LeftRight, ids

# the folder must have its name: tasks 1 and 4 have the same files below theirs, and other labels
FOLDER = "Task3_Thoracic_OAR/{id}"
IMAGE, LABEL = f"{FOLDER}/data.nii.gz", f"{FOLDER}/label.nii.gz"


def cases(root: Path) -> Iterator[Case]:
    """All cases."""
    for number in ids(root, IMAGE, LABEL, id="[0-9]+"):
        label = LabelMap(root / LABEL.format(id=number))
        yield Case(f"thoracic_oar_{number}", image=root / IMAGE.format(id=number), label=label)


def _order(name: str, dataset_id: int, labels: dict[int, str], note: str) -> Converter:
    return Converter(
        name=name,
        dataset_id=dataset_id,
        modality="CT",
        labels=labels,
        cases=cases,
        layout=(IMAGE, LABEL),
        checks=(
            LeftRight("lung_left", "lung_right"),
            Intensity("trachea", -3000, -300, share=0.5),  # air and its wall
            Intensity("esophagus", -300, 3000, share=0.5),
        ),
        licence="terms of the challenge only: ask its organizers",
        citation="StructSeg, the Automatic Structure Segmentation for Radiotherapy Planning Challenge 2019",
        url="https://structseg2019.grand-challenge.org",
        expected={"train": 50},
        notes=(
            note,
            "give the folder above Task3_Thoracic_OAR with -i",
            "the trachea may include the main bronchi, and it is not said whether tumours lie in the lungs' labels",
            "no other dataset is known to hold these scans",
        ),
    )


CONVERTERS = (
    _order(
        "StructSeg2019_Task3",
        355,
        {1: "lung_left", 2: "lung_right", 3: "heart", 4: "esophagus", 5: "trachea", 6: "spinal_cord"},
        "published label tables contradict each other; where the images contradict this one, it is an error: then "
        "convert StructSeg2019_Task3_reordered",
    ),
    _order(
        "StructSeg2019_Task3_reordered",
        356,
        {1: "lung_right", 2: "lung_left", 3: "heart", 4: "trachea", 5: "esophagus", 6: "spinal_cord"},
        "the same files as StructSeg2019_Task3, read by the other published label table, with sides, and trachea and "
        "esophagus, exchanged; where the images contradict it, it is an error",
    ),
)
