"""The benchmark of training methods: a tiny run from end to end, its plan, and its statistics against known numbers."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from nnunet_partial.errors import PartialError
from nnunet_partial.phantoms.hard import HARD_ATOMS
from nnunet_partial.training.recipe import SAMPLINGS
from tests.bench.methods import network, pictures, plan
from tests.bench.methods.__main__ import main
from tests.bench.methods.comparison import mean_spread, paired_verdict
from tests.bench.methods.methods import METHODS, SAMPLING_TITLES
from tests.bench.methods.mixes import MIXES
from tests.bench.methods.network import make_loss, train
from tests.bench.methods.orderings import ORDERINGS, checked
from tests.bench.methods.overview import by_collection, by_sampling
from tests.bench.methods.patches import PatchStream
from tests.bench.methods.phantom_collection import phantom_collection
from tests.bench.methods.plan import planned
from tests.bench.methods.presets import COLLECTIONS, PRESETS
from tests.bench.methods.report import table_rows, write_report
from tests.bench.methods.results import Results, RunKey

TINY = replace(
    PRESETS["cpu"]["phantoms"],
    shape=(24, 20, 16),
    voxel_mm=12.0,
    patch=(16, 16, 16),
    features=(4, 8),
    batch_size=2,
    iterations=2,
)


@pytest.fixture
def tiny(monkeypatch):
    """The benchmark with two cases a source, one held-out case a modality and one overlay."""
    mix = MIXES["phantoms"]
    few = {name: (protocol, min(number, 2)) for name, (protocol, number) in mix.sources.items()}
    monkeypatch.setitem(PRESETS, "cpu", dict.fromkeys(COLLECTIONS, TINY))
    monkeypatch.setitem(MIXES, "phantoms", replace(mix, sources=few, held_out={"CT": 1, "MR": 1}))
    monkeypatch.setitem(pictures._SHOWN, "phantoms", ("shared",))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)  # a training takes one for its process


def result(method, seed, dice, argmax=None, ml=0.0, sampling="multitalent"):
    return RunKey("phantoms", method, sampling, seed), {
        "method": method,
        "sampling": sampling,
        "seed": seed,
        "settings": {"iterations": 2},
        "dice": {"threshold": dice, "argmax": argmax or dice, "painted": dice},
        "dice_by_modality": {"CT": dice},
        "false_positives": {"liver": {"cases": 1, "ml": ml, "rate": ml / 1000}},
        "training_seconds": 10.0,
        "device": "cpu",
    }


def test_run_restart_and_report(tmp_path, tiny, monkeypatch, capsys):
    arguments = ["-o", str(tmp_path), "--collection", "phantoms", "--methods", "shared", "ambiguity", "--seeds", "0"]
    arguments += ["--sampling", "multitalent"]
    assert main(arguments) == 0
    files = sorted((tmp_path / "runs" / "phantoms").glob("*.json"))
    assert [f.name for f in files] == ["ambiguity.multitalent.seed0.json", "shared.multitalent.seed0.json"]
    first = {f: json.loads(f.read_text()) for f in files}
    for content in first.values():
        assert set(content["dice"]["threshold"]) == set(HARD_ATOMS[2:]) | {"liver"}
        assert len(content["dice_by_case"]["threshold"]) == 2
        assert content["networks"] == 1
    report = (tmp_path / "report.md").read_text()
    assert "shared heads" in report and "Published orderings" in report and "not measured" in report
    assert "| 1 |" in report
    for picture in re.findall(r"\]\((.*?\.png)\)", report):
        assert (tmp_path / picture).stat().st_size > 1000
    assert {"methods_phantoms.png", "overlay_phantoms_shared.png"} <= {p.name for p in tmp_path.glob("*.png")}

    # what is finished stays, what is missing is made again, and comes out the same
    stamp = files[0].stat().st_mtime_ns
    files[1].unlink()
    assert main(arguments) == 0
    assert files[0].stat().st_mtime_ns == stamp
    again = json.loads(files[1].read_text())
    assert {k: v for k, v in again.items() if k != "training_seconds"} == {
        k: v for k, v in first[files[1]].items() if k != "training_seconds"
    }

    capsys.readouterr()
    assert main([*arguments, "--iterations", "3"]) == 1
    assert "iterations" in capsys.readouterr().err
    with monkeypatch.context() as other_make:
        other_make.setitem(MIXES, "phantoms", replace(MIXES["phantoms"], held_out={"CT": 2, "MR": 1}))
        assert main(arguments) == 1
    assert "collection" in capsys.readouterr().err
    (tmp_path / "report.md").unlink()
    assert main(["-o", str(tmp_path), "--report-only"]) == 0
    assert (tmp_path / "report.md").read_text() == report


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--methods", "magic"], "magic"),
        (["--sampling", "magic"], "magic"),
        (["--jobs", "0"], "job"),
        (["--seeds", "-1"], "seeds"),
    ],
)
def test_wrong_arguments_end_with_one_message(tmp_path, capsys, arguments, named):
    assert main(["-o", str(tmp_path), "--collection", "phantoms", *arguments]) == 1
    assert named in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_plan_has_every_method_and_all_samplings_of_two():
    keys = planned(["phantoms"], None, None, [0, 1])
    assert {k.method for k in keys} == set(METHODS)
    for method in ("shared", "ambiguity"):
        assert {k.sampling for k in keys if k.method == method} == {
            "multitalent",
            "uniform",
            "mdc",
            "cmd",
            "cmd_anywhere",
        }
    assert {k.sampling for k in keys if k.method == "naive"} == {"cmd_anywhere"}
    assert {k.sampling for k in keys if k.method == "implicit"} == {"cmd_anywhere", "uniform"}
    assert len(keys) == len(set(keys)) == 2 * (len(METHODS) + 8 + 2)
    # a seed is finished before the next begins
    assert [k.seed for k in keys] == sorted(k.seed for k in keys)


def test_every_sampling_has_a_title():
    assert set(SAMPLING_TITLES) == set(SAMPLINGS)


def test_every_ordering_is_planned():
    for ordering in ORDERINGS:
        plans = {(k.method, k.sampling) for k in planned(ordering.collections[:1], None, None, [0])}
        sides = [
            {sampling for method, sampling in plans if method == side.method and side.sampling in ("", sampling)}
            for side in (ordering.better, ordering.worse)
        ]
        named = bool(ordering.better.sampling)
        assert named == bool(ordering.worse.sampling), ordering.claim
        assert all(sides) if named else sides[0] & sides[1], ordering.claim


def test_real_collection_is_skipped_with_a_message(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("NNUNET_PARTIAL_REAL_DATA", str(tmp_path))
    keys = planned(["phantoms", "real"], ["shared"], ["multitalent"], [0])
    assert [k.collection for k in keys] == ["phantoms"]
    assert "NNUNET_PARTIAL_REAL_DATA" in capsys.readouterr().err


def test_mean_and_spread():
    spread = mean_spread([1.0, None, 3.0, math.nan, 5.0])
    assert (spread.mean, spread.n) == (3.0, 3)
    assert spread.sd == pytest.approx(2.0)  # sqrt((4 + 0 + 4) / 2)
    assert spread.text(1) == "3.0 ± 2.0"
    assert mean_spread([0.5]).text() == "0.500"
    assert mean_spread([None]).text() == ""


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        # Student's t of two degrees of freedom: 4.303 standard errors
        ([0.02, 0.03, 0.04], "reproduced"),  # mean .03, error .01 / sqrt 3 = .00577: 5.2
        ([-0.02, -0.03, -0.04], "not reproduced"),
        ([0.01, 0.02, 0.03], "within noise"),  # 3.5
        ([-0.01, -0.02, -0.03], "within noise"),
        ([-0.02, 0.02, 0.03], "within noise"),
        # of four: 2.776
        ([0.0, 0.01, 0.01, 0.02, 0.02], "reproduced"),  # mean .012, error .00837 / sqrt 5 = .00374: 3.2
        ([0.0, 0.0, 0.01, 0.02, 0.02], "within noise"),  # mean .01, error .01 / sqrt 5 = .00447: 2.2
        ([0.0, 0.0, 0.0], "within noise"),
        ([0.01, 0.01], "reproduced"),
        ([0.5], "too few seeds"),
        ([], "too few seeds"),
    ],
)
def test_paired_verdict(differences, verdict):
    better = {seed: 0.5 + d for seed, d in enumerate(differences)}
    worse = dict.fromkeys(range(len(differences)), 0.5) | {99: 0.0}  # a seed that only one has does not count
    difference, error, found = paired_verdict(better, worse)
    assert found == verdict
    assert difference.n == len(differences)
    if differences:
        assert difference.mean == pytest.approx(np.mean(differences))
    if len(differences) == 3:
        assert error == pytest.approx(np.std(differences, ddof=1) / math.sqrt(3))


def test_rows_and_orderings_from_known_results(tmp_path):
    runs = dict(
        [
            result("selected", 0, {"liver": 0.8, "liver_tumour": 0.4}, ml=10.0),
            result("selected", 1, {"liver": 0.9, "liver_tumour": 0.5}, ml=30.0),
            result("selected_normal", 0, {"liver": 0.6, "liver_tumour": 0.4}),
            result("selected_normal", 1, {"liver": 0.7, "liver_tumour": None}),
        ]
    )
    rows = table_rows(runs)
    assert [row.method for row in rows] == ["selected", "selected_normal"]
    first = rows[0]
    assert first.dice["mean"].mean == pytest.approx((0.6 + 0.7) / 2)
    assert first.dice["mean"].sd == pytest.approx(0.1 / math.sqrt(2))
    assert first.dice["liver"].mean == pytest.approx(0.85)
    assert (first.unit, first.false_positive_size.mean) == ("ml", 20.0)
    assert first.false_positive_permille.mean == pytest.approx(20.0)
    found = {entry.ordering.claim: entry for entry in checked("phantoms", runs)}
    everything = found["partial > normal compound loss, all classes"]
    # differences 0.6 - 0.5 and 0.7 - 0.7: mean 0.05, error 0.05
    assert everything.difference.mean == pytest.approx(0.05)
    assert everything.error == pytest.approx(0.05)
    assert everything.verdict == "within noise"
    assert found["partial > normal compound loss, tumour"].verdict == "too few seeds"
    assert found["implicit labels > masking only"].difference.n == 0
    assert everything.sampling == "multitalent"

    results = Results(tmp_path)
    for key, content in runs.items():
        results.save(key, content)
    write_report(results, ["phantoms", "real"])
    with (tmp_path / "methods.csv").open() as file:
        numbers = {(r["method"], r["quantity"]): r for r in csv.DictReader(file)}
    assert float(numbers["selected", "dice liver"]["mean"]) == pytest.approx(0.85)
    assert numbers["selected_normal", "dice liver_tumour"]["seeds"] == "1"
    assert numbers["selected_normal", "dice liver_tumour"]["sd"] == ""


def scores(**means):
    return {tuple(name.split("_in_")): mean_spread(values) for name, values in means.items()}


def test_overview_marks_the_best_partly_labelled_method():
    table = by_collection(
        {
            "phantoms": scores(
                full_sigmoid_in_cmd=[0.9], shared_in_cmd=[0.7, 0.8], naive_in_cmd=[0.5], masked_in_mdc=[1]
            ),
            "slices": scores(naive_in_cmd=[0.6], shared_in_cmd=[None]),
            "frames": scores(shared_in_uniform=[0.4]),
        },
        "cmd",
    ).splitlines()
    assert table[0] == "| method | phantoms | slices |"
    assert table[2:] == [
        "| naive (unlabelled is background) | 0.500 | **0.600** |",
        "| shared heads (default trainer) | **0.750 ± 0.071** |  |",
        "| fully labelled, sigmoid | 0.900 |  |",
    ]
    assert by_collection({"phantoms": scores(shared_in_cmd=[0.7])}, "cmd") == ""


def test_samplings_stand_side_by_side_where_a_method_has_several():
    table = by_sampling(scores(naive_in_cmd=[0.5], naive_in_uniform=[0.4], shared_in_mdc=[0.7])).splitlines()
    assert table[0] == "| method | uniform | class→modality→source |"
    assert table[2:] == ["| naive (unlabelled is background) | **0.400** | **0.500** |"]
    assert by_sampling(scores(shared_in_mdc=[0.7])) == ""


def test_report_shows_collections_side_by_side(tmp_path):
    results = Results(tmp_path)
    for collection in ("phantoms", "slices"):
        for sampling in ("cmd_anywhere", "cmd"):
            key, content = result("shared", 0, {"liver": 0.8}, sampling=sampling)
            results.save(replace(key, collection=collection), content)
    write_report(results, ["phantoms", "slices"])
    report = (tmp_path / "report.md").read_text()
    assert "## Collections side by side" in report and "| method | phantoms | slices |" in report
    assert report.count("### Mean Dice by sampling") == 2


def test_orderings_compare_like_with_like():
    runs = dict(
        [
            result("implicit", 0, {"liver": 0.8}),
            result("implicit", 0, {"liver": 0.6}, sampling="cmd"),
            result("implicit", 1, {"liver": 0.7}, sampling="cmd"),
            result("implicit_masked", 0, {"liver": 0.5}, sampling="cmd"),
            result("implicit_masked", 1, {"liver": 0.4}, sampling="cmd"),
            result("ambiguity", 0, {"liver": 0.9}, sampling="cmd"),
            result("ambiguity", 0, {"liver": 0.7}, sampling="uniform"),
        ]
    )
    found = [entry for entry in checked("phantoms", runs) if entry.difference.n]
    assert [(e.ordering.claim, e.sampling, e.difference.n) for e in found] == [
        ("implicit labels > masking only", "cmd", 2),
        ("class→modality→source > random", "", 1),
    ]
    assert found[0].difference.mean == pytest.approx((0.1 + 0.3) / 2)
    assert found[1].difference.mean == pytest.approx(0.2)


def test_results_of_other_settings_or_broken_files_are_refused(tmp_path):
    results = Results(tmp_path)
    key, content = result("shared", 0, {"liver": 0.8})
    results.save(key, content)
    assert results.is_finished(key, {"iterations": 2})
    assert not results.is_finished(replace(key, seed=1), {"iterations": 2})
    with pytest.raises(PartialError, match="iterations"):
        results.is_finished(key, {"iterations": 3})
    results.save(replace(key, seed=1), {**content, "seed": 1, "settings": {"iterations": 9}})
    with pytest.raises(PartialError, match="different settings"):
        results.load("phantoms")
    results.path(replace(key, seed=1)).write_text("{")
    with pytest.raises(PartialError, match="JSON"):
        results.load("phantoms")
    results.path(replace(key, seed=1)).write_text("{}")
    with pytest.raises(PartialError, match="expected an object"):
        results.load("phantoms")


def test_missing_device_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PartialError, match="CUDA"):
        plan.execute_all([], {}, tmp_path, "cuda", 1)


def test_losses_take_what_their_recipes_set():
    collection = phantom_collection(0, TINY, "slices")
    labels, cases = collection.labels, collection.training
    recipe = METHODS["ambiguity_slices"].recipe_with("cmd_anywhere")
    table = recipe.heads.table(labels, recipe.implied_negatives)
    assert make_loss(recipe, labels, cases, table).slice_axis == 2
    recipe = replace(METHODS["selected"].recipe_with("cmd_anywhere"), optional="spleen, liver_tumour")
    table = recipe.heads.table(labels, recipe.implied_negatives)
    names = recipe.heads.channels(labels)
    found = make_loss(recipe, labels, cases, table).optional
    assert sorted(names[channel] for channel in found) == ["liver_tumour", "spleen"]


@pytest.mark.parametrize(
    ("name", "unused"),
    [("masked", {"kidneys"}), ("selected", {"kidneys"}), ("selected_normal", set()), ("shared", set())],
)
def test_patches_come_from_the_cases_that_a_trainer_would_draw(monkeypatch, name, unused):
    """Merged kidneys teach nothing without implied negatives, but where the loss takes unknown for absent."""
    collection = phantom_collection(0, TINY)
    labels, recipe = collection.labels, METHODS[name].recipe_with("cmd_anywhere")
    streams = []

    class Watched(PatchStream):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            streams.append(self)

    monkeypatch.setattr(network, "PatchStream", Watched)
    train(recipe, labels, collection.training, TINY.patch, replace(TINY, iterations=1), 3, torch.device("cpu"))
    declared = [case for case in collection.training if labels.source_of(case.name) not in unused]
    expected = PatchStream(declared, labels, recipe.sampling, TINY.patch, 3)
    expected.batch(TINY.batch_size)  # that of the training
    (found,) = streams
    drawn = [stream.batch(200) for stream in (found, expected)]
    assert drawn[0].cases == drawn[1].cases
    assert torch.equal(drawn[0].images, drawn[1].images)
    assert ("kidneys" in {labels.source_of(case) for case in drawn[0].cases}) == (not unused)
