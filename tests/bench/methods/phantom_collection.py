"""The collection of hard phantoms: eight partly labelled sources of unequal size, and one without labels."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from nnunet_partial.phantoms.hard import HARD_ATOMS, TISSUES, HardPhantom, make_hard_phantom
from tests.bench.methods.collection import Case, Collection, Protocol, label_model, normalised
from tests.bench.methods.presets import Preset

__all__ = ["CLASSES", "HELD_OUT", "SOURCES", "describe", "phantom_collection"]

CLASSES: dict[str, tuple[str, ...]] = {
    "liver": ("liver_tissue", "liver_tumour"),
    **{name: (name,) for name in HARD_ATOMS[2:]},
}

SOURCES: dict[str, tuple[Protocol, int]] = {
    "tumours": (Protocol("CT", {"liver": ("liver_tissue",), "tumour": ("liver_tumour",)}), 16),
    "spleens": (Protocol("CT", {"spleen": ("spleen",)}), 16),
    "kidneys": (Protocol("CT", {"kidney": ("kidney_left", "kidney_right")}), 12),
    "organs": (
        Protocol(
            "CT",
            {
                "liver": ("liver_tissue", "liver_tumour"),
                "spleen": ("spleen",),
                "left": ("kidney_left",),
                "right": ("kidney_right",),
            },
        ),
        6,
    ),
    "pancreases": (Protocol("CT", {"pancreas": ("pancreas",)}, every_slice=2), 16),
    "adrenals": (Protocol("CT", {"adrenal": ("adrenal",)}), 12),
    "resonance": (
        Protocol(
            "MR",
            {
                "liver": ("liver_tissue", "liver_tumour"),
                "spleen": ("spleen",),
                "left": ("kidney_left",),
                "right": ("kidney_right",),
            },
        ),
        12,
    ),
    "glands": (
        Protocol("MR", {"tumour": ("liver_tumour",), "pancreas": ("pancreas",), "adrenal": ("adrenal",)}),
        12,
    ),
    "scans": (Protocol("CT", {}), 12),
}
"""Source to what it annotates and to its number of cases."""

HELD_OUT = {"CT": 6, "MR": 2}
_PROBES_PER_SOURCE = 1
_EVERYTHING = {atom: (atom,) for atom in HARD_ATOMS[1:]}


def describe() -> str:
    """What the collection is made of: results of another make cannot be compared."""
    return repr((SOURCES, HELD_OUT, _PROBES_PER_SOURCE, TISSUES))


@lru_cache(maxsize=256)
def _phantom(patient: int, modality: str, preset: Preset) -> HardPhantom:
    spacing_mm = (preset.voxel_mm,) * 3
    return make_hard_phantom(patient, shape=preset.shape, spacing_mm=spacing_mm, modality=modality)


def _case(name: str, patient: int, protocol: Protocol, preset: Preset) -> Case:
    phantom = _phantom(patient, protocol.modality, preset)
    return Case(
        name,
        normalised(phantom.image, phantom.modality)[None],
        protocol.annotate(phantom.atoms, HARD_ATOMS),
        phantom.atoms.astype(np.int16),
        tuple(CLASSES),
        phantom.spacing_mm,
    )


def phantom_collection(seed: int, preset: Preset) -> Collection:
    """The phantoms as one seed deals them out: the same patients, in other sources.

    Args:
        seed: Of the split.
        preset: Sizes.
    """
    wanted = [(source, protocol) for source, (protocol, number) in SOURCES.items() for _ in range(number)]
    everyone = {f"test_{m}": Protocol(m, _EVERYTHING) for m in HELD_OUT}
    tests = [(f"test_{m}", everyone[f"test_{m}"]) for m, number in HELD_OUT.items() for _ in range(number)]
    patients = np.random.default_rng((seed, 7)).permutation(len(wanted) + len(tests))
    cases: list[tuple[str, Case]] = []
    for position, ((source, protocol), patient) in enumerate(zip([*wanted, *tests], patients, strict=True)):
        cases.append((source, _case(f"{source}_{position:02d}", int(patient), protocol, preset)))
    training, held_out = cases[: len(wanted)], cases[len(wanted) :]
    full = {source: Protocol(protocol.modality, _EVERYTHING) for source, (protocol, _) in SOURCES.items()}
    partial = {source: protocol for source, (protocol, _) in SOURCES.items()}
    probes = [case for s in SOURCES for case in [case for source, case in training if source == s][:_PROBES_PER_SOURCE]]
    return Collection(
        name="phantoms",
        labels=label_model(HARD_ATOMS, CLASSES, partial, {case.name: source for source, case in training}),
        full=label_model(HARD_ATOMS, CLASSES, {**full, **everyone}, {case.name: source for source, case in cases}),
        training=tuple(case for _, case in training),
        held_out=tuple(case for _, case in held_out),
        probes=tuple(probes),
        patch=preset.patch,
    )
