"""TotalSegmentator: one mask a structure, of CT (two releases) and of MR images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from nnunet_partial.conversion import Case, Converter, LeftOut, Masks, find, read_table
from nnunet_partial.errors import VolumeError


def _names(text: str) -> list[str]:
    return text.split()


CT_1 = _names("""
spleen kidney_right kidney_left gallbladder liver stomach aorta inferior_vena_cava portal_vein_and_splenic_vein
pancreas adrenal_gland_right adrenal_gland_left lung_upper_lobe_left lung_lower_lobe_left lung_upper_lobe_right
lung_middle_lobe_right lung_lower_lobe_right vertebrae_L5 vertebrae_L4 vertebrae_L3 vertebrae_L2 vertebrae_L1
vertebrae_T12 vertebrae_T11 vertebrae_T10 vertebrae_T9 vertebrae_T8 vertebrae_T7 vertebrae_T6 vertebrae_T5
vertebrae_T4 vertebrae_T3 vertebrae_T2 vertebrae_T1 vertebrae_C7 vertebrae_C6 vertebrae_C5 vertebrae_C4 vertebrae_C3
vertebrae_C2 vertebrae_C1 esophagus trachea heart_myocardium heart_atrium_left heart_ventricle_left heart_atrium_right
heart_ventricle_right pulmonary_artery brain iliac_artery_left iliac_artery_right iliac_vena_left iliac_vena_right
small_bowel duodenum colon rib_left_1 rib_left_2 rib_left_3 rib_left_4 rib_left_5 rib_left_6 rib_left_7 rib_left_8
rib_left_9 rib_left_10 rib_left_11 rib_left_12 rib_right_1 rib_right_2 rib_right_3 rib_right_4 rib_right_5 rib_right_6
rib_right_7 rib_right_8 rib_right_9 rib_right_10 rib_right_11 rib_right_12 humerus_left humerus_right scapula_left
scapula_right clavicula_left clavicula_right femur_left femur_right hip_left hip_right sacrum face
gluteus_maximus_left gluteus_maximus_right gluteus_medius_left gluteus_medius_right gluteus_minimus_left
gluteus_minimus_right autochthon_left autochthon_right iliopsoas_left iliopsoas_right urinary_bladder
""")
CT_2 = _names("""
spleen kidney_right kidney_left gallbladder liver stomach pancreas adrenal_gland_right adrenal_gland_left
lung_upper_lobe_left lung_lower_lobe_left lung_upper_lobe_right lung_middle_lobe_right lung_lower_lobe_right esophagus
trachea thyroid_gland small_bowel duodenum colon urinary_bladder prostate kidney_cyst_left kidney_cyst_right sacrum
vertebrae_S1 vertebrae_L5 vertebrae_L4 vertebrae_L3 vertebrae_L2 vertebrae_L1 vertebrae_T12 vertebrae_T11
vertebrae_T10 vertebrae_T9 vertebrae_T8 vertebrae_T7 vertebrae_T6 vertebrae_T5 vertebrae_T4 vertebrae_T3 vertebrae_T2
vertebrae_T1 vertebrae_C7 vertebrae_C6 vertebrae_C5 vertebrae_C4 vertebrae_C3 vertebrae_C2 vertebrae_C1 heart aorta
pulmonary_vein brachiocephalic_trunk subclavian_artery_right subclavian_artery_left common_carotid_artery_right
common_carotid_artery_left brachiocephalic_vein_left brachiocephalic_vein_right atrial_appendage_left
superior_vena_cava inferior_vena_cava portal_vein_and_splenic_vein iliac_artery_left iliac_artery_right
iliac_vena_left iliac_vena_right humerus_left humerus_right scapula_left scapula_right clavicula_left clavicula_right
femur_left femur_right hip_left hip_right spinal_cord gluteus_maximus_left gluteus_maximus_right gluteus_medius_left
gluteus_medius_right gluteus_minimus_left gluteus_minimus_right autochthon_left autochthon_right iliopsoas_left
iliopsoas_right brain skull rib_left_1 rib_left_2 rib_left_3 rib_left_4 rib_left_5 rib_left_6 rib_left_7 rib_left_8
rib_left_9 rib_left_10 rib_left_11 rib_left_12 rib_right_1 rib_right_2 rib_right_3 rib_right_4 rib_right_5 rib_right_6
rib_right_7 rib_right_8 rib_right_9 rib_right_10 rib_right_11 rib_right_12 sternum costal_cartilages
""")
MR = _names("""
spleen kidney_right kidney_left gallbladder liver stomach pancreas adrenal_gland_right adrenal_gland_left lung_left
lung_right esophagus small_bowel duodenum colon urinary_bladder prostate sacrum vertebrae intervertebral_discs
spinal_cord heart aorta inferior_vena_cava portal_vein_and_splenic_vein iliac_artery_left iliac_artery_right
iliac_vena_left iliac_vena_right humerus_left humerus_right scapula_left scapula_right clavicula_left clavicula_right
femur_left femur_right hip_left hip_right gluteus_maximus_left gluteus_maximus_right gluteus_medius_left
gluteus_medius_right gluteus_minimus_left gluteus_minimus_right autochthon_left autochthon_right iliopsoas_left
iliopsoas_right brain
""")
EMPTY_MR = _names("""
s0026 s0048 s0057 s0069 s0077 s0078 s0084 s0086 s0091 s0094 s0097 s0098 s0101 s0102 s0109 s0111 s0116 s0122 s0134
s0136 s0140 s0141 s0150 s0152 s0165 s0196 s0330 s0374 s0376 s0405 s0431 s0438 s0449 s0454 s0458 s0461 s0480 s0482
s0486 s0507 s0510 s0513 s0522 s0523 s0524 s0548 s0553 s0580 s0604 s0605
""")


# of the first upload of v2, release 2.0.0: https://github.com/wasserth/TotalSegmentator/issues/193
EMPTY_IN_200 = ("s0045", "s0248")
WRONG_IN_200 = ("s0184", "s0224", "s0830", "s0864", "s0992")
FOLDER_OF_201 = "Totalsegmentator_dataset_v201"


def cases(
    root: Path,
    image: str,
    structures: list[str],
    left_out: Mapping[str, str],
    doubts: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Case | LeftOut]:
    """All subjects; meta.csv says which are for validation and which for testing.

    Args:
        root: Top folder of the download.
        image: File name of the images.
        structures: All structures of the table. Those of which no subject has a mask get no files, but are said to be
            annotated, so that the engine refuses them in one sentence, where they are chosen.
        left_out: Subjects to leave out, and why.
        doubts: Subjects to what conversion.json shall say of them.
    """
    splits: dict[str, Any] = {
        row["image_id"]: row["split"] for row in read_table(root / "meta.csv", ("image_id", "split"))
    }
    folders = find(root, "{id}/segmentations", id="s[0-9]+")
    present = _structures_in(folder.path for folder in folders)
    unread = sorted(present - set(structures))
    note = f"masks of other releases are not read: {', '.join(unread)}" if unread else ""
    for folder in folders:
        subject = folder["id"]
        if subject in left_out:
            part: Literal["train", "test"] = "test" if splits.get(subject) == "test" else "train"
            yield LeftOut(subject, left_out[subject], part)
            continue
        # an empty mask says that the structure is not in the image
        masks = Masks({name: folder.path / f"{name}.nii.gz" for name in structures if name in present})
        yield Case(
            subject,
            image=root / subject / image,
            label=masks,
            split=splits.get(subject, "not in meta.csv"),
            annotated=tuple(structures),
            note="; ".join(text for text in (doubts.get(subject), note) if text),
        )


def second_cases(root: Path) -> Iterator[Case | LeftOut]:
    """The subjects of v2. Where it is the first upload, release 2.0.0, those that are wrong in it are left out."""
    there = [root / subject for subject in EMPTY_IN_200 if (root / subject).is_dir()]
    left_out, doubts = {}, {}
    if any(_is_empty(subject) for subject in there):
        left_out = dict.fromkeys(EMPTY_IN_200, "it is empty in release 2.0.0, which this is; download 2.0.1")
        wrong = "its intensities are wrong in release 2.0.0, which this is; download 2.0.1"
        left_out |= dict.fromkeys(WRONG_IN_200, wrong)
    elif not there and root.name != FOLDER_OF_201:
        doubt = (
            f"its intensities are wrong in release 2.0.0; without {' and '.join(EMPTY_IN_200)} the release is not known"
        )
        doubts = dict.fromkeys(WRONG_IN_200, doubt)
    yield from cases(root, "ct.nii.gz", CT_2, left_out, doubts)


def _structures_in(folders: Iterable[Path]) -> set[str]:
    """Structures of which any of the folders has a mask."""
    names = {file.name for folder in folders if folder.is_dir() for file in folder.iterdir()}
    return {name.removesuffix(".nii.gz") for name in names if name.endswith(".nii.gz") and not name.startswith(".")}


def _is_empty(subject: Path) -> bool:
    """Whether the image has one intensity only, or no mask has a voxel.

    A file that is damaged or missing proves nothing, and the engine names it.
    """
    from nnunet_partial.volumes import read_volume  # slow to import, which a list of all datasets need not wait for

    try:
        image, _ = read_volume(subject / "ct.nii.gz")
        masks = sorted((subject / "segmentations").glob("[!.]*.nii.gz"))
        return bool((image == image.flat[0]).all()) or (
            bool(masks) and not any(read_volume(mask)[0].any() for mask in masks)
        )
    except VolumeError:
        return False


def _release(
    name: str,
    number: int,
    image: str,
    labels: list[str],
    left_out: Mapping[str, str] = MappingProxyType({}),
    *,
    notes: tuple[str, ...],
    **table: Any,
) -> Converter:
    return Converter(
        name=name,
        dataset_id=number,
        labels=labels,
        layout=(f"{{id}}/{image}", "{id}/segmentations/{structure}.nii.gz", "meta.csv"),
        notes=(
            *notes,
            "what a release lacks is an error: choose with --labels what it has; masks of other structures are not "
            "read, which conversion.json notes",
        ),
        **{"cases": partial(cases, image=image, structures=labels, left_out=left_out), **table},
    )


_CT: dict[str, Any] = {
    "modality": "CT",
    "licence": "CC BY 4.0",
    "citation": "Wasserthal et al., TotalSegmentator, Radiology: Artificial Intelligence 5 (2023)",
}
_NOISE = (
    "subjects s0092, s0201, s0513 and s0605 are reported to have bad labels; some colons and small bowels are swapped"
)

CONVERTERS = (
    _release(
        "TotalSegmentator_v1",
        341,
        "ct.nii.gz",
        CT_1,
        {"s0864": "its image is damaged in the published archive"},
        url="https://zenodo.org/records/6802614",
        top=("Totalsegmentator_dataset",),
        expected={"train": 1139, "test": 65},
        notes=(
            _NOISE,
            "the subjects of TotalSegmentator_v2, with other structures",
            "kidneys may include cysts, which have labels of their own in TotalSegmentator_v2 only",
        ),
        **_CT,
    ),
    _release(
        "TotalSegmentator_v2",
        342,
        "ct.nii.gz",
        CT_2,
        cases=second_cases,
        structures={  # cysts have a label of their own
            "kidney_left": ("kidney_left_tissue", "kidney_left_tumor"),
            "kidney_right": ("kidney_right_tissue", "kidney_right_tumor"),
        },
        url="https://zenodo.org/records/10047292",
        top=(FOLDER_OF_201,),
        expected={"train": 1139, "test": 89},
        notes=(
            _NOISE,
            f"use release 2.0.1: in 2.0.0 {', '.join(WRONG_IN_200)} have wrong intensities, and "
            f"{' and '.join(EMPTY_IN_200)} are empty, by which it is known; all of them are left out then. Where these "
            f"two and the folder {FOLDER_OF_201} are not there, the release is not known, which conversion.json notes "
            "at the others",
            "cysts of kidneys have labels of their own and are taken for no part of the kidneys, unlike in "
            "TotalSegmentator_v1 and other datasets; some masks overlap, and voxels of both get a value of their own",
        ),
        **_CT,
    ),
    _release(
        "TotalSegmentator_MRI",
        343,
        "mri.nii.gz",
        MR,
        dict.fromkeys(EMPTY_MR, "all of its masks are empty, and it is not settled whether on purpose"),
        modality="MR",
        licence="CC BY-NC-SA 2.0 (by re-hosts)",
        citation="D'Antonoli et al., TotalSegmentator MRI, Radiology (2025)",
        url="https://zenodo.org/records/14710732",
        expected={"train": 561, "test": 55},
        notes=("the structures and subjects of release 2.0.0; release 1.0.0 has 298, and may have other masks",),
    ),
)
