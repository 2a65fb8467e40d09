"""The collection of frames: six subsets of laparoscopic frames, each of which annotates one structure.

As in the Dresden Surgical Anatomy Dataset (Carstens et al. 2023), from which Jenke et al. 2024 took theirs: the subsets
share the surgeries, each looks at its own structure, and frames show other structures that nobody annotated. Held-out
frames are of other surgeries, look at all six alike, and are labelled completely.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tests.bench.methods.collection import Case, Collection, Protocol, label_model, normalised
from tests.bench.methods.frames import Frame, make_frame
from tests.bench.methods.presets import Preset
from tests.bench.methods.surgeries import FRAME_ATOMS, TISSUES

__all__ = ["SURGERIES", "describe", "frame_collection"]

SURGERIES = {"training": 30, "held_out": 10}
_STRUCTURES = FRAME_ATOMS[1:]
_FRAMES = {"training": 2, "held_out": 1}
"""Frames of a structure in a surgery."""
_PROBES_PER_SOURCE = 10
# Dice of a sliver is noise, and that of an absent class is 0 or nothing
_SMALLEST_SCORED_SHARE = 0.03
_DRAWING = 1  # to be raised where frames are drawn in another way
_TEST = "test"
_EVERYTHING = Protocol("RGB", {name: (name,) for name in _STRUCTURES})


def describe() -> str:
    """What the collection is made of: results of another make cannot be compared."""
    return repr((_DRAWING, SURGERIES, _FRAMES, _PROBES_PER_SOURCE, _SMALLEST_SCORED_SHARE, TISSUES))


@lru_cache(maxsize=1024)
def _frame(surgery: int, structure: str, number: int, shape: tuple[int, int]) -> Frame:
    return make_frame(surgery, structure, number, shape)


def _case(surgery: int, structure: str, number: int, protocol: Protocol, preset: Preset) -> Case:
    """A frame as a volume of one slice, as nnU-Net keeps 2D images."""
    _, rows, columns = preset.shape
    frame = _frame(surgery, structure, number, (rows, columns))
    atoms = frame.atoms[None]
    well_seen = np.bincount(atoms.ravel(), minlength=len(FRAME_ATOMS)) >= _SMALLEST_SCORED_SHARE * atoms.size
    return Case(
        f"surgery{surgery:02d}_{structure}_{number}",
        normalised(frame.image[:, None], protocol.modality),
        protocol.annotate(atoms, FRAME_ATOMS),
        atoms,
        tuple(name for name, seen in zip(_STRUCTURES, well_seen[1:], strict=True) if seen),
        (1.0, 1.0, 1.0),
        structure,
    )


def frame_collection(seed: int, preset: Preset) -> Collection:
    """The frames as one seed deals the surgeries out to training and test.

    Args:
        seed: Of the split.
        preset: Sizes.
    """
    protocols = {name: Protocol("RGB", {name: (name,)}) for name in _STRUCTURES}
    surgeries = np.random.default_rng((seed, 23)).permutation(sum(SURGERIES.values())).tolist()

    def frames(part: str, dealt: list[int], structure: str, protocol: Protocol) -> list[Case]:
        return [_case(s, structure, number, protocol, preset) for s in dealt for number in range(_FRAMES[part])]

    trained, tested = surgeries[: SURGERIES["training"]], surgeries[SURGERIES["training"] :]
    training = {name: frames("training", trained, name, protocol) for name, protocol in protocols.items()}
    held_out = [case for name in _STRUCTURES for case in frames("held_out", tested, name, _EVERYTHING)]
    sources = {case.name: source for source, cases in training.items() for case in cases}
    everyone = sources | {case.name: _TEST for case in held_out}
    classes = {name: (name,) for name in _STRUCTURES}
    return Collection(
        name="frames",
        labels=label_model(FRAME_ATOMS, classes, protocols, sources),
        full=label_model(FRAME_ATOMS, classes, dict.fromkeys([*_STRUCTURES, _TEST], _EVERYTHING), everyone),
        training=tuple(case for cases in training.values() for case in cases),
        held_out=tuple(held_out),
        probes=tuple(case for cases in training.values() for case in cases[:_PROBES_PER_SOURCE]),
        patch=preset.patch,
        size_unit="percent",
    )
