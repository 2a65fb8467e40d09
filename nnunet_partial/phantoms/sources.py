"""Writes phantoms as partly labelled nnU-Net raw datasets, one labelling protocol a dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from nnunet_partial.atomic import atomic_path, write_json
from nnunet_partial.errors import PartialError
from nnunet_partial.phantoms.trunk import ATOMS, make_phantom

if TYPE_CHECKING:
    from typing_extensions import Unpack

_FILE_ENDING = ".nii.gz"


class PhantomOptions(TypedDict, total=False):
    """Keyword arguments of `make_phantom`, all optional."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    tilt_degrees: float | None
    noise_hu: float
    tumours: int | None
    contrast: float


@dataclass(frozen=True)
class Protocol:
    """What a source labels, and under which names.

    Attributes:
        name: short name of the protocol.
        labels: label name to the atoms it covers, in the order of the label values 1, 2, ...; no atom twice.

    Raises:
        PartialError: An atom is unknown, is background, or stands under two labels; or a label covers none.
    """

    name: str
    labels: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for label, atoms in self.labels.items():
            if label == "background" or not atoms:
                raise PartialError(
                    f"protocol {self.name!r}, label {label!r}: expected a structure with at least one atom; "
                    "background is value 0 in every protocol, leave it out"
                )
            for atom in atoms:
                if atom not in ATOMS[1:]:
                    raise PartialError(
                        f"protocol {self.name!r}, label {label!r}: expected atoms out of "
                        f"{', '.join(ATOMS[1:])}, found {atom!r}"
                    )
                if atom in seen:
                    raise PartialError(
                        f"protocol {self.name!r}: atom {atom!r} stands under {seen[atom]!r} and {label!r}; "
                        "a voxel has one label, keep one of them"
                    )
                seen[atom] = label

    @property
    def values(self) -> dict[str, int]:
        """Label name to label value, background included, as in nnU-Net's dataset.json."""
        return {"background": 0, **{label: value for value, label in enumerate(self.labels, start=1)}}

    def annotate(self, atoms: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The label map that an annotator who follows this protocol draws.

        Args:
            atoms: index into `ATOMS`, any shape.

        Returns:
            Label values of that shape; 0 where the protocol has no label.
        """
        value_of_atom = np.zeros(len(ATOMS), dtype=np.uint8)
        for value, covered in enumerate(self.labels.values(), start=1):
            value_of_atom[[ATOMS.index(atom) for atom in covered]] = value
        return value_of_atom[atoms]


PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("liver", {"liver": ("liver_tissue",), "cancer": ("liver_tumour",)}),
        Protocol(
            "organs",
            {"spleen": ("spleen",), "liver": ("liver_tissue", "liver_tumour"), "pancreas": ("pancreas",)},
        ),
        Protocol(
            "kidneys_sided",
            {"kidney_left": ("kidney_left",), "kidney_right": ("kidney_right",), "aorta": ("aorta",)},
        ),
        Protocol("kidneys", {"kidney": ("kidney_left", "kidney_right")}),
        Protocol("aorta", {"aorta": ("aorta",)}),
        Protocol("unlabelled", {}),
        Protocol("everything", {atom: (atom,) for atom in ATOMS[1:]}),
    )
}


def case_id(seed: int) -> str:
    """Case identifier of the phantom with this seed."""
    return f"phantom_{seed:04d}"


def _write_nifti(target: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> None:
    image = nib.Nifti1Image(array, affine)
    # ITK reads the qform or the sform, depending on its version and the codes; nibabel prefers the sform.
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    with atomic_path(target) as temporary:
        nib.save(image, temporary)


def _description(protocol: Protocol, training_cases: int) -> dict[str, Any]:
    return {
        "channel_names": {"0": "CT"},
        "labels": protocol.values,
        "numTraining": training_cases,
        "file_ending": _FILE_ENDING,
        # the phantoms lie in two orientations, as scans of several sources do; this reader turns them alike
        "overwrite_image_reader_writer": "NibabelIOWithReorient",
    }


def _write_case(images: Path, labels: Path | None, seed: int, protocol: Protocol, options: PhantomOptions) -> None:
    phantom = make_phantom(seed, **options)
    _write_nifti(images / f"{case_id(seed)}_0000{_FILE_ENDING}", phantom.hu, phantom.affine)
    if labels is not None:
        _write_nifti(labels / f"{case_id(seed)}{_FILE_ENDING}", protocol.annotate(phantom.atoms), phantom.affine)


def _check_seeds(seeds: Sequence[int], folder: Path) -> None:
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise PartialError(f"{folder}: expected one or more different seeds of 0 or more, found {list(seeds)}")


def write_source(
    raw_folder: Path,
    dataset_id: int,
    protocol: Protocol,
    seeds: Sequence[int],
    *,
    name: str | None = None,
    **phantom_options: Unpack[PhantomOptions],
) -> Path:
    """Writes one partly labelled nnU-Net raw dataset of phantoms.

    Args:
        raw_folder: folder of raw datasets (nnUNet_raw); made where it is missing.
        dataset_id: 1 to 999.
        protocol: what is labelled. One without labels gives a dataset without labelsTr.
        seeds: one phantom a seed; no seed twice.
        name: name after the number; None takes "Phantom" and the protocol's name in camel case.
        phantom_options: arguments of `make_phantom`.

    Returns:
        The dataset's folder. Files of the same name in it are replaced, other files stay.

    Raises:
        PartialError: The number, the seeds or an option is out of range.
    """
    if not 1 <= dataset_id <= 999:
        raise PartialError(f"{raw_folder}: expected a dataset number from 1 to 999, found {dataset_id}")
    chosen = name if name is not None else "Phantom" + protocol.name.title().replace("_", "")
    folder = raw_folder / f"Dataset{dataset_id:03d}_{chosen}"
    _check_seeds(seeds, folder)
    labels = folder / "labelsTr" if protocol.labels else None
    for seed in seeds:
        _write_case(folder / "imagesTr", labels, seed, protocol, phantom_options)
    write_json(folder / "dataset.json", _description(protocol, len(seeds)))
    return folder


def write_test_cases(
    folder: Path, seeds: Sequence[int], protocol: Protocol, **phantom_options: Unpack[PhantomOptions]
) -> None:
    """Writes test images with their labels to `imagesTs` and `labelsTs`, and a dataset.json beside them.

    Args:
        folder: where to write; made where it is missing. A dataset.json that is already there is kept,
            provided it names the same labels.
        seeds: one phantom a seed; no seed twice, and none that a training set has.
        protocol: what the labels hold, at least one structure.
        phantom_options: arguments of `make_phantom`.

    Raises:
        PartialError: The protocol labels nothing, a seed or an option is out of range, or the folder already
            holds a dataset with other labels.
    """
    if not protocol.labels:
        raise PartialError(f"protocol {protocol.name!r}: expected at least one label for test cases, found none")
    _check_seeds(seeds, folder)
    description = folder / "dataset.json"
    if description.exists():
        found = json.loads(description.read_text(encoding="utf-8")).get("labels")
        if found != protocol.values:
            raise PartialError(
                f"{description}: expected the labels {protocol.values}, found {found}; choose another folder"
            )
    for seed in seeds:
        _write_case(folder / "imagesTs", folder / "labelsTs", seed, protocol, phantom_options)
    if not description.exists():
        write_json(description, _description(protocol, 0))
