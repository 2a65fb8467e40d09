"""Classes as nnU-Net regions."""

from __future__ import annotations

import numpy as np

from nnunet_partial.labels import (
    BLOCK,
    AnnotationSet,
    LabelSpace,
    PartialLabels,
    partial_labels_of,
    region_labels,
    with_region_labels,
)

SPACE = LabelSpace(
    {"anatomy": ("background", "liver_tissue", "liver_tumour", "spleen")},
    {
        "liver": frozenset({"liver_tissue", "liver_tumour"}),
        "tumour": frozenset({"liver_tumour"}),
        "spleen": frozenset({"spleen"}),
    },
)


def test_regions_hold_their_own_value_and_those_of_the_classes_inside() -> None:
    labels, order = region_labels(SPACE)
    assert labels == {"background": 0, "liver": [1, 2], "tumour": [2, 2], "spleen": [3, 3]}
    assert order == [1, 2, 3]


def test_painting_in_order_and_reading_the_regions_gives_the_classes_back() -> None:
    """nnU-Net paints class after class into one map; a voxel of every atom must come out in the right regions."""
    labels, order = region_labels(SPACE)
    for atom in SPACE.atoms:
        painted = 0
        for value, members in zip(order, SPACE.classes.values(), strict=True):
            painted = value if atom in members else painted
        found = {name for name, values in labels.items() if isinstance(values, list) and painted in values}
        assert found == {name for name, members in SPACE.classes.items() if atom in members}


def test_sigmoid_is_chosen_even_for_a_single_class() -> None:
    space = LabelSpace({"anatomy": ("background", "liver")}, {"liver": frozenset({"liver"})})
    labels, _ = region_labels(space)
    assert isinstance(labels["liver"], list)
    assert len(labels["liver"]) > 1
    assert np.unique(labels["liver"]).tolist() == [1]


def test_the_copy_keeps_the_original_and_holds_the_new_model() -> None:
    before = {"labels": {"background": 0, "liver": 1}, "channel_names": {"0": "CT"}}
    model = PartialLabels(SPACE, {"a": AnnotationSet("a", "a", "CT", {0: SPACE.everything})}, {"case": "a"})
    after = with_region_labels(before, model)
    assert before["labels"] == {"background": 0, "liver": 1}
    assert after["regions_class_order"] == [1, 2, 3]
    assert after["labels"]["liver"] == [1, 2]
    assert BLOCK not in before
    assert partial_labels_of(after) == model
