"""AbdomenCT-1K: liver, kidneys, spleen and pancreas, tumours included, in 1000 CT scans of other datasets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nnunet_partial.conversion import Case, Converter, LabelMap, LeftOut, either, find, ids, spacing_of

IMAGE = "AbdomenCT-1K-ImagePart{part}/Case_{id}_0000.nii.gz"
LABELS = ("Mask/Case_{id}.nii.gz", "Masks/Case_{id}.nii.gz")
CASES_OF_A_PART = 400
# fmt: off
UNLABELLED = frozenset((
    10, 13, 16, 27, 28, 32, 33, 38, 43, 58, 218, 224, 228, 236, 241, 246, 274, 404, 408, 415, 416, 422, 424, 429,
    439, 444, 447, 456, 528, 534, 552, 553, 565, 588, 669, 676, 688, 691, 694, 698, 701, 703, 705, 707, 711, 725,
    730, 731, 733, 737, 745, 748, 750, 754, 755, 758, 760, 763, 781, 782, 925, 955,
))
# fmt: on
SAME_SCAN = {928: 297}
LEFT_OUT_BY_SAT_DS = frozenset((*range(47, 52), 452, 454, 455, *range(458, 462)))


def cases(root: Path) -> Iterator[Case | LeftOut]:
    """Labelled cases, and those of which no labels were published; not those whose header lost its voxel size."""
    pattern = either(root, *LABELS, id="[0-9]{5}")
    images = {found["id"]: found.path for found in find(root, IMAGE, part="[1-3]", id="[0-9]{5}")}
    labelled = set(ids(root, pattern, id="[0-9]{5}"))
    for digits in sorted(labelled | set(images)):
        number = int(digits)
        part = min(3, 1 + (number - 1) // CASES_OF_A_PART)
        image = images.get(digits, root / IMAGE.format(part=part, id=digits))
        spacing = spacing_of(image)
        if spacing is not None and all(abs(size - 1) < 1e-3 for size in spacing):
            reason = "its header says 1 x 1 x 1 mm, as one does that was lost; MSD_Liver has mended ones of LiTS"
            yield LeftOut(f"Case_{digits}", reason)
            continue
        unlabelled = number in UNLABELLED and digits not in labelled
        yield Case(
            f"Case_{digits}",
            image=image,
            label=None if unlabelled else LabelMap(root / pattern.format(id=digits)),
            patient=f"AbdomenCT-1K_{SAME_SCAN.get(number, number):05d}",
            note="SAT-DS leaves it out; why was not found" if number in LEFT_OUT_BY_SAT_DS else "",
        )


CONVERTER = Converter(
    name="AbdomenCT-1K",
    dataset_id=366,
    modality="CT",
    labels=["liver", "kidneys", "spleen", "pancreas"],
    cases=cases,
    layout=(IMAGE, *LABELS),
    licence="CC BY 4.0 (by AbdomenAtlas), though parts come from KiTS (NC) and LiTS (NC-ND)",
    citation="Ma et al., AbdomenCT-1K: Is Abdominal Organ Segmentation a Solved Problem?, IEEE TPAMI 44 (2022)",
    url="https://github.com/JunMa11/AbdomenCT-1K",
    expected={"train": 1000, "unlabelled": 62},
    notes=(
        "left and right kidney have the same label; tumours belong to their organ",
        "holds the scans of LiTS (MSD_Liver), KiTS19, MSD_Spleen, NIH_Pancreas-CT and some of MSD_Pancreas, and is "
        "part of FLARE21, FLARE22, FLARE23 and AbdomenAtlas; which case is which is not published: never test on "
        "these what was trained on it, or the other way round",
        "Case_00297 and Case_00928 are the same scan; they get the same patient",
        "scans whose header says 1 x 1 x 1 mm are left out: their voxels have another, unknown size; it is reported of "
        "20 cases from LiTS, of which MSD_Liver has the scans with mended headers",
        "SAT-DS, a collection of many datasets, also leaves out the cases 47-51, 452, 454, 455 and 458-461; why was "
        "not found, so they are converted: look at them, conversion.json has a note at each",
        "the 773 tumour labels published beside it are predictions, and are not read",
    ),
)
