"""What the sources of each collection of phantoms annotate: kinds of partial labels together, and one kind alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nnunet_partial.phantoms.hard import HARD_ATOMS
from tests.bench.methods.collection import Protocol

__all__ = ["EVERYTHING", "MIXES", "Mix"]

EVERYTHING: dict[str, tuple[str, ...]] = {atom: (atom,) for atom in HARD_ATOMS[1:]}
"""The labels of a protocol that annotates all structures."""


@dataclass(frozen=True)
class Mix:
    """A collection of phantoms.

    Attributes:
        about: One sentence for the report.
        sources: Source to what it annotates and to its number of training cases.
        held_out: Modality to the number of held-out cases.
    """

    about: str
    sources: Mapping[str, tuple[Protocol, int]]
    held_out: Mapping[str, int]


_LIVER = {"liver": ("liver_tissue", "liver_tumour")}
_TUMOUR = {"liver": ("liver_tissue",), "tumour": ("liver_tumour",)}
_SPLEEN = {"spleen": ("spleen",)}
_KIDNEYS = {"left": ("kidney_left",), "right": ("kidney_right",)}
_BOTH_KIDNEYS = {"kidney": ("kidney_left", "kidney_right")}
_PANCREAS = {"pancreas": ("pancreas",)}
_ADRENAL = {"adrenal": ("adrenal",)}
_HELD_OUT = {"CT": 8}


def _ct(number: int, *labels: Mapping[str, tuple[str, ...]], every_slice: int = 1) -> tuple[Protocol, int]:
    """A CT source that annotates some structures in a number of cases."""
    return Protocol("CT", {name: atoms for part in labels for name, atoms in part.items()}, every_slice), number


_SINGLE = {
    "livers": _ct(7, _LIVER),
    "tumours": _ct(7, {"tumour": ("liver_tumour",)}),
    "spleens": _ct(7, _SPLEEN),
    "left": _ct(7, {"left": ("kidney_left",)}),
    "right": _ct(7, {"right": ("kidney_right",)}),
    "pancreases": _ct(7, _PANCREAS),
    "adrenals": _ct(7, _ADRENAL),
}

MIXES: dict[str, Mix] = {
    "phantoms": Mix(
        "All kinds together: eight partly labelled sources of unequal size and one without labels, CT and MR.",
        {
            "tumours": _ct(16, _TUMOUR),
            "spleens": _ct(16, _SPLEEN),
            "kidneys": _ct(12, _BOTH_KIDNEYS),
            "organs": _ct(6, _LIVER, _SPLEEN, _KIDNEYS),
            "pancreases": _ct(16, _PANCREAS, every_slice=2),
            "adrenals": _ct(12, _ADRENAL),
            "resonance": (Protocol("MR", {**_LIVER, **_SPLEEN, **_KIDNEYS}), 12),
            "glands": (Protocol("MR", {"tumour": ("liver_tumour",), **_PANCREAS, **_ADRENAL}), 12),
            "scans": _ct(12),
        },
        {"CT": 6, "MR": 2},
    ),
    "single": Mix("Seven CT sources, each of which annotates one structure.", _SINGLE, _HELD_OUT),
    "several": Mix(
        "Three CT sources that annotate several structures each, most of them in two sources.",
        {
            "abdomens": _ct(16, _LIVER, _SPLEEN, _KIDNEYS),
            "cancers": _ct(16, _TUMOUR, _PANCREAS),
            "glands": _ct(16, _SPLEEN, _PANCREAS, _ADRENAL),
        },
        _HELD_OUT,
    ),
    "slices": Mix(
        "One CT source that annotates all structures, on every fourth axial slice.",
        {"sparse": _ct(48, EVERYTHING, every_slice=4)},
        _HELD_OUT,
    ),
    "merged": Mix(
        "Three of four CT cases have merged labels: liver with tumour, both kidneys, pancreas with adrenal glands.",
        {
            "coarse": _ct(36, _LIVER, _SPLEEN, _BOTH_KIDNEYS, {"glands": ("pancreas", "adrenal")}),
            "fine": _ct(12, EVERYTHING),
        },
        _HELD_OUT,
    ),
    "unlabelled": Mix(
        "Ten CT cases with all structures, 38 without labels.",
        {"complete": _ct(10, EVERYTHING), "scans": _ct(38)},
        _HELD_OUT,
    ),
}
"""Collection to its make; 'phantoms' mixes the kinds that the others have alone."""
