"""A common vocabulary: of which tissues the structures consist that public datasets label in different ways.

Label names of converters are those of TotalSegmentator where it has the structure, and are looked up here. A name that
is not listed is a tissue of its own. So 'kidneys' is known to be one of two kidneys, and a 'liver' without further
labels to hold whatever tumours it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from nnunet_partial.errors import LabelError

__all__ = ["STRUCTURES", "tissues"]

_LOBES_LEFT = ("lung_upper_lobe_left", "lung_lower_lobe_left")
_LOBES_RIGHT = ("lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right")
_LOBES = _LOBES_LEFT + _LOBES_RIGHT

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
        "adrenal_glands": ("adrenal_gland_left", "adrenal_gland_right"),
        **{lobe: (f"{lobe}_tissue", f"{lobe}_tumor") for lobe in _LOBES},
        "lung_left": _LOBES_LEFT,
        "lung_right": _LOBES_RIGHT,
        "lungs": ("lung_left", "lung_right"),
        "lung_tumor": tuple(f"{lobe}_tumor" for lobe in _LOBES),
        "prostate_or_uterus": ("prostate", "uterus"),
        # a tumour whose host organ the dataset does not say
        "tumor": ("liver_tumor", "pancreas_tumor", "colon_tumor", "kidney_tumor", "lung_tumor", "tumor_elsewhere"),
    }
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
