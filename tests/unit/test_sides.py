"""Left and right."""

from __future__ import annotations

import pytest

from nnunet_partial.errors import LabelError
from nnunet_partial.labels import AnnotationSet, LabelSpace, PartialLabels, Sides, preprocessed_axes
from nnunet_partial.labels.sides import sided_names


@pytest.mark.parametrize(
    "name",
    ["kidney_left", "Right lung", "lung R", "l_kidney", "btcv.kidney_right", "RightLung", "kidneyLeft", "left-kidney"],
)
def test_names_with_a_side(name: str) -> None:
    assert sided_names([name]) == (name,)


@pytest.mark.parametrize("name", ["liver", "spleen", "vertebra_L1", "bright", "cleft", "colon", "rib_r1", "RV"])
def test_names_without_a_side(name: str) -> None:
    assert sided_names([name]) == ()


@pytest.mark.parametrize(
    ("raw_axes", "transpose_forward", "dimensions", "expected"),
    [
        ((2,), (0, 1, 2), 3, (2,)),
        ((2,), (2, 0, 1), 3, (0,)),
        ((1, 2), (1, 0, 2), 3, (0, 2)),
        ((2,), (0, 1, 2), 2, (1,)),
        ((2,), (2, 0, 1), 2, ()),
        ((), (0, 1, 2), 3, ()),
    ],
)
def test_axes_of_a_patch(raw_axes: tuple, transpose_forward: tuple, dimensions: int, expected: tuple) -> None:
    assert preprocessed_axes(raw_axes, transpose_forward, dimensions) == expected


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        (Sides(("kidney",), (2,)), r"sides: \['kidney'\] are no classes; classes are \['liver'\]"),
        (Sides(("liver",), (3,)), r"image axes are 0, 1 or 2 \(z, y, x\), found \[3\]"),
    ],
)
def test_sides_must_fit_the_classes_and_the_image(sides: Sides, message: str) -> None:
    space = LabelSpace({"anatomy": ("background", "liver")}, {"liver": frozenset({"liver"})})
    sets = {"a": AnnotationSet("a", "a", "CT", {0: space.everything})}
    with pytest.raises(LabelError, match=message):
        PartialLabels(space, sets, {"case": "a"}, sides=sides)
