"""The frames of the benchmark of methods: drawing them, the collection, flat networks, and a run from end to end."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from nnunet_partial.errors import PartialError
from nnunet_partial.labels import ABSENT, PRESENT, UNKNOWN, one_axis_per_source
from nnunet_partial.sampling import HierarchicalSampling
from tests.bench.methods import frame_collection, frames, pictures
from tests.bench.methods.__main__ import main
from tests.bench.methods.collection import Case, Collection, Protocol, label_model, normalised
from tests.bench.methods.frame_overlay import save_frame_overlay
from tests.bench.methods.frames import make_frame
from tests.bench.methods.network import logits_of, make_network
from tests.bench.methods.orderings import ORDERINGS, checked
from tests.bench.methods.patches import PatchStream
from tests.bench.methods.plan import planned
from tests.bench.methods.presets import COLLECTIONS, PRESETS
from tests.bench.methods.results import RunKey
from tests.bench.methods.scores import false_positives
from tests.bench.methods.surgeries import FRAME_ATOMS, TISSUES, Surgery, TissueMap

STRUCTURES = FRAME_ATOMS[1:]
SMALL = replace(PRESETS["cpu"]["frames"], shape=(1, 32, 40), patch=(1, 24, 32), features=(4, 8, 8), iterations=2)


@pytest.fixture(scope="module")
def collection():
    with pytest.MonkeyPatch.context() as fewer:
        fewer.setattr(frame_collection, "SURGERIES", {"training": 3, "held_out": 2})
        yield frame_collection.frame_collection(0, SMALL)


@pytest.mark.parametrize("focus", STRUCTURES)
def test_frame_shows_its_structure_and_repeats(focus):
    frame = make_frame(4, focus, 0, (32, 40))
    again, other = make_frame(4, focus, 0, (32, 40)), make_frame(4, focus, 1, (32, 40))
    assert frame.image.shape == (3, 32, 40) and frame.image.dtype == np.float32
    assert frame.image.min() >= 0 and frame.image.max() <= 1
    assert (frame.atoms == FRAME_ATOMS.index(focus)).mean() >= 0.03
    assert frame.atoms.max() < len(FRAME_ATOMS)
    assert np.array_equal(frame.image, again.image) and np.array_equal(frame.atoms, again.atoms)
    assert not np.array_equal(frame.atoms, other.atoms)


def test_frame_of_nothing_is_an_error(monkeypatch):
    with pytest.raises(PartialError, match="'background'"):
        make_frame(0, "background", 0, (32, 40))
    monkeypatch.setattr(frames, "_SMALLEST_SHARE", 1.1)
    with pytest.raises(PartialError, match=r"surgery 3 .* pancreas"):
        make_frame(3, "pancreas", 0, (32, 40))


def test_look_alikes_share_the_tint_and_are_background():
    tints = Surgery.draw(np.random.default_rng(5)).tints
    names = list(TISSUES)
    alike = {name: tissue for name, tissue in TISSUES.items() if tissue.like}
    assert {tissue.like for tissue in alike.values()} == set(STRUCTURES) - {"colon"}
    for name, tissue in alike.items():
        assert np.array_equal(tints[names.index(name)], tints[names.index(tissue.like)])
        assert (tissue.colour, tissue.fine, tissue.coarse) == (
            TISSUES[tissue.like].colour,
            TISSUES[tissue.like].fine,
            TISSUES[tissue.like].coarse,
        )
    assert not np.array_equal(tints[names.index("colon")], tints[names.index("stomach")])


def test_later_paint_covers_earlier_paint():
    seen = TissueMap((1, 4))
    seen.paint(np.array([[-2, -1, 1, 2]], np.float32), "liver")
    seen.paint(np.array([[1, -3, -3, 1]], np.float32), "spleen")
    seen.paint(np.array([[-9, -9, -9, -9]], np.float32), "colon", ~seen.holds("liver", "spleen"))
    assert seen.atoms().tolist() == [[FRAME_ATOMS.index(n) for n in ("liver", "background", "background", "colon")]]
    assert seen.depth_mm.tolist() == [[2, 3, 3, 9]]


def test_each_subset_annotates_its_own_structure_alone(collection):
    labels = collection.labels
    assert labels.problems() == [] and one_axis_per_source(labels).problems() == []
    assert labels.class_names == STRUCTURES
    for index, name in enumerate(STRUCTURES):
        own = [case for case in collection.training if labels.source_of(case.name) == name]
        assert len(own) == 6
        for case in own:
            states = labels.states[labels.row_of(case.name)]
            expected = [ABSENT if i == index else UNKNOWN for i in range(6)]
            assert states[0].tolist() == expected
            assert states[1].tolist() == [PRESENT if i == index else ABSENT for i in range(6)]
            assert np.array_equal(case.labels == 1, case.truth == index + 1)
            assert set(collection.unannotated(case)) == set(STRUCTURES) - {name}
            assert case.focus == name and name in case.scored
    # others are seen, and nobody annotated them
    seen = {name for case in collection.training for name in case.scored if name != case.focus}
    assert len(seen) > 3


def test_held_out_frames_are_of_other_surgeries_and_complete(collection):
    def surgeries(cases):
        return {case.name.split("_")[0] for case in cases}

    assert len(surgeries(collection.training)) == 3 and len(surgeries(collection.held_out)) == 2
    assert not surgeries(collection.training) & surgeries(collection.held_out)
    assert [case.focus for case in collection.held_out] == [name for name in STRUCTURES for _ in range(2)]
    for case in collection.held_out:
        assert collection.full.annotated[collection.full.row_of(case.name)].all()
        shares = {name: (case.truth == i).mean() for i, name in enumerate(STRUCTURES, start=1)}
        assert set(case.scored) == {name for name, share in shares.items() if share >= 0.03}
        assert np.array_equal(case.labels, case.truth)
        assert case.image.shape == (3, *case.truth.shape) == (3, 1, 32, 40)


def test_seed_deals_the_surgeries(monkeypatch, collection):
    monkeypatch.setattr(frame_collection, "SURGERIES", {"training": 3, "held_out": 2})
    again, other = (frame_collection.frame_collection(seed, SMALL) for seed in (0, 1))
    assert [c.name for c in again.held_out] == [c.name for c in collection.held_out]
    assert {c.name for c in other.held_out} != {c.name for c in collection.held_out}
    common = {c.name: c.truth for c in other.held_out}
    assert all(np.array_equal(common.get(c.name, c.truth), c.truth) for c in collection.held_out)


def test_colours_are_scaled_alike_in_all_frames():
    assert normalised(np.array([0.0, 0.5, 1.0], np.float32), "RGB").tolist() == [-2, 0, 2]


def test_network_is_flat_where_the_patch_is():
    flat = make_network(3, 6, (1, 24, 32), SMALL)
    kernels = {m.kernel_size for m in flat.modules() if isinstance(m, torch.nn.Conv3d)}
    assert kernels == {(1, 3, 3), (1, 1, 1)}
    assert flat(torch.zeros(2, 3, 1, 24, 32)).shape == (2, 6, 1, 24, 32)
    # a flat network treats slices of a stack one by one, but for the norm, which is left out here
    for module in flat.modules():
        if isinstance(module, torch.nn.InstanceNorm3d):
            module.forward = lambda x: x
    stack = torch.randn(1, 3, 4, 24, 32, generator=torch.Generator().manual_seed(0))
    apart = torch.stack([flat(stack[:, :, [i]])[:, :, 0] for i in range(4)], 2)
    torch.testing.assert_close(flat(stack), apart)
    solid = make_network(1, 6, (24, 24, 24), SMALL)
    assert {m.kernel_size for m in solid.modules() if isinstance(m, torch.nn.Conv3d)} == {(3, 3, 3), (1, 1, 1)}


def test_patches_and_logits_of_frames(collection):
    labels = collection.labels
    batch = PatchStream(collection.training, labels, HierarchicalSampling(), SMALL.patch, 3).batch(8)
    assert batch.images.shape == (8, 3, 1, 24, 32) and batch.labels.shape == (8, 1, 1, 24, 32)
    assert all(found.any() for found in batch.labels)
    network = make_network(3, 6, SMALL.patch, SMALL).eval()
    image = collection.held_out[0].image
    logits = logits_of(network, image, SMALL.patch, torch.device("cpu"))
    assert logits.shape == (6, 1, 32, 40)
    whole = logits_of(network, image, (1, 32, 40), torch.device("cpu"))
    torch.testing.assert_close(whole, network(torch.from_numpy(image)[None])[0])


def test_false_positives_in_percent_of_the_frame():
    atoms = ("background", "liver", "colon")
    classes = {name: (name,) for name in atoms[1:]}
    livers = Protocol("RGB", {"liver": ("liver",)})
    truth = np.zeros((1, 4, 5), np.int16)
    truth[0, 0] = 2
    case = Case("a", np.zeros((3, 1, 4, 5), np.float32), livers.annotate(truth, atoms), truth, (), (1.0,) * 3, "liver")
    toy = Collection(
        "toy",
        label_model(atoms, classes, {"livers": livers}, {"a": "livers"}),
        label_model(atoms, classes, {"livers": Protocol("RGB", classes)}, {"a": "livers"}),
        (case,),
        (case,),
        (case,),
        (1, 4, 5),
        size_unit="percent",
    )
    masks = np.zeros((2, 1, 4, 5), bool)
    masks[1, 0, :2] = True  # ten of twenty pixels, five of them wrong; fifteen are no colon
    found = false_positives(toy, lambda _: masks)
    assert found == {"colon": {"cases": 1, "percent": pytest.approx(25.0), "rate": pytest.approx(5 / 15)}}


def test_frames_are_trained_under_one_sampling_and_have_jenkes_orderings():
    plans = planned(["frames"], None, None, [0])
    assert {key.sampling for key in plans} == {"cmd_anywhere"}
    chosen = [entry for entry in ORDERINGS if "frames" in entry.collections]
    assert len(chosen) == 5 and all("Jenke" in entry.source for entry in chosen)
    assert {side.method for entry in chosen for side in (entry.better, entry.worse)} <= {key.method for key in plans}


def test_orderings_of_frames_score_what_each_frame_looks_at():
    def run(method, seed, focus, mean):
        dice = {"threshold": {"liver": mean}, "argmax": {"liver": mean}, "painted": {"liver": mean}}
        own = {"threshold": {"liver": focus}, "argmax": {"liver": focus}}
        return RunKey("frames", method, "cmd_anywhere", seed), {"dice": dice, "dice_in_focus": own}

    runs = dict(
        [
            run("implicit", 0, 0.8, 0.5),
            run("implicit", 1, 0.7, 0.4),
            run("per_class", 0, 0.6, 0.6),
            run("per_class", 1, 0.4, 0.7),
        ]
    )
    found = {
        e.ordering.source: e.difference.mean for e in checked("frames", runs) if e.ordering.better.method == "implicit"
    }
    assert found["Jenke et al. 2024, Table 1"] == pytest.approx((0.2 + 0.3) / 2)
    assert found["Jenke et al. 2024, Table 2"] == pytest.approx((-0.1 - 0.3) / 2)
    assert not any("frames" in e.ordering.collections for e in checked("phantoms", runs))


def test_overlay_shows_the_prediction_on_the_right(tmp_path):
    image = np.full((3, 8, 10), 0.5, np.float32)
    none, some = np.zeros((8, 10), bool), np.zeros((8, 10), bool)
    some[2:5, 3:7] = True
    shown = []
    for name, prediction in (("a", none), ("b", some)):
        path = tmp_path / f"{name}.png"
        save_frame_overlay(path, image, {"liver": some}, {"liver": prediction}, title="one")
        shown.append(imread(path))
    differ = np.flatnonzero((shown[0] != shown[1]).any((0, 2)))
    assert differ.min() > shown[0].shape[1] * 2 / 3


def test_run_and_report(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "cpu", dict.fromkeys(COLLECTIONS, SMALL))
    monkeypatch.setattr(frame_collection, "SURGERIES", {"training": 2, "held_out": 1})
    monkeypatch.setitem(pictures._SHOWN, "frames", ("implicit",))
    threads = torch.get_num_threads()
    arguments = ["-o", str(tmp_path), "--preset", "cpu", "--collection", "frames", "--seeds", "0"]
    try:
        assert main([*arguments, "--methods", "implicit", "per_class", "marginal"]) == 0
    finally:
        torch.set_num_threads(threads)  # a training takes one for its process
    results = [json.loads(path.read_text()) for path in sorted((tmp_path / "runs" / "frames").glob("*.json"))]
    assert [r["method"] for r in results] == ["implicit", "marginal", "per_class"]
    assert [r["networks"] for r in results] == [1, 1, 6]
    for result in results:
        assert set(result["false_positives"]) == set(STRUCTURES)
        for decoding, by_case in result["dice_by_case"].items():
            own = {name: scores[name] for name in STRUCTURES for case, scores in by_case.items() if name in case}
            assert result["dice_in_focus"][decoding] == own
    report = (tmp_path / "report.md").read_text()
    for words in ("Collection: frames", "in focus, argmax", "FP %", "Table 2", "not measured"):
        assert words in report
    assert "Chen et al." not in report
    assert "false positive percent" in (tmp_path / "methods.csv").read_text()
    for picture in re.findall(r"\]\((.*?\.png)\)", report):
        assert (tmp_path / picture).stat().st_size > 1000
    assert {p.name for p in tmp_path.glob("*.png")} == {"methods_frames.png", "overlay_frames_implicit.png"}
