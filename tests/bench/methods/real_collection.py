"""The collection of real CT: one patient's scan in slabs with different protocols, and three further patients.

As in `tests.integration.real_ct`, each slab of the first patient keeps the labels of one protocol, a second patient has
the spleen only and two have no labels. A network is scored on the classes that were hidden in each slab: the same
patient, but organs in places it was never shown. That tells how well partial labels come together, and nothing about
other patients. The seed says which slab has which protocol.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_partial.evaluation import to_ras
from tests.bench.methods.collection import Case, Collection, Protocol, label_model, normalised
from tests.bench.methods.presets import Preset
from tests.integration.real_ct import FLARE_VALUES, PROTOCOLS, SLABS, real_data_folder

__all__ = ["describe", "missing_files", "real_collection"]

_ATOMS = ("background", *FLARE_VALUES)
_FILES = ("abdomen_a/ct.nii.gz", "abdomen_a/labels_flare13_reader1.nii.gz", "spleen_8/ct.nii.gz")
_EVERYTHING = Protocol("CT", {name: (name,) for name in FLARE_VALUES})
_SPLEEN = Protocol("CT", {"spleen": ("spleen",)})
_NOTHING = Protocol("CT", {})


def describe() -> str:
    """What the collection is made of: results of another make cannot be compared."""
    return repr((PROTOCOLS, FLARE_VALUES, SLABS))


def missing_files() -> list[Path]:
    """Files of the real volumes that are not there."""
    return [path for path in (real_data_folder() / name for name in _FILES) if not path.is_file()]


def _read(path: Path, millimetres: float, order: Literal[0, 1]) -> NDArray[np.float32]:
    """A volume with RAS+ axes and cubic voxels."""
    image = nib.load(path)
    volume, spacing_mm = to_ras(np.asarray(image.dataobj), image.affine)
    factors = [mm / millimetres for mm in spacing_mm]
    return np.asarray(ndimage.zoom(volume.astype(np.float32), factors, order=order, mode="nearest"), np.float32)


def _pad(case: Case, patch: tuple[int, int, int]) -> Case:
    """At least a patch in size: the image's rim is repeated, the labels there are -1."""
    widths = [(0, max(0, wanted - n)) for wanted, n in zip(patch, case.labels.shape, strict=True)]
    labels, truth = (np.pad(a, widths, constant_values=-1) for a in (case.labels, case.truth))
    image = np.pad(case.image, [(0, 0), *widths], mode="edge")
    return Case(case.name, image, labels, truth, case.scored, case.spacing_mm)


def _slabs(folder: Path, seed: int, preset: Preset) -> list[tuple[str, Case]]:
    image = normalised(_read(folder / "ct.nii.gz", preset.voxel_mm, 1), "CT")[None]
    values = _read(folder / "labels_flare13_reader1.nii.gz", preset.voxel_mm, 0).astype(int)
    truth = np.zeros(values.shape, np.int16)
    for index, name in enumerate(FLARE_VALUES, start=1):
        truth[values == FLARE_VALUES[name]] = index
    slices = np.flatnonzero(truth.any((0, 1)))
    edges = np.linspace(slices[0], slices[-1] + 1, SLABS + 1).round().astype(int)
    cases = []
    for slab, (first, last) in enumerate(pairwise(edges)):
        source = tuple(PROTOCOLS)[(slab + seed) % len(PROTOCOLS)]
        cut = truth[:, :, first:last]
        labels = Protocol("CT", PROTOCOLS[source]).annotate(cut, _ATOMS)
        shown = {atom for covered in PROTOCOLS[source].values() for atom in covered}
        hidden = tuple(name for name in FLARE_VALUES if name not in shown)
        spacing_mm = (preset.voxel_mm,) * 3
        cases.append((source, Case(f"slab_{slab}", image[..., first:last], labels, cut, hidden, spacing_mm)))
    return cases


def _others(folder: Path, preset: Preset) -> list[tuple[str, Case]]:
    spacing_mm = (preset.voxel_mm,) * 3
    image = normalised(_read(folder / "spleen_8" / "ct.nii.gz", preset.voxel_mm, 1), "CT")[None]
    spleen = _read(folder / "spleen_8" / "labels.nii.gz", preset.voxel_mm, 0).astype(np.int16)
    cases = [("spleen", Case("spleen_8", image, spleen, spleen, (), spacing_mm))]
    for path in sorted((folder / "crlm").glob("*_ct.nii.gz")):
        scan = normalised(_read(path, preset.voxel_mm, 1), "CT")[None]
        nothing = np.zeros(scan.shape[1:], np.int16)
        cases.append(("scans", Case(path.name.removesuffix("_ct.nii.gz"), scan, nothing, nothing, (), spacing_mm)))
    return cases


def real_collection(seed: int, preset: Preset) -> Collection:
    """The real volumes as one seed deals the protocols out.

    Args:
        seed: Of the protocols.
        preset: Sizes.
    """
    folder = real_data_folder()
    slabs = _slabs(folder / "abdomen_a", seed, preset)
    everything = [(source, _pad(case, preset.patch)) for source, case in [*slabs, *_others(folder, preset)]]
    classes = {name: (name,) for name in FLARE_VALUES}
    sources = {case.name: source for source, case in everything}
    used = {s: Protocol("CT", labels) for s, labels in PROTOCOLS.items()} | {"spleen": _SPLEEN, "scans": _NOTHING}
    # further patients have no more labels than they show
    full = {s: _EVERYTHING if s in PROTOCOLS else protocol for s, protocol in used.items()}
    cases = tuple(case for _, case in everything)
    scored = cases[: len(slabs)]
    return Collection(
        name="real",
        labels=label_model(_ATOMS, classes, used, sources),
        full=label_model(_ATOMS, classes, full, sources),
        training=cases,
        held_out=scored,
        probes=scored,
        patch=preset.patch,
    )
