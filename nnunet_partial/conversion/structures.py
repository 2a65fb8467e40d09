"""A common vocabulary: of which tissues the structures consist that public datasets label in different ways.

Label names of converters are those of TotalSegmentator where it has the structure, and are looked up here. A name that
is not listed is a tissue of its own. So 'kidneys' is known to be one of two kidneys, and a 'liver' without further
labels to hold whatever tumours it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from nnunet_partial.errors import LabelError

__all__ = ["PAIRED_ORGANS", "STRUCTURES", "PairedOrgan", "tissues"]

_LOBES_LEFT = ("lung_upper_lobe_left", "lung_lower_lobe_left")
_LOBES_RIGHT = ("lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right")
_LOBES = _LOBES_LEFT + _LOBES_RIGHT

_WITH_TUMORS = (
    "spleen",
    "gallbladder",
    "esophagus",
    "stomach",
    "duodenum",
    "adrenal_gland_left",
    "adrenal_gland_right",
)

STRUCTURES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "liver": ("liver_tissue", "liver_tumor"),
        "liver_tissue": ("liver_parenchyma", "hepatic_vessel"),
        "pancreas": ("pancreas_tissue", "pancreas_tumor"),
        "colon": ("colon_tissue", "colon_tumor"),
        "kidney_left": ("kidney_left_tissue", "kidney_left_tumor", "kidney_cyst_left"),
        "kidney_right": ("kidney_right_tissue", "kidney_right_tumor", "kidney_cyst_right"),
        "kidneys": ("kidney_left", "kidney_right"),
        "kidney_tissue": ("kidney_left_tissue", "kidney_right_tissue"),
        "kidney_tumor": ("kidney_left_tumor", "kidney_right_tumor"),
        "kidney_cyst": ("kidney_cyst_left", "kidney_cyst_right"),
        "kidney_mass": ("kidney_tumor", "kidney_cyst"),
        "kidney_left_mass": ("kidney_left_tumor", "kidney_cyst_left"),
        "kidney_right_mass": ("kidney_right_tumor", "kidney_cyst_right"),
        **{organ: (f"{organ}_tissue", f"{organ}_tumor") for organ in _WITH_TUMORS},
        "adrenal_glands": ("adrenal_gland_left", "adrenal_gland_right"),
        **{lobe: (f"{lobe}_tissue", f"{lobe}_tumor") for lobe in _LOBES},
        "lung_left": _LOBES_LEFT,
        "lung_right": _LOBES_RIGHT,
        "lungs": ("lung_left", "lung_right"),
        "lung_tumor": tuple(f"{lobe}_tumor" for lobe in _LOBES),
        "lung_left_tumor": tuple(f"{lobe}_tumor" for lobe in _LOBES_LEFT),
        "lung_right_tumor": tuple(f"{lobe}_tumor" for lobe in _LOBES_RIGHT),
        "prostate_or_uterus": ("prostate", "uterus"),
        # a tumour whose host organ the dataset does not say
        "tumor": (
            *("liver_tumor", "pancreas_tumor", "colon_tumor", "kidney_tumor", "lung_tumor"),
            *(f"{organ}_tumor" for organ in _WITH_TUMORS),
            "tumor_elsewhere",
        ),
    }
)


@dataclass(frozen=True)
class PairedOrgan:
    """An organ with a left and a right one, and the structures that do not say which.

    Attributes:
        name: Its name.
        whole: Structures that are the organ, or most of it, to the left and the right one.
        lesions: Structures that lie in it or at it, to the left and the right one.
    """

    name: str
    whole: Mapping[str, tuple[str, str]]
    lesions: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def structures(self) -> dict[str, tuple[str, str]]:
        """All structures that do not say the side, to the left and the right one."""
        return {**self.whole, **self.lesions}


PAIRED_ORGANS = (
    PairedOrgan(
        "kidneys",
        {
            "kidneys": ("kidney_left", "kidney_right"),
            "kidney_tissue": ("kidney_left_tissue", "kidney_right_tissue"),
        },
        {
            "kidney_mass": ("kidney_left_mass", "kidney_right_mass"),
            "kidney_tumor": ("kidney_left_tumor", "kidney_right_tumor"),
            "kidney_cyst": ("kidney_cyst_left", "kidney_cyst_right"),
        },
    ),
    PairedOrgan("adrenal_glands", {"adrenal_glands": ("adrenal_gland_left", "adrenal_gland_right")}),
    PairedOrgan(
        "lungs",
        {"lungs": ("lung_left", "lung_right")},
        {"lung_tumor": ("lung_left_tumor", "lung_right_tumor")},
    ),
)


def tissues(name: str, structures: Mapping[str, tuple[str, ...]] = STRUCTURES) -> tuple[str, ...]:
    """The tissues that a structure consists of; itself where it has no parts.

    Args:
        name: Name of the structure.
        structures: Structure to its parts, which may be structures again.

    Raises:
        LabelError: A structure is part of itself.
    """
    found: dict[str, None] = {}

    def add(part: str, inside: tuple[str, ...]) -> None:
        if part in inside:
            raise LabelError(f"structure '{part}' is part of itself: {' > '.join((*inside, part))}")
        for smaller in structures.get(part, ()):
            add(smaller, (*inside, part))
        if part not in structures:
            found[part] = None

    add(name, ())
    return tuple(found)
