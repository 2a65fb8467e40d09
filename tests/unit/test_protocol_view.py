"""A model's channels as label values of a source's protocol, by tables written by hand."""

from __future__ import annotations

import pytest

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.model.nnunet_plans import read_decoding
from nnunet_partial.inference.protocol_view import protocol_view
from nnunet_partial.labels import AnnotationSet, LabelSpace, PartialLabels
from nnunet_partial.labels.axes import one_axis_per_source
from nnunet_partial.labels.regions import with_atom_labels, with_region_labels

ATOMS = ("background", "liver_tissue", "liver_tumour", "kidney_left", "kidney_right", "spleen")
LIVER = frozenset({"liver_tissue", "liver_tumour"})
KIDNEYS = frozenset({"kidney_left", "kidney_right"})
EVERYTHING = frozenset(ATOMS)
CLASSES = {
    "liver": LIVER,
    "liver_tumour": frozenset({"liver_tumour"}),
    "kidney_left": frozenset({"kidney_left"}),
    "kidney_right": frozenset({"kidney_right"}),
    "spleen": frozenset({"spleen"}),
}
PROTOCOLS = {
    "lits": {0: EVERYTHING - LIVER, 1: frozenset({"liver_tissue"}), 2: frozenset({"liver_tumour"})},
    "btcv": {0: EVERYTHING - LIVER - {"spleen"}, 3: LIVER, 4: frozenset({"spleen"})},
    "kits": {0: EVERYTHING - KIDNEYS, 5: KIDNEYS, 6: EVERYTHING},
}


def labels_of(classes=CLASSES) -> PartialLabels:
    sets = {name: AnnotationSet(name, f"{name}_source", "CT", possible) for name, possible in PROTOCOLS.items()}
    return PartialLabels(LabelSpace({"": ATOMS}, classes), sets, {"a": "lits", "b": "btcv", "c": "kits"})


def view_of(content, name):
    return protocol_view(content, read_decoding(content), name)


@pytest.mark.parametrize("name", ["lits", "lits_source"])
def test_regions_of_a_liver_protocol(name):
    content = with_region_labels({"labels": {}}, labels_of())
    view = view_of(content, name)
    assert view.channels == (0, 1, 2, 3, 4)
    # liver is painted where there is no tumour; organs that nobody drew are 0
    assert view.decoding.values == (1, 2, 0, 0, 0)
    assert view.decoding.names == tuple(CLASSES)
    assert view.decoding.foreground_labels == 2


@pytest.mark.parametrize(("name", "values"), [("btcv", (3, 3, 0, 0, 4)), ("kits", (0, 0, 5, 5, 0))])
def test_tumour_is_liver_and_sides_are_kidneys(name, values):
    view = view_of(with_region_labels({"labels": {}}, labels_of()), name)
    assert view.decoding.values == values


def test_atoms_of_a_softmax():
    view = view_of(with_atom_labels({"labels": {}}, labels_of()), "btcv")
    assert not view.decoding.regions
    assert view.decoding.values == (0, 3, 3, 0, 0, 4)


def test_heads_of_other_sources_do_not_count():
    apart = one_axis_per_source(labels_of())
    view = view_of(with_region_labels({"labels": {}}, apart), "btcv")
    assert view.decoding.names == tuple(name for name in apart.class_names if name.startswith("btcv_source."))
    assert len(view.channels) == 2
    assert set(view.decoding.values) == {3, 4}


def test_model_that_tells_less_apart_is_refused():
    classes = {"liver": LIVER, "kidney": KIDNEYS}
    content = with_region_labels({"labels": {}}, labels_of(classes))
    assert view_of(content, "kits").decoding.values == (0, 5)
    with pytest.raises(PartialError, match="'liver' of the model could be any of its values 1, 2"):
        view_of(content, "lits")


def test_class_that_is_only_its_parts_does_not_count_where_the_protocol_tells_them_apart(monkeypatch):
    sides = {0: EVERYTHING - KIDNEYS, 7: frozenset({"kidney_left"}), 8: frozenset({"kidney_right"})}
    monkeypatch.setitem(PROTOCOLS, "amos", sides)
    classes = {"kidneys": KIDNEYS, **CLASSES}
    order = ("kidneys", "liver", "liver_tumour", "kidney_left", "kidney_right", "spleen")
    assert tuple(classes) == order
    content = with_region_labels({"labels": {}}, labels_of(classes))
    view = view_of(content, "amos")
    assert view.channels == (1, 2, 3, 4, 5)
    assert dict(zip(view.decoding.names, view.decoding.values, strict=True)) == {
        "liver": 0,
        "liver_tumour": 0,
        "kidney_left": 7,
        "kidney_right": 8,
        "spleen": 0,
    }
    # where the protocol has one value for both, a voxel of neither side for sure is that value, too
    assert view_of(content, "kits").decoding.values == (5, 0, 0, 5, 5, 0)


def test_class_with_atoms_of_its_own_still_counts(monkeypatch):
    # nobody finds a right kidney but as one that is not a left one
    sides = {0: EVERYTHING - KIDNEYS, 7: frozenset({"kidney_left"}), 8: frozenset({"kidney_right"})}
    monkeypatch.setitem(PROTOCOLS, "amos", sides)
    classes = {"kidneys": KIDNEYS, "kidney_left": frozenset({"kidney_left"})}
    assert view_of(with_region_labels({"labels": {}}, labels_of(classes)), "amos").decoding.values == (8, 7)


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "liver": 1, "spleen": 2},
        {"background": 0, "organ": [1, 2], "spleen": [2, 2]},
    ],
    ids=["labels", "regions"],
)
def test_model_with_labels_of_its_own_is_refused(labels):
    content = with_atom_labels({"labels": {}}, labels_of())
    content |= {"labels": labels, "regions_class_order": [1, 2]}
    with pytest.raises(
        PartialError,
        match=r"labels to be the classes or atoms of its .*, found background, liver, spleen;|found organ, spleen;",
    ):
        view_of(content, "btcv")


def test_protocol_without_annotations_is_refused(monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "nothing", {0: EVERYTHING})
    with pytest.raises(PartialError, match="--protocol nothing: it annotates nothing"):
        view_of(with_region_labels({"labels": {}}, labels_of()), "nothing")


def test_unknown_protocol_and_plain_model_are_refused():
    content = with_region_labels({"labels": {}}, labels_of())
    with pytest.raises(PartialError, match="--protocol magic: expected one of btcv, kits, lits"):
        view_of(content, "magic")
    with pytest.raises(PartialError, match="only models of merged datasets"):
        view_of({"labels": {"background": 0, "liver": 1}}, "btcv")
