"""LiTS: livers and their tumours in 131 CT scans, in the files of the challenge, whose headers do not all hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from nnunet_partial.conversion import Case, Converter, Intensity, LabelMap, LeftOut, find, ids, spacing_of

IMAGE, LABEL = "Training Batch {batch}/volume-{id}.nii", "Training Batch {batch}/segmentation-{id}.nii"
TESTS = ("test-volume-{id}.nii", "{folder}/test-volume-{id}.nii")
NUMBER = "[0-9]+"

NOTES = {"volume-54": "a slice of its label map is reported to be shifted"}


def cases(root: Path) -> Iterator[Case | LeftOut]:
    """Both batches, and the images of the test set where they were put beside them."""
    for batch in ids(root, IMAGE, LABEL, field="batch", batch="[12]"):
        image, label = (pattern.replace("{batch}", batch) for pattern in (IMAGE, LABEL))
        for number in ids(root, image, label, id=NUMBER):
            # whatever its header says, a label map has the voxels of its image, which 'checks' sees to
            labels = LabelMap(root / label.format(id=number), grid="image")
            yield _case(root / image.format(id=number), labels)
    for pattern in TESTS:
        for found in find(root, pattern, optional=True, id=NUMBER):
            yield _case(found.path)


def _case(image: Path, label: LabelMap | None = None) -> Case | LeftOut:
    name = image.name.removesuffix(".nii")
    split: Literal["train", "test"] = "train" if label else "test"
    spacing = spacing_of(image)
    if spacing is not None and all(abs(size - 1) < 1e-3 for size in spacing):
        reason = "its header says 1 x 1 x 1 mm, as one does that was lost; MSD_Liver has a mended one"
        return LeftOut(name, reason, split)
    return Case(name, image=image, label=label, split=split, note=NOTES.get(name, ""))


CONVERTER = Converter(
    name="LiTS",
    dataset_id=353,
    modality="CT",
    labels={1: "liver_tissue", 2: "liver_tumor"},
    classes=("liver", "liver_tumor"),
    cases=cases,
    layout=(IMAGE, LABEL, *TESTS),
    # between these lie livers in all phases of contrast, fatty ones and noise included; not so air, lung and most fat
    checks=(Intensity("liver_tissue", -50, 300),),
    licence="not settled: no derivatives (CC BY-NC-ND 4.0) by a comment on the challenge's page",
    citation="Bilic et al., The Liver Tumor Segmentation Benchmark (LiTS), Medical Image Analysis 84 (2023)",
    url="https://competitions.codalab.org/competitions/17094",
    expected={"train": 131, "test": 70},
    notes=(
        "prefer MSD_Liver: the same scans with mended headers; never train on one and test on the other",
        "scans whose header says 1 x 1 x 1 mm, about volume-28 to volume-47, are left out: their voxels have another, "
        "unknown size",
        "directions of axes differ between volumes, and not all headers are right: some readers turn volumes around",
        "the labels are laid on the voxels of the image whatever their own header says; a liver of other intensities "
        "than a liver has is an error",
        "images may be padded with values far below air: clip them where you use statistics of your own",
        "holds the scans of 3D-IRCADb (20); AbdomenCT-1K, FLARE22, FLARE23, CT-ORG and AbdomenAtlas hold these scans",
    ),
)
