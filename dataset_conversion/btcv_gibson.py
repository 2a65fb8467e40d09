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
from nnunet_partial.errors import PartialError, ProblemsError

BTCV_LABEL = "label_btcv_multiorgan/label{id}.nii.gz"
NIH_LABELS = tuple(
    f"{folder}label_tcia_multiorgan/label{{id}}.nii.gz" for folder in ("", "label_tciapancreasct_multiorgan/")
)
BTCV_IMAGES = ("RawData/Training/img/img{id}.nii.gz", "RawData/Testing/img/img{id}.nii.gz")
LAST_TRAINING_IMAGE = 40
NIH_IMAGE = "Pancreas-CT/PANCREAS_{id}"
WITHDRAWN = ("0025",)
BOXES, CROPPING = "boxes.csv", "cropping.csv"
EDGES = ("x_first", "x_last", "y_first", "y_last", "z_first", "z_last")
COLUMNS = (
    f"the columns part (btcv or tcia), id (such as 0001), {', '.join(EDGES)}: the first and last voxel along each "
    "array axis of the label file, counted from 0, that were annotated; what lies outside becomes unknown"
)
NUMBER = "[0-9]{4}"
_SHOWN = 300


def cases(root: Path) -> Iterator[Case | LeftOut]:
    """Labels of both parts. The images are those of BTCV and NIH_Pancreas-CT, put or linked beside the labels."""
    pattern = either(root, *NIH_LABELS, id=NUMBER)
    numbers = {"btcv": ids(root, BTCV_LABEL, id=NUMBER), "tcia": ids(root, pattern, id=NUMBER)}
    boxes = _boxes(root, numbers)
    for number in numbers["btcv"]:
        image = root / BTCV_IMAGES[int(number) > LAST_TRAINING_IMAGE].format(id=number)
        label = LabelMap(root / BTCV_LABEL.format(id=number), box=boxes["btcv", number])
        yield Case(f"btcv_{number}", image=image, label=label, annotated="btcv", patient=f"BTCV_{number}")
    for number in numbers["tcia"]:
        if number in WITHDRAWN:
            yield LeftOut(f"tcia_{number}", "its image was withdrawn by its authors")
            continue
        path, box = root / pattern.format(id=number), boxes["tcia", number]
        # turned against the images of the NIH, and transposed by some readers; the image decides
        label = LabelMap(path, box=box, grid="image", axes=("xyz", "yxz"), flips=ALL_FLIPS)
        series = Dicom(root / NIH_IMAGE.format(id=number))
        yield Case(f"tcia_{number}", image=series, label=label, annotated="tcia", patient=f"PANCREAS_{number}")


def _boxes(root: Path, numbers: dict[str, list[str]]) -> dict[tuple[str, str], Box]:
    """Part and number of a case to the voxels of its label file in which structures were annotated.

    Args:
        root: Top folder of the download.
        numbers: Part to the numbers of its label files.

    Raises:
        PartialError: There are no boxes, or not of all cases; all rows that are missing or wrong are named at once.
    """
    path = root / BOXES
    if not path.exists():
        raise PartialError(
            f"{path}: no such file; write it from the {CROPPING} of the record, with {COLUMNS}{_header(root)}"
        )
    boxes, problems = {}, []
    for row in read_table(path, ("part", "id", *EDGES)):
        if not all(row[name].isdecimal() for name in ("id", *EDGES)):
            problems.append(f"expected whole numbers from 0, found {row}")
            continue
        edges = [int(row[name]) for name in EDGES]
        box = tuple((first, last + 1) for first, last in zip(edges[::2], edges[1::2], strict=True))
        boxes[row["part"].lower(), row["id"].zfill(4)] = box
    problems += [
        f"no row of part '{part}' and id '{number}', of which there are labels"
        for part, found in numbers.items()
        for number in found
        if (part, number) not in boxes and not (part == "tcia" and number in WITHDRAWN)
    ]
    if problems:
        raise ProblemsError(f"{path}: expected {COLUMNS}{_header(root)}", problems)
    return boxes


def _header(root: Path) -> str:
    """What the published table calls its columns, where it was put beside the labels."""
    path = root / CROPPING
    try:
        line = path.read_text(encoding="utf-8-sig", errors="replace").partition("\n")[0].strip()
    except OSError:
        return ""
    return f"; the first line of {path} is '{line[:_SHOWN]}'"


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
        f"you from the {CROPPING} of the record, whose columns are not documented",
        "the NIH part has no right kidney, aorta, veins and adrenal glands annotated",
        "labels of the NIH part are turned against their images, and may be transposed: of all ways to turn them, the "
        "one is taken in which liver and spleen have the intensities of soft tissue and lie on their sides; "
        "'placement' in conversion.json says which",
        "btcv_0061 and later are test images of BTCV: leave them out with 'exclude' where you test on BTCV; patients "
        "have the names they have in BTCV and NIH_Pancreas-CT",
        "AbdomenCT-1K and AbdomenAtlas hold scans of these, too",
    ),
)
