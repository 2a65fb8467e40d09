"""What the benchmark of training methods works with: collections, patches, networks' shares, decoding and scores."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from nnunet_partial.errors import PartialError
from nnunet_partial.labels import ABSENT, UNKNOWN, LabelSpace, one_axis_per_source
from nnunet_partial.phantoms.hard import HARD_ATOMS
from nnunet_partial.sampling import UNIFORM, CaseSampling, HierarchicalSampling
from nnunet_partial.training import SIGMOID, SOFTMAX
from tests.bench.methods.collection import Case, Collection, Protocol, label_model
from tests.bench.methods.methods import METHODS
from tests.bench.methods.mixes import MIXES
from tests.bench.methods.patches import PatchStream
from tests.bench.methods.phantom_collection import phantom_collection
from tests.bench.methods.prediction import ChannelLogits, class_masks_of, compete, painted
from tests.bench.methods.presets import PRESETS
from tests.bench.methods.real_collection import missing_files, real_collection
from tests.bench.methods.run import network_parts
from tests.bench.methods.scores import dice_of_case, false_positives, mean_dice

TINY = replace(
    PRESETS["cpu"]["phantoms"],
    shape=(24, 20, 16),
    voxel_mm=12.0,
    patch=(16, 16, 16),
    features=(4, 8),
    batch_size=2,
    iterations=2,
)
ATOMS = ("background", "liver", "spleen")
CLASSES = {"liver": ("liver",), "spleen": ("spleen",)}
LIVERS = Protocol("CT", {"liver": ("liver",)})
SPLEENS = Protocol("MR", {"spleen": ("spleen",)})
BOTH = Protocol("CT", {"liver": ("liver",), "spleen": ("spleen",)})


@pytest.fixture(scope="module")
def phantoms():
    return phantom_collection(0, TINY)


def make_case(name, truth, protocol, scored=("liver", "spleen")):
    truth = np.asarray(truth, np.int16)
    image = truth.astype(np.float32)[None]
    return Case(name, image, protocol.annotate(truth, ATOMS), truth, scored, (10.0, 10.0, 10.0))


def make_collection(*cases):
    sources = {case.name: source for source, case in cases}
    protocols = {"livers": LIVERS, "spleens": SPLEENS}
    volumes = tuple(case for _, case in cases)
    return Collection(
        "toy",
        label_model(ATOMS, CLASSES, protocols, sources),
        label_model(ATOMS, CLASSES, dict.fromkeys(protocols, BOTH), sources),
        volumes,
        volumes,
        volumes,
        (2, 2, 2),
    )


def test_methods_are_the_recipes_under_equal_conditions():
    for name, method in METHODS.items():
        recipe = method.recipe_with("uniform")
        assert replace(recipe.sampling, unlabelled_share=0.0) == UNIFORM, name
        assert recipe.head_prior == (0.01 if recipe.heads is SIGMOID else None), name
        assert recipe.loss is method.recipe.loss
    assert METHODS["multitalent"].recipe.label_space is one_axis_per_source
    assert METHODS["ambiguity"].recipe.sampling.unlabelled_share > 0
    assert METHODS["ambiguity_no_entropy"].recipe.sampling.unlabelled_share == 0
    assert METHODS["ambiguity_no_entropy"].recipe.loss().entropy_weight == 0


def test_exclusive_classes_compete_and_later_ones_are_painted():
    # liver holds tumour; spleen excludes both, and a rib on an axis of its own excludes nothing
    space = LabelSpace(
        {"anatomy": ("background", "tissue", "tumour", "spleen"), "bones": ("bones.background", "rib")},
        {
            "liver": frozenset({"tissue", "tumour"}),
            "tumour": frozenset({"tumour"}),
            "spleen": frozenset({"spleen"}),
            "rib": frozenset({"rib"}),
        },
    )
    probabilities = np.array([[0.9, 0.6, 0.6], [0.8, 0.7, 0.1], [0.1, 0.65, 0.5], [0.2, 0.3, 0.7]], np.float32)
    winners = compete(probabilities, space.exclusive)
    # second voxel: the spleen beats the liver, the tumour beats the spleen
    assert winners[:3].tolist() == [[True, False, True], [True, True, False], [False, False, False]]
    assert winners[3].all()
    # a painted tumour is liver, too; the spleen hides both, and the rib all
    assert painted(probabilities > 0.5, space).tolist() == [
        [True, False, False],
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ]


def test_probability_of_a_class_is_the_mean_over_its_channels():
    labels = make_collection(
        ("livers", make_case("a", np.zeros((2, 2, 2)), LIVERS)),
        ("spleens", make_case("b", np.zeros((2, 2, 2)), SPLEENS)),
    ).labels
    recipe = METHODS["shared"].recipe
    apart = one_axis_per_source(labels)
    assert set(apart.class_names) == {"livers.liver", "spleens.spleen"}
    logits = torch.zeros(2, 1, 1, 2)
    logits[apart.class_names.index("livers.liver")] = torch.tensor([4.0, -4.0])
    logits[apart.class_names.index("spleens.spleen")] = torch.tensor([2.0, 2.0])
    masks = class_masks_of([ChannelLogits(recipe, apart, logits)], labels)
    assert masks["threshold"][:, 0, 0].tolist() == [[True, False], [True, True]]
    assert masks["argmax"][:, 0, 0].tolist() == [[True, False], [False, True]]
    # the spleen is painted later
    assert masks["painted"][:, 0, 0].tolist() == [[False, False], [True, True]]
    # a second network doubts the liver: (sigmoid(4) + sigmoid(-5)) / 2 < 0.5
    liver_only = METHODS["shared"].recipe_with("multitalent")
    liver_only = replace(liver_only, classes="liver")
    second = ChannelLogits(liver_only, liver_only.train_labels(labels), torch.full((1, 1, 1, 2), -5.0))
    both = class_masks_of([ChannelLogits(recipe, apart, logits), second], labels)
    assert both["threshold"][0].sum() == 0
    with pytest.raises(PartialError, match="spleen"):
        class_masks_of([second], labels)


def test_channels_trained_on_the_images_modality_come_first():
    protocols = {"livers": LIVERS, "resonance": replace(LIVERS, modality="MR")}
    labels = label_model(ATOMS[:2], {"liver": ("liver",)}, protocols, {"a": "livers", "b": "resonance"})
    recipe = METHODS["shared"].recipe
    apart = one_axis_per_source(labels)
    logits = torch.zeros(2, 1, 1, 1)
    logits[apart.class_names.index("livers.liver")] = 1.0
    logits[apart.class_names.index("resonance.liver")] = -2.0
    for modality, expected in (("CT", True), ("MR", False), ("", False), ("PET", False)):
        found = class_masks_of([ChannelLogits(recipe, apart, logits)], labels, modality)["threshold"]
        assert bool(found.item()) == expected
    by_source = [
        ChannelLogits(recipe, labels, torch.full((1, 1, 1, 1), value), modality)
        for value, modality in ((1.0, "CT"), (-2.0, "MR"))
    ]
    assert class_masks_of(by_source, labels, "CT")["threshold"].all()
    assert not class_masks_of(by_source, labels, "MR")["threshold"].any()


def test_softmax_takes_the_likeliest_atom(phantoms):
    labels = phantoms.labels
    logits = torch.full((len(HARD_ATOMS), 1, 1, 2), -1.0)
    logits[HARD_ATOMS.index("liver_tumour"), ..., 0] = 3.0
    logits[HARD_ATOMS.index("spleen"), ..., 1] = 3.0
    recipe = METHODS["ambiguity"].recipe
    assert recipe.heads is SOFTMAX
    masks = class_masks_of([ChannelLogits(recipe, labels, logits)], labels)["threshold"]
    named = {name: masks[i, 0, 0].tolist() for i, name in enumerate(labels.class_names)}
    assert named["liver"] == named["liver_tumour"] == [True, False]
    assert named["spleen"] == [False, True]
    assert named["pancreas"] == [False, False]


def test_dice_and_false_positives_against_counts_by_hand():
    truth = np.zeros((2, 2, 2))
    truth[0, 0, 0] = 1  # one voxel of liver, one of spleen
    truth[1, 1, 1] = 2
    outside = np.array(truth)
    outside[0, 1, 1] = -1
    first = make_case("a", truth, LIVERS)
    second = replace(make_case("b", truth, SPLEENS), truth=outside.astype(np.int16), scored=("spleen",))
    collection = make_collection(("livers", first), ("spleens", second))
    masks = np.zeros((2, 2, 2, 2), bool)
    liver, spleen = (collection.classes.index(name) for name in ("liver", "spleen"))
    masks[liver, 0, 0] = True  # 2 voxels, 1 right
    masks[spleen, 0, 1] = True  # 2 voxels, none right; one of them lies outside the second image
    assert dice_of_case(collection, first, masks) == {"liver": pytest.approx(2 / 3), "spleen": 0.0}
    assert dice_of_case(collection, second, masks) == {"spleen": 0.0}
    found = false_positives(collection, lambda case: masks)
    # spleen where only livers are annotated: 2 of 7 voxels, 1 mL each; liver where only spleens are: 1 of 6
    assert found["spleen"] == {"cases": 1, "ml": pytest.approx(2.0), "rate": pytest.approx(2 / 7)}
    assert found["liver"] == {"cases": 1, "ml": pytest.approx(1.0), "rate": pytest.approx(1 / 6)}


def test_mean_dice_leaves_out_what_is_undefined():
    by_case = {"a": {"liver": 0.5, "spleen": math.nan}, "b": {"liver": 1.0}}
    assert mean_dice(by_case, ("liver", "spleen", "kidney")) == {"liver": 0.75, "spleen": None, "kidney": None}


def test_annotation_leaves_skipped_slices_open():
    protocol = replace(LIVERS, every_slice=3)
    atoms = np.ones((1, 1, 6), int)
    atoms[..., 4] = 2
    assert protocol.annotate(atoms, ATOMS).ravel().tolist() == [2, 1, 2, 2, 0, 2]
    possible = protocol.possible(ATOMS)
    assert possible == {0: {"background", "spleen"}, 1: {"liver"}, 2: set(ATOMS)}
    labels = label_model(ATOMS, CLASSES, {"livers": protocol, "spleens": SPLEENS}, {"a": "livers", "b": "spleens"})
    states = labels.states[labels.row_of("a")]
    liver = labels.class_names.index("liver")
    assert states[:, liver].tolist() == [ABSENT, 1, UNKNOWN]
    assert labels.annotated[labels.row_of("a"), liver]


def test_sources_of_the_phantoms(phantoms):
    labels = phantoms.labels
    assert labels.problems() == []
    assert phantoms.full.annotated[[phantoms.full.row_of(c.name) for c in phantoms.training]].all()
    assert one_axis_per_source(labels).problems() == []
    names = [case.name for case in phantoms.training]
    mix = MIXES["phantoms"]
    for source, (_, number) in mix.sources.items():
        assert sum(labels.source_of(name) == source for name in names) == number
    modalities = [phantoms.full.set_of(case.name).modality for case in phantoms.held_out]
    assert {m: modalities.count(m) for m in mix.held_out} == mix.held_out
    assert {labels.source_of(case.name) for case in phantoms.probes} == set(mix.sources)
    scans = [case for case in phantoms.training if labels.source_of(case.name) == "scans"]
    assert not any(case.labels.any() for case in scans)
    assert all(phantoms.unannotated(case) == phantoms.classes for case in scans)


@pytest.fixture(scope="module")
def kinds():
    return {name: phantom_collection(0, TINY, name) for name in MIXES if name != "phantoms"}


def known_voxels(labels, case):
    """Voxels of a case whose atom its label map tells."""
    possible = labels.possible[labels.row_of(case.name)]
    return (possible.sum(1) == 1)[case.labels]


def test_kinds_of_partial_labels(kinds):
    annotated = {
        name: np.array([kind.labels.annotated[kind.labels.row_of(case.name)] for case in kind.training])
        for name, kind in kinds.items()
    }
    assert all(kind.labels.problems() == [] and kind.name == name for name, kind in kinds.items())
    assert (annotated["single"].sum(1) == 1).all() and (annotated["single"].sum(0) == 7).all()
    assert (annotated["several"].sum(1) > 1).all() and annotated["several"].any(0).all()
    assert not annotated["several"].all(1).any()
    assert annotated["slices"].all()
    for case in kinds["slices"].training:
        by_slice = known_voxels(kinds["slices"].labels, case).reshape(-1, case.labels.shape[2])
        assert (by_slice.all(0) == (np.arange(case.labels.shape[2]) % 4 == 2)).all()
        assert (by_slice.any(0) == by_slice.all(0)).all()
    assert annotated["merged"].all(1).sum() == 12
    assert annotated["unlabelled"].all(1).sum() == 10 and (~annotated["unlabelled"]).all(1).sum() == 38
    for name, kind in kinds.items():
        assert len(kind.held_out) == 8
        fractions = [known_voxels(kind.full, case).mean() for case in kind.held_out]
        assert min(fractions) == 1, name


def test_seed_deals_the_patients_and_none_is_trained_and_tested(phantoms):
    def patients(collection, cases):
        return {case.truth.tobytes() for case in cases}

    again, other = phantom_collection(0, TINY), phantom_collection(1, TINY)
    tested = patients(phantoms, phantoms.held_out)
    assert not tested & patients(phantoms, phantoms.training)
    assert tested == patients(again, again.held_out)
    assert tested != patients(other, other.held_out)


def test_networks_a_class_and_a_source_see_their_own_cases_only(phantoms):
    cases = list(phantoms.training)
    by_class = dict(network_parts("class", phantoms.labels, cases))
    assert set(by_class) == set(phantoms.classes)
    assert {phantoms.labels.source_of(c.name) for c in by_class["kidney_left"]} == {"organs", "resonance"}
    assert {phantoms.labels.source_of(c.name) for c in by_class["adrenal"]} == {"adrenals", "glands"}
    by_source = list(network_parts("source", phantoms.labels, cases))
    # kidneys without sides annotate no class, scans nothing at all
    assert len(by_source) == len(MIXES["phantoms"].sources) - 2
    assert by_source[0][0] == "liver,liver_tumour"
    assert list(network_parts("one", phantoms.labels, cases)) == [("", cases)]


@pytest.mark.parametrize("sampling", [CaseSampling(foreground_share=1.0), HierarchicalSampling()])
def test_patches_hold_the_drawn_class_and_repeat(phantoms, sampling):
    labels, patch = phantoms.labels, TINY.patch
    streams = [PatchStream(phantoms.training, labels, sampling, patch, 5) for _ in range(2)]
    first, second = (stream.batch(12) for stream in streams)
    assert first.cases == second.cases
    assert torch.equal(first.images, second.images) and torch.equal(first.labels, second.labels)
    assert first.images.shape == first.labels.shape == (12, 1, *patch)
    structures = [labels.foreground[labels.row_of(name)] for name in first.cases]
    centred = [bool(marks[np.unique(found.numpy())].any()) for marks, found in zip(structures, first.labels)]
    # a source without structures has no class to centre on, and is not drawn here
    assert all(centred)
    other = PatchStream(phantoms.training, labels, sampling, patch, 6).batch(12)
    assert not torch.equal(first.images, other.images)


@pytest.mark.real_data
def test_real_slabs_hide_what_they_are_scored_on():
    if missing_files():
        pytest.skip("the real volumes are not there")
    collection = real_collection(1, PRESETS["cpu"]["real"])
    assert collection.labels.problems() == []
    for case in collection.held_out:
        assert set(case.scored) == set(collection.unannotated(case))
        assert min(n - p for n, p in zip(case.labels.shape, collection.patch)) >= 0
    shown = {case.name: collection.labels.source_of(case.name) for case in collection.held_out}
    before = real_collection(0, PRESETS["cpu"]["real"])
    assert shown != {case.name: before.labels.source_of(case.name) for case in before.held_out}
