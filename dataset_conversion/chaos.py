"""CHAOS: livers in CT of healthy donors, and four abdominal organs in MR; DICOM series and a picture a slice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunet_partial.conversion import Above, Case, Converter, Dicom, Intensity, LeftRight, Slices, find, ids

TRAIN, TEST, NUMBER = "Train_Sets", "Test_Sets", "[0-9]+"
CT_IMAGE, CT_LABEL = "CT/{id}/DICOM_anon", "CT/{id}/Ground/liver_GT_{slice}.png"
MR_LABEL = "MR/{id}/{sequence}/Ground/{slice}.png"
MR_IMAGES = {  # the two phases of T1DUAL lie on each other and share their labels
    "T1DUAL_InPhase": "MR/{id}/T1DUAL/DICOM_anon/InPhase",
    "T1DUAL_OutPhase": "MR/{id}/T1DUAL/DICOM_anon/OutPhase",
    "T2SPIR": "MR/{id}/T2SPIR/DICOM_anon",
}


def ct_cases(root: Path) -> Iterator[Case]:
    """Training cases, and the images of the test set where it was unpacked beside them."""
    for number in ids(root, f"{TRAIN}/{CT_IMAGE}", f"{TRAIN}/CT/{{id}}/Ground", id=NUMBER):
        image = Dicom(root / TRAIN / CT_IMAGE.format(id=number))
        yield Case(f"CT_{number}", image=image, label=_slices(root, CT_LABEL.replace("{id}", number)))
    for number in ids(root, f"{TEST}/{CT_IMAGE}", optional=True, id=NUMBER):
        yield Case(f"CT_{number}", image=Dicom(root / TEST / CT_IMAGE.format(id=number)), split="test")


def mr_cases(root: Path) -> Iterator[Case]:
    """Three images a patient, and those of the test set where it was unpacked beside them."""
    for part in (TRAIN, TEST):
        folders = [f"{part}/MR/{{id}}/{sequence}" for sequence in ("T1DUAL", "T2SPIR")]
        for number in ids(root, *folders, optional=part == TEST, id=NUMBER):
            for name, folder in MR_IMAGES.items():
                pattern = MR_LABEL.replace("{id}", number).replace("{sequence}", name.partition("_")[0])
                yield Case(
                    f"MR_{number}_{name}",
                    image=Dicom(root / part / folder.format(id=number)),
                    label=_slices(root, pattern) if part == TRAIN else None,
                    split="train" if part == TRAIN else "test",
                    patient=f"MR_{number}",
                )


def _slices(root: Path, pattern: str) -> Slices:
    """The pictures by their names; whether they run up or down is told by the image."""
    return Slices(tuple(found.path for found in find(root, f"{TRAIN}/{pattern}")), flips=("", "z"))


_SHARED: dict[str, Any] = {
    "licence": "CC BY-NC-SA 4.0 (by one source)",
    "citation": "Kavur et al., CHAOS Challenge - combined (CT-MR) healthy abdominal organ segmentation, Medical Image "
    "Analysis 69 (2021)",
    "url": "https://zenodo.org/records/3431873",
}
_TURNED = "pictures run up or down; the direction in which {} is taken, and it is an error where neither fits"

CONVERTERS = (
    Converter(
        name="CHAOS_CT",
        dataset_id=357,
        modality="CT",
        labels=dict.fromkeys(range(1, 256), "liver"),  # whatever is not black
        absent=("liver_tumor",),
        cases=ct_cases,
        layout=(f"{TRAIN}/{CT_IMAGE}/*.dcm", f"{TRAIN}/{CT_LABEL}", f"{TEST}/{CT_IMAGE}/*.dcm"),
        checks=(Intensity("liver", 0, 250),),
        expected={"train": 20, "test": 20},
        notes=(
            "donors are healthy: livers hold no tumours",
            _TURNED.format("the liver is as bright as livers are"),
            "AbdomenAtlas holds these scans, too; those of CHAOS_MR are of other patients, whatever their numbers",
        ),
        **_SHARED,
    ),
    Converter(
        name="CHAOS_MR",
        dataset_id=358,
        modality="MR",
        labels={
            **dict.fromkeys(range(55, 71), "liver"),  # 63, but for a few grey levels
            **dict.fromkeys(range(110, 136), "kidney_right"),  # 126
            **dict.fromkeys(range(175, 201), "kidney_left"),  # 189
            **dict.fromkeys(range(240, 256), "spleen"),  # 252
        },
        cases=mr_cases,
        layout=(*(f"{TRAIN}/{image}/*.dcm" for image in MR_IMAGES.values()), f"{TRAIN}/{MR_LABEL}", f"{TEST}/MR/..."),
        checks=(
            LeftRight("kidney_left", "kidney_right"),
            LeftRight("spleen", "liver"),
            Above("liver", "kidney_right"),
            Above("spleen", "kidney_left"),
        ),
        expected={"train": 60, "test": 60},
        notes=(
            "three images of each of 20 patients: T1DUAL in and out of phase, which share their labels, and T2SPIR",
            _TURNED.format("kidneys lie below liver and spleen"),
            "no other dataset is known to hold these scans; those of CHAOS_CT are of other people",
        ),
        **_SHARED,
    ),
)
