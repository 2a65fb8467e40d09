"""Combining one model a class, against loops over voxels and classes that share no code with it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from nnunet_partial.ensemble import combine_one_model_a_class
from nnunet_partial.labels import LabelSpace, region_labels


def space_of(axes: dict[str, dict[str, str]]) -> LabelSpace:
    """A label space from axis -> class -> its atoms, one letter each; the background of an axis is AXIS.0."""
    atoms = {axis: sorted(set("".join(classes.values()))) for axis, classes in axes.items()}
    return LabelSpace(
        {axis: (f"{axis}.0", *(f"{axis}.{a}" for a in names)) for axis, names in atoms.items()},
        {
            name: frozenset(f"{x}.{a}" for a in members)
            for x, classes in axes.items()
            for name, members in classes.items()
        },
    )


EXCLUSIVE = space_of({"x": {"liver": "a", "spleen": "b", "colon": "c", "aorta": "d"}})
NESTED = space_of({"x": {"liver": "at", "tumour": "t", "spleen": "b"}})
SPACES = {
    "one class": space_of({"x": {"liver": "a"}}),
    "exclusive": EXCLUSIVE,
    "nested": NESTED,
    "overlapping": space_of({"x": {"ab": "ab", "bc": "bc", "ca": "ca", "a": "a", "d": "d"}}),
    "nested twice": space_of({"x": {"all": "abcd", "abc": "abc", "ab": "ab", "c": "c", "d": "d", "e": "e"}}),
    "two axes": space_of({"x": {"liver": "at", "tumour": "t", "spleen": "b"}, "y": {"y.liver": "a", "y.spleen": "b"}}),
}


def masks_by_loops(probabilities: np.ndarray, space: LabelSpace) -> np.ndarray:
    names = list(space.classes)
    masks = np.zeros(probabilities.shape, bool)
    for place in np.ndindex(*probabilities.shape[1:]):
        p = [float(probabilities[(c, *place)]) for c in range(len(names))]
        for c, name in enumerate(names):
            wins = p[c] > 0.5
            for d, other in enumerate(names):
                both = space.classes[name] | space.classes[other]
                same_axis = any(both <= set(atoms) for atoms in space.axes.values())
                excludes = same_axis and not space.classes[name] & space.classes[other]
                if c != d and excludes and (p[d] > p[c] or (p[d] == p[c] and d < c)):
                    wins = False
            masks[(c, *place)] = wins
    return masks


def painted_by_loops(masks: np.ndarray) -> np.ndarray:
    painted = np.zeros(masks.shape[1:], int)
    for place in np.ndindex(*painted.shape):
        for c in range(len(masks)):
            if masks[(c, *place)]:
                painted[place] = c + 1
    return painted


def random_probabilities(seed: int, classes: int, shape: tuple[int, ...]) -> np.ndarray:
    """Steps of a tenth, so that ties and exact halves are common."""
    return (np.random.default_rng(seed).integers(0, 11, (classes, *shape)) / 10).astype(np.float32)


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [(6, 5, 7), (1, 9, 8), (30,), (1, 1, 1)])
def test_equals_loops(kind: str, seed: int, shape: tuple[int, ...]) -> None:
    space = SPACES[kind]
    probabilities = random_probabilities(seed, len(space.classes), shape)
    expected = masks_by_loops(probabilities, space)
    painted = combine_one_model_a_class(probabilities, space)
    assert painted.dtype == np.uint8
    np.testing.assert_array_equal(painted, painted_by_loops(expected))


@pytest.mark.parametrize("seed", range(3))
def test_exclusive_classes_are_argmax_then_threshold(seed: int) -> None:
    probabilities = random_probabilities(seed, 4, (9, 8, 7))
    best = probabilities.argmax(0)
    expected = np.where(probabilities.max(0) > 0.5, best + 1, 0)
    np.testing.assert_array_equal(combine_one_model_a_class(probabilities, EXCLUSIVE), expected)


@pytest.mark.parametrize(
    ("probabilities", "value"),
    [
        ([0.9, 0.8, 0.7], 2),  # a tumour in the liver does not compete with it, only the spleen does
        ([0.9, 0.2, 0.7], 1),
        ([0.6, 0.2, 0.7], 3),
        ([0.6, 0.9, 0.7], 2),  # the tumour beats the spleen, which beats the liver
        ([0.8, 0.6, 0.7], 1),
        ([0.7, 0.7, 0.7], 2),  # ties: the first wins
        ([0.6, 0.7, 0.7], 2),
        ([0.5, 0.5, 0.5], 0),  # one half is not above one half
        ([0.1, 0.2, 0.3], 0),
        ([0.4, 0.3, 0.6], 3),
    ],
)
def test_nested_classes(probabilities: list[float], value: int) -> None:
    array = np.array(probabilities, np.float32)[:, None]
    assert combine_one_model_a_class(array, NESTED).tolist() == [value]


def test_a_given_tumour_is_read_as_liver() -> None:
    """What 'nnUNetv2_partial_evaluate' reads of the label map where only the tumour was given."""
    painted = combine_one_model_a_class(np.array([[0.6], [0.9], [0.7]]), NESTED)
    labels, _ = region_labels(NESTED)
    found = [name for name, values in labels.items() if isinstance(values, list) and painted[0] in values]
    assert found == ["liver", "tumour"]


@pytest.mark.parametrize(
    ("probabilities", "value"),
    [
        ([0.6, 0.1, 0.7, 0.9, 0.8], 4),  # y.liver beats y.spleen, whatever wins on the other axis
        ([0.9, 0.1, 0.7, 0.1, 0.6], 5),
        ([0.6, 0.1, 0.7, 0.2, 0.1], 3),
    ],
)
def test_classes_of_different_axes_do_not_compete(probabilities: list[float], value: int) -> None:
    array = np.array(probabilities)[:, None]
    assert combine_one_model_a_class(array, SPACES["two axes"]).tolist() == [value]


def test_no_array_is_kept_and_none_is_changed() -> None:
    probabilities = random_probabilities(7, 3, (6, 5, 4))
    before = probabilities.copy()

    def one_after_the_other() -> Iterator[np.ndarray]:
        buffer = np.empty((6, 5, 4), np.float32)
        for array in probabilities:
            buffer[...] = array
            yield buffer  # the next class overwrites it

    expected = painted_by_loops(masks_by_loops(before, NESTED))
    np.testing.assert_array_equal(combine_one_model_a_class(one_after_the_other(), NESTED), expected)
    np.testing.assert_array_equal(combine_one_model_a_class(probabilities, NESTED), expected)
    np.testing.assert_array_equal(probabilities, before)


def test_arrays_in_another_memory_order() -> None:
    probabilities = random_probabilities(8, 3, (6, 5, 4))
    turned = np.asfortranarray(probabilities.transpose(0, 3, 1, 2))
    expected = combine_one_model_a_class(probabilities, NESTED).transpose(2, 0, 1)
    np.testing.assert_array_equal(combine_one_model_a_class(turned, NESTED), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_smallest_difference_decides(dtype: type) -> None:
    low = dtype(0.7)
    high = np.nextafter(low, dtype(1))
    just_above = np.nextafter(dtype(0.5), dtype(1))
    probabilities = np.array([[low, high, just_above], [high, low, 0.5], [0, 0, 0], [0, 0, 0]], dtype)
    assert combine_one_model_a_class(probabilities, EXCLUSIVE).tolist() == [2, 1, 1]


@pytest.mark.parametrize(("classes", "dtype"), [(254, np.uint8), (255, np.uint16)])
def test_many_classes(classes: int, dtype: type) -> None:
    names = [f"c{i}" for i in range(classes)]
    space = LabelSpace({"anatomy": ("background", *names)}, {n: frozenset({n}) for n in names})
    probabilities = np.zeros((classes, 2), np.float32)
    probabilities[-1, 0] = 1
    painted = combine_one_model_a_class(probabilities, space)
    assert painted.dtype == dtype
    assert painted.tolist() == [classes, 0]


def test_wrong_number_or_shape() -> None:
    with pytest.raises(ValueError, match=r"expected 3 arrays of one shape, found 2 of \[\(4,\)\]"):
        combine_one_model_a_class(np.zeros((2, 4)), NESTED)
    with pytest.raises(ValueError, match=r"found 4 of"):
        combine_one_model_a_class(np.zeros((4, 4)), NESTED)
    with pytest.raises(ValueError, match=r"found 3 of \[\(4,\), \(5,\)\]"):
        combine_one_model_a_class([np.zeros(4), np.zeros(5), np.zeros(4)], NESTED)
    with pytest.raises(ValueError, match=r"found 0 of \[\]"):
        combine_one_model_a_class([], NESTED)
