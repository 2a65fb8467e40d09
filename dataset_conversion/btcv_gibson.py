"""Multi-organ labels by Gibson et al. of CT scans of BTCV and of NIH Pancreas-CT; called BTCV2 in some papers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nnunet_partial.conversion import (
    ALL_FLIPS,
    Annotated,
    Case,
    Converter,
    Dicom,
    Intensity,
    LabelMap,
    LeftOut,
    LeftRight,
    either,
    ids,
    read_table,
)
from nnunet_partial.conversion.case import Box
from nnunet_partial.errors import PartialError

BTCV_LABEL = "label_btcv_multiorgan/label{id}.nii.gz"
NIH_LABELS = tuple(
    f"{folder}label_tcia_multiorgan/label{{id}}.nii.gz" for folder in ("", "label_tciapancreasct_multiorgan/")
)
BTCV_IMAGES = ("RawData/Training/img/img{id}.nii.gz", "RawData/Testing/img/img{id}.nii.gz")
LAST_TRAINING_IMAGE = 40
NIH_IMAGE = "Pancreas-CT/PANCREAS_{id}"
WITHDRAWN = ("0025",)
BOXES = "boxes.csv"
EDGES = ("x_first", "x_last", "y_first", "y_last", "z_first", "z_last")
NUMBER = "[0-9]{4}"


def cases(root: Path) -> Iterator[Case | LeftOut]:
    """Labels of both parts. The images are those of BTCV and NIH_Pancreas-CT, put or linked beside the labels."""
    boxes = _boxes(root / BOXES)
    for number in ids(root, BTCV_LABEL, id=NUMBER):
        image = root / BTCV_IMAGES[int(number) > LAST_TRAINING_IMAGE].format(id=number)
        label = LabelMap(root / BTCV_LABEL.format(id=number), box=_box(boxes, "btcv", number, root))
        yield Case(f"btcv_{number}", image=image, label=label, annotated="btcv", patient=f"BTCV_{number}")
    pattern = either(root, *NIH_LABELS, id=NUMBER)
    for number in ids(root, pattern, id=NUMBER):
        if number in WITHDRAWN:
            yield LeftOut(f"tcia_{number}", "its image was withdrawn by its authors")
            continue
        path, box = root / pattern.format(id=number), _box(boxes, "tcia", number, root)
        label = LabelMap(path, box=box, grid="image", flips=ALL_FLIPS)  # turned against the images of the NIH
        series = Dicom(root / NIH_IMAGE.format(id=number))
        yield Case(f"tcia_{number}", image=series, label=label, annotated="tcia", patient=f"PANCREAS_{number}")


def _boxes(path: Path) -> dict[tuple[str, str], Box]:
    """Part and number of a case to the voxels of its label file in which structures were annotated."""
    if not path.exists():
        raise PartialError(
            f"{path}: no such file; write it from the cropping.csv of the record, with the columns part (btcv or "
            f"tcia), id (0001), {', '.join(EDGES)}: the first and last voxel of the label file, counted from 0, that "
            "were annotated; what lies outside becomes unknown"
        )
    boxes = {}
    for row in read_table(path, ("part", "id", *EDGES)):
        if not all(row[name].isdecimal() for name in ("id", *EDGES)):
            raise PartialError(f"{path}: expected whole numbers from 0, found {row}")
        edges = [int(row[name]) for name in EDGES]
        box = tuple((first, last + 1) for first, last in zip(edges[::2], edges[1::2], strict=True))
        boxes[row["part"].lower(), row["id"].zfill(4)] = box
    return boxes


def _box(boxes: dict[tuple[str, str], Box], part: str, number: str, root: Path) -> Box:
    if (part, number) not in boxes:
        raise PartialError(f"{root / BOXES}: has no row of part '{part}' and id '{number}', of which there are labels")
    return boxes[part, number]


CONVERTER = Converter(
    name="BTCV_Gibson",
    dataset_id=365,
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
        "duodenum",
    ],
    sets={
        "btcv": Annotated(),
        "tcia": Annotated(
            ("spleen", "kidney_left", "gallbladder", "esophagus", "liver", "stomach", "pancreas", "duodenum")
        ),
    },
    cases=cases,
    layout=(BTCV_LABEL, *NIH_LABELS, BOXES, *BTCV_IMAGES, f"{NIH_IMAGE}/{{study}}/{{series}}/{{slice}}.dcm"),
    checks=(Intensity("liver", -20, 250), Intensity("spleen", -20, 250), LeftRight("spleen", "liver")),
    licence="labels CC BY 4.0; images by the terms of BTCV (registered access) and NIH_Pancreas-CT (CC BY 3.0)",
    citation="Gibson et al., Automatic Multi-Organ Segmentation on Abdominal CT With Dense V-Networks, IEEE TMI (2018)",
    url="https://zenodo.org/records/1169361",
    expected={"train": 89},
    notes=(
        "the record has labels only: put or link the folders RawData of BTCV and Pancreas-CT of NIH_Pancreas-CT beside "
        "them",
        f"structures were annotated in a box only; outside of it nothing is known. {BOXES} has the boxes, written by "
        "you from the cropping.csv of the record, whose columns are not documented",
        "the NIH part has no right kidney, aorta, veins and adrenal glands annotated",
        "labels of the NIH part are turned against their images: of all ways to turn them, the one is taken in which "
        "liver and spleen have the intensities of soft tissue and lie on their sides; 'placement' in conversion.json "
        "says which",
        "btcv_0061 and later are test images of BTCV: leave them out with 'exclude' where you test on BTCV; patients "
        "have the names they have in BTCV and NIH_Pancreas-CT",
        "AbdomenCT-1K and AbdomenAtlas hold scans of these, too",
    ),
)
