"""Collections of hard phantoms, each a mix of sources."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from nnunet_partial.phantoms.hard import HARD_ATOMS, TISSUES, HardPhantom, make_hard_phantom
from tests.bench.methods.collection import Case, Collection, Protocol, label_model, normalised
from tests.bench.methods.mixes import EVERYTHING, MIXES
from tests.bench.methods.presets import Preset

__all__ = ["CLASSES", "describe", "phantom_collection"]

CLASSES: dict[str, tuple[str, ...]] = {
    "liver": ("liver_tissue", "liver_tumour"),
    **{name: (name,) for name in HARD_ATOMS[2:]},
}

_PROBES_PER_SOURCE = 1


def describe(name: str) -> str:
    """What a collection is made of: results of another make cannot be compared.

    Args:
        name: One of MIXES.
    """
    mix = MIXES[name]
    return repr((mix.sources, mix.held_out, _PROBES_PER_SOURCE, TISSUES))


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


def phantom_collection(seed: int, preset: Preset, name: str = "phantoms") -> Collection:
    """The phantoms as one seed deals them out: the same patients, in other sources.

    Args:
        seed: Of the split.
        preset: Sizes.
        name: One of MIXES.
    """
    mix = MIXES[name]
    wanted = [(source, protocol) for source, (protocol, number) in mix.sources.items() for _ in range(number)]
    everyone = {f"test_{m}": Protocol(m, EVERYTHING) for m in mix.held_out}
    tests = [(f"test_{m}", everyone[f"test_{m}"]) for m, number in mix.held_out.items() for _ in range(number)]
    patients = np.random.default_rng((seed, 7)).permutation(len(wanted) + len(tests))
    cases: list[tuple[str, Case]] = []
    for position, ((source, protocol), patient) in enumerate(zip([*wanted, *tests], patients, strict=True)):
        cases.append((source, _case(f"{source}_{position:02d}", int(patient), protocol, preset)))
    training, held_out = cases[: len(wanted)], cases[len(wanted) :]
    full = {source: Protocol(protocol.modality, EVERYTHING) for source, (protocol, _) in mix.sources.items()}
    partial = {source: protocol for source, (protocol, _) in mix.sources.items()}
    by_source = [[case for source, case in training if source == wanted] for wanted in mix.sources]
    return Collection(
        name=name,
        labels=label_model(HARD_ATOMS, CLASSES, partial, {case.name: source for source, case in training}),
        full=label_model(HARD_ATOMS, CLASSES, {**full, **everyone}, {case.name: source for source, case in cases}),
        training=tuple(case for _, case in training),
        held_out=tuple(case for _, case in held_out),
        probes=tuple(case for own in by_source for case in own[:_PROBES_PER_SOURCE]),
        patch=preset.patch,
    )
