"""autoPET: lesions that take up FDG, in 1014 whole-body PET/CT studies; CT alone, or with PET."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_partial.conversion import Case, Converter, LabelMap, find

STUDY = "{patient}/{study}"
# CT.nii.gz has other voxels than the labels, PET.nii.gz counts decays
CT, PET, LABEL = "CTres.nii.gz", "SUV.nii.gz", "SEG.nii.gz"


def cases(root: Path, images: tuple[str, ...]) -> Iterator[Case]:
    """All studies, counted patient by patient in the order of their folders' names, which hold blanks and more."""
    studies: dict[str, int] = {}
    for found in find(root, STUDY, patient="PETCT_[0-9a-f]+"):
        if found.path.is_dir():
            patient = found["patient"]
            studies[patient] = studies.get(patient, -1) + 1
            yield Case(
                f"{patient}_{studies[patient]}",
                image=tuple(found.path / image for image in images),
                label=LabelMap(found.path / LABEL),
                patient=patient,
                note=f"study {found['study']}",
            )


def _with(name: str, dataset_id: int, modality: str, images: tuple[str, ...], *notes: str, **table: Any) -> Converter:
    return Converter(
        name=name,
        dataset_id=dataset_id,
        modality=modality,
        labels={1: "fdg_avid_lesion"},
        cases=partial(cases, images=images),
        layout=tuple(f"{STUDY}/{file}" for file in (*images, LABEL)),
        licence="not found; the original at TCIA may ask for an agreement",
        citation="Gatidis et al., A whole-body FDG-PET/CT Dataset with manually annotated Tumor Lesions, Scientific "
        "Data 9, 601 (2022)",
        url="https://fdat.uni-tuebingen.de/records/wf9fy-txq84",
        top=("FDG-PET-CT-Lesions",),
        expected={"train": 1014},
        notes=(
            *notes,
            "lesions lie in any organ, and no organ is labelled: in a merge with organs, put the lesion on an axis of "
            "its own, or mark it as 'unknown'",
            "513 studies show no lesion, which is what was found in them; up to 5 studies are of one patient",
            "autoPET III, IV and V hold these studies, and DAP Atlas labels them otherwise",
        ),
        **table,
    )


CONVERTERS = (
    _with("autoPET_CT", 359, "CT", (CT,), "lesions were found by their uptake of FDG, which CT does not show"),
    _with(
        "autoPET_PETCT",
        360,
        "PET+CT",
        (CT, PET),
        "the second channel is the uptake (SUV); it is called 'CT' as in nnU-Net's own conversion, so that its numbers "
        "are normalised alike in all studies",
        channels=("CT", "CT"),
    ),
)
