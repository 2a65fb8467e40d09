"""NIH Pancreas-CT: the pancreas in 80 portal-venous CT scans, DICOM with labels whose headers do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nnunet_partial.conversion import ALL_FLIPS, Case, Converter, Dicom, Intensity, LabelMap, LeftOut, Uniform, ids

IMAGE = "Pancreas-CT/PANCREAS_{id}"
LABEL = "TCIA_pancreas_labels-02-05-2017/label{id}.nii.gz"
WITHDRAWN = ("0025", "0070")


def cases(root: Path) -> Iterator[Case | LeftOut]:
    """All cases but the withdrawn ones, of which the labels may still be there."""
    for number in ids(root, IMAGE, LABEL, id="[0-9]{4}"):
        name = f"PANCREAS_{number}"
        if number in WITHDRAWN:
            yield LeftOut(name, "withdrawn by its authors")
            continue
        # published readers of this dataset disagree about which axes are turned, so the image decides
        label = LabelMap(root / LABEL.format(id=number), grid="image", flips=ALL_FLIPS)
        yield Case(name, image=Dicom(root / IMAGE.format(id=number)), label=label, patient=name)


CONVERTER = Converter(
    name="NIH_Pancreas-CT",
    dataset_id=368,
    modality="CT",
    labels=["pancreas"],
    absent=("pancreas_tumor",),
    cases=cases,
    layout=(f"{IMAGE}/{{study}}/{{series}}/{{slice}}.dcm", LABEL),
    # on a real scan 98% of the pancreas lie within 60 HU of their median, 82% with fat put into a fifth of it, and 78%
    # at most where labels are turned; up to 90% of those are soft tissue, so that share only bars fat and gas
    checks=(Intensity("pancreas", -60, 200, share=0.75), Uniform("pancreas", within=60, share=0.82)),
    licence="CC BY 3.0",
    citation="Roth et al., Data From Pancreas-CT, The Cancer Imaging Archive (2016)",
    url="https://www.cancerimagingarchive.net/collection/pancreas-ct/",
    expected={"train": 80},
    notes=(
        "label files are turned against their images: of all ways to turn them, the one is taken in which the "
        "pancreas has intensities of soft tissue, and about the same everywhere; where none or two fit, the case is "
        "refused; 'placement' in conversion.json says which: look at cases that differ from most others",
        "label files of 0007, 0027, 0032 and 0045 are reported to differ from their images in shape; if they do, "
        "leave them out with --exclude",
        "the patients have no lesions of the pancreas",
        "AbdomenCT-1K, PANORAMA and AbdomenAtlas hold all of these scans, BTCV_Gibson labels 43 of them; patients have "
        "the same names in BTCV_Gibson",
    ),
)
