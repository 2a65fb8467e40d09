"""Atoms, axes and classes, and their order."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_partial.errors import LabelError
from nnunet_partial.labels import LabelSpace
from nnunet_partial.labels.space import axis_background, supersets_first

ATOMS = {"anatomy": ("background", "liver_tissue", "liver_tumour", "spleen")}
LIVER = frozenset({"liver_tissue", "liver_tumour"})
TUMOUR = frozenset({"liver_tumour"})


def test_matrices_of_two_axes() -> None:
    space = LabelSpace(
        {"anatomy": ("background", "liver", "spleen"), "btcv": ("btcv.background", "btcv.liver")},
        {"liver": frozenset({"liver"}), "btcv.liver": frozenset({"btcv.liver"})},
    )
    assert space.atoms == ("background", "liver", "spleen", "btcv.background", "btcv.liver")
    assert space.class_axis == {"liver": "anatomy", "btcv.liver": "btcv"}
    assert space.background_of("btcv") == "btcv.background"
    np.testing.assert_array_equal(space.class_matrix, [[0, 1, 0, 0, 0], [0, 0, 0, 0, 1]])
    np.testing.assert_array_equal(space.axis_matrix, [[1, 1, 1, 0, 0], [0, 0, 0, 1, 1]])


def test_background_is_named_after_its_axis() -> None:
    assert (axis_background("anatomy"), axis_background("btcv")) == ("background", "btcv.background")


def test_supersets_come_first_and_the_rest_keeps_its_order() -> None:
    classes = {"tumour": TUMOUR, "spleen": frozenset({"spleen"}), "liver": LIVER, "all": LIVER | {"spleen"}}
    assert list(supersets_first(classes)) == ["all", "spleen", "liver", "tumour"]


@pytest.mark.parametrize("seed", range(20))
def test_supersets_first_on_random_classes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = {f"c{i}": frozenset(np.flatnonzero(rng.random(5) < 0.5).astype(str)) for i in range(8)}
    ordered = list(supersets_first(classes))
    assert sorted(ordered) == sorted(classes)
    assert not any(classes[first] < classes[later] for i, first in enumerate(ordered) for later in ordered[i + 1 :])


@pytest.mark.parametrize(
    ("axes", "classes", "message"),
    [
        ({"anatomy": ()}, {}, "axis 'anatomy' has no atoms"),
        ({"a": ("x",), "b": ("y", "x")}, {}, "atom 'x' stands on axis 'a' and again on 'b'"),
        (ATOMS, {"liver": frozenset()}, "class 'liver' has no atoms"),
        (ATOMS, {"liver": frozenset({"lever"})}, r"class 'liver' names unknown atoms \['lever'\]; known are"),
        (ATOMS, {"body": frozenset({"background"})}, "class 'body' contains the background of axis 'anatomy'"),
        (ATOMS, {"ignore": frozenset({"spleen"})}, "cannot be called 'ignore'"),
        (ATOMS, {"background": frozenset({"spleen"})}, "cannot be called 'background'"),
        (ATOMS, {"liver": LIVER, "hepar": LIVER}, "classes 'liver' and 'hepar' cannot be told apart"),
        (ATOMS, {"tumour": TUMOUR, "liver": LIVER}, "class 'liver' contains 'tumour' and must stand before it"),
        (
            {"a": ("x.bg", "x"), "b": ("y.bg", "y")},
            {"both": frozenset({"x", "y"})},
            r"class 'both' mixes atoms of the axes \['a', 'b'\]",
        ),
    ],
)
def test_contradictions_are_named(axes: dict, classes: dict, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        LabelSpace(axes, classes)
