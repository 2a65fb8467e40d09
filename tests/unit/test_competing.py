"""Label maps in which classes that exclude each other compete, against a decision voxel by voxel in float64."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.special import expit

from nnunet_partial.cli.export import main as export
from nnunet_partial.cli.predict import main as predict
from nnunet_partial.ensemble.combination import combine_one_model_a_class
from nnunet_partial.inference import label_export
from nnunet_partial.inference.full_resolution import interpolated_channels, labels_by_slabs, labels_of_channels
from nnunet_partial.inference.label_export import export_labels
from nnunet_partial.inference.label_values import LabelValues
from nnunet_partial.inference.model.exported_model import load_exported
from nnunet_partial.inference.model.nnunet_plans import read_decoding
from nnunet_partial.inference.model.plan import Decoding, Resampling
from nnunet_partial.inference.model.rivals import competing
from nnunet_partial.inference.protocol_view import protocol_view
from nnunet_partial.inference.resampling import AxisMap, axis_maps
from nnunet_partial.inference.winners import StrongestRegion, rule_of
from nnunet_partial.labels import AnnotationSet, LabelSpace, PartialLabels
from nnunet_partial.labels.regions import with_atom_labels, with_region_labels
from tests.unit.nifti_files import read_label_map, write_noise_image
from tests.unit.test_full_resolution import plan_of, prepared_of
from tests.unit.tiny_models import make_dataset_json, make_plans, write_model

Rivals = tuple[tuple[int, ...], ...]


def rivals_of(pairs: Sequence[tuple[int, int]], channels: int) -> Rivals:
    return tuple(tuple(sorted({b for a, b in (*pairs, *(p[::-1] for p in pairs)) if a == c})) for c in range(channels))


def flat(channels: int) -> Rivals:
    return rivals_of(list(itertools.combinations(range(channels), 2)), channels)


KINDS: dict[str, Rivals] = {
    "none": rivals_of([], 4),
    "flat": flat(5),
    # 0 liver, 1 tumour and 2 vessel inside it, 3 spleen, 4 kidney
    "nested": rivals_of([(1, 2), (0, 3), (1, 3), (2, 3), (0, 4), (1, 4), (2, 4), (3, 4)], 5),
    "axes in turn": rivals_of([(0, 2), (0, 4), (2, 4), (1, 3), (1, 5), (3, 5)], 6),
    # as no label space has it: 0 excludes 1, and 1 excludes 2, which does not exclude 0
    "chain": rivals_of([(0, 1), (1, 2), (2, 3)], 4),
}


def decided(logits: np.ndarray, rivals: Rivals, values: Sequence[int]) -> np.ndarray:
    """The label of each voxel of logits (C, *S)."""
    flattened = np.asarray(logits, np.float64).reshape(len(logits), -1)
    labels = np.zeros(flattened.shape[1], int)
    for voxel, of_voxel in enumerate(flattened.T):
        for channel, logit in enumerate(of_voxel):
            beaten = any(of_voxel[r] > logit or (of_voxel[r] == logit and r < channel) for r in rivals[channel])
            if logit > 0 and not beaten:
                labels[voxel] = values[channel]
    return labels.reshape(logits.shape[1:])


def close(logits: np.ndarray, rivals: Rivals) -> np.ndarray:
    """Voxels that a rounding decides."""
    found = (np.abs(logits) < 1e-5).any(0)
    for channel, others in enumerate(rivals):
        for rival in others:
            found |= np.abs(logits[channel] - logits[rival]) < 1e-5
    return found


def decoding_of(rivals: Rivals, values: Sequence[int] | None = None) -> Decoding:
    numbers = tuple(values or range(1, len(rivals) + 1))
    return Decoding(True, numbers, tuple(map(str, numbers)), max(numbers), rivals)


def interpolated(logits: np.ndarray, maps: Sequence[AxisMap]) -> np.ndarray:
    full = logits.astype(np.float32)
    for axis, axis_map in enumerate(maps, start=1):
        full = axis_map.along(full, axis)
    return full


def maps_between(shape: Sequence[int], new_shape: Sequence[int], order_z: int = 0) -> tuple[AxisMap, AxisMap, AxisMap]:
    maps = axis_maps(Resampling("spline", 1, order_z, bool(order_z)), shape, new_shape, (1.0,) * 3, (1.0,) * 3)
    assert maps is not None
    return maps


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("smooth", [0, 2])
@pytest.mark.parametrize("dense_share", [0.0, 0.25, 1.0])
def test_equals_a_decision_of_each_interpolated_voxel(monkeypatch, seed, kind, smooth, dense_share) -> None:
    monkeypatch.setattr(label_export, "_DENSE_SHARE", dense_share)
    rng = np.random.default_rng(seed)
    rivals = KINDS[kind]
    shape, new_shape = ([int(n) for n in rng.integers(1, top, 3)] for top in (8, 14))
    logits = rng.normal(0.3, 1, (len(rivals), *shape)).astype(np.float32)
    logits = ndimage.gaussian_filter(logits, (0, *[smooth] * 3)) if smooth else logits
    maps = maps_between(shape, new_shape, seed % 2)
    values = [int(v) for v in rng.permutation(len(rivals)) + 1]
    cut = int(rng.integers(0, shape[0] + 1))
    found = export_labels([logits[:, :cut], logits[:, cut:]], maps, decoding_of(rivals, values), threads=1 + seed % 2)
    full = interpolated(logits, maps)
    different = found != decided(full, rivals, values)
    assert not (different & ~close(full, rivals)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_without_resampling_every_voxel_is_decided_by_itself(kind) -> None:
    rivals = KINDS[kind]
    logits = np.random.default_rng(0).normal(0.5, 1, (len(rivals), 6, 7, 8)).astype(np.float32)
    found = export_labels([logits], maps_between((6, 7, 8), (6, 7, 8)), decoding_of(rivals))
    np.testing.assert_array_equal(found, decided(logits, rivals, range(1, len(rivals) + 1)))


@pytest.mark.parametrize("kind", KINDS)
def test_cubic_kernels(kind) -> None:
    rivals = KINDS[kind]
    logits = np.random.default_rng(1).normal(0.3, 1, (len(rivals), 5, 6, 7)).astype(np.float32)
    prepared, plan = prepared_of((5, 6, 7), (8, 9, 10), (1.0,) * 3, (1.0,) * 3), plan_of(Resampling("spline", 3))
    found = labels_by_slabs(list(logits), prepared, plan, decoding_of(rivals))
    full = np.stack(list(interpolated_channels(logits, prepared, plan)))
    different = found != decided(full, rivals, range(1, len(rivals) + 1))
    assert not (different & ~close(full, rivals)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_whole_channels(kind) -> None:
    rivals = KINDS[kind]
    logits = np.random.default_rng(2).normal(0.3, 1, (len(rivals), 5, 6, 7)).astype(np.float32)
    found = labels_of_channels(logits, decoding_of(rivals))
    np.testing.assert_array_equal(found, decided(logits, rivals, range(1, len(rivals) + 1)))
    assert found.dtype == np.uint8


@pytest.mark.parametrize("channels", [117, 260])
def test_many_exclusive_classes_are_argmax_above_one_half(channels) -> None:
    rng = np.random.default_rng(3)
    logits = ndimage.gaussian_filter(rng.normal(-0.1, 4, (channels, 5, 6, 7)), (0, 1, 1, 1)).astype(np.float32)
    logits[:, 2, 3:, :] = -1
    maps = maps_between((5, 6, 7), (9, 11, 12))
    full = interpolated(logits, maps)
    expected = np.where(full.max(0) > 0, full.argmax(0) + 1, 0)
    assert (expected == 0).any() and len(np.unique(expected)) > 20
    found = export_labels([logits], maps, decoding_of(flat(channels)))
    assert found.dtype == (np.uint8 if channels < 255 else np.uint16)
    different = found != expected
    top = np.sort(full, 0)[-2:]
    assert not (different & (np.abs(top[1]) > 1e-5) & (top[1] - top[0] > 1e-5)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_of_equal_ones_the_first_wins(kind) -> None:
    rivals = KINDS[kind]
    rng = np.random.default_rng(4)
    logits = rng.integers(-1, 3, (len(rivals), 4, 5, 6)).astype(np.float16)
    expected = decided(logits, rivals, range(1, len(rivals) + 1))
    np.testing.assert_array_equal(
        export_labels([logits], maps_between((4, 5, 6), (4, 5, 6)), decoding_of(rivals)), expected
    )
    np.testing.assert_array_equal(labels_of_channels(logits, decoding_of(rivals)), expected)
    # between equal voxels nothing changes
    constant = np.repeat(logits[:, :1, :1, :1], 3, axis=1)
    found = export_labels([constant], maps_between((3, 1, 1), (7, 4, 4)), decoding_of(rivals))
    assert (found == expected[0, 0, 0]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_settled_holds_in_averages_and_the_rest_is_marked(kind) -> None:
    rule = StrongestRegion(KINDS[kind])
    rng = np.random.default_rng(5)
    corners = rng.normal(0.5, 1, (len(KINDS[kind]), 2, 20000)).astype(np.float32)
    settled = rule.settled(corners, corners.max(-1), np.uint8, 255)
    exact = rule.winners(corners, corners.max(-1), np.uint8)
    np.testing.assert_array_equal(settled[settled != 255], exact[settled != 255])
    same = (settled[0] == settled[1]) & (settled[0] != 255)
    differing = 0
    for weight in (0.1, 0.5, 0.9):
        average = (weight * corners[:, :1] + (1 - weight) * corners[:, 1:]).astype(np.float32)
        winner = rule.winners(average, average.max(-1), np.uint8)[0]
        np.testing.assert_array_equal(winner[same], settled[0][same])
        differing += int((winner != exact[0])[exact[0] == exact[1]].sum())
    # marks are needed where classes are neither all exclusive nor all independent
    assert (differing > 0) == (255 in settled) == (kind not in ("none", "flat"))


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_decide_as_all_channels_do(kind) -> None:
    rule = StrongestRegion(KINDS[kind])
    rng = np.random.default_rng(6)
    corners = rng.normal(0, 1, (len(KINDS[kind]), 8, 300)).astype(np.float32)
    lows, highs = corners.min(1), corners.max(1)
    candidates = rule.candidates(lows, highs)
    assert not (candidates.any(-1) & ~rule.contenders(highs.max(-1), lows[:1])).any()
    average = np.einsum("ckn,kn->cn", corners, rng.dirichlet(np.ones(8), 300).T).astype(np.float32)
    expected = rule.winners(average[:, None], average.max(-1)[:, None], np.uint8)[0]
    for voxel in range(300):
        chosen = np.flatnonzero(candidates[:, voxel])
        numbers, channels = np.arange(1, len(chosen) + 1)[:, None], chosen
        if not len(chosen):
            assert expected[voxel] == 0
            continue
        place = int(rule.winners_among(average[chosen, voxel][:, None], numbers, channels)[0])
        assert expected[voxel] == (chosen[place - 1] + 1 if place else 0)


def test_one_model_a_class_is_combined_alike() -> None:
    space = SPACE
    logits = np.random.default_rng(7).normal(0.3, 1, (len(space.classes), 300)).astype(np.float64)
    rivals = tuple(tuple(map(int, row.nonzero()[0])) for row in space.exclusive)
    expected = decided(logits, rivals, range(1, len(rivals) + 1))
    np.testing.assert_array_equal(combine_one_model_a_class(expit(logits), space), expected)


ATOMS = ("background", "tissue", "tumour", "spleen", "pancreas")
SPACE = LabelSpace(
    {"anatomy": ATOMS, "bones": ("bones.background", "rib")},
    {
        "liver": frozenset({"tissue", "tumour"}),
        "spleen": frozenset({"spleen"}),
        "rib": frozenset({"rib"}),
        "tumour": frozenset({"tumour"}),
        "pancreas": frozenset({"pancreas"}),
    },
)
LABELS = PartialLabels(
    SPACE,
    {
        "all": AnnotationSet(
            "all", "all", "CT", {0: SPACE.everything - {"spleen"}, 1: frozenset({"spleen", "bones.background", "rib"})}
        )
    },
    {"a": "all"},
)
OURS = with_region_labels(make_dataset_json(), LABELS)


def test_rivals_are_classes_of_one_axis_without_a_common_atom() -> None:
    decoding = competing(OURS, read_decoding(OURS))
    assert decoding.rivals == ((1, 4), (0, 3, 4), (), (1, 4), (0, 1, 3))
    np.testing.assert_array_equal(SPACE.exclusive, SPACE.exclusive.T)
    assert isinstance(rule_of(decoding), StrongestRegion)


def test_rivals_of_a_stock_model_are_regions_without_a_common_value() -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "cyst": [4, 4], "enhancing": 3}
    content = make_dataset_json(labels, regions_class_order=[1, 2, 4, 3])
    assert competing(content, read_decoding(content)).rivals == ((2,), (2,), (0, 1, 3), (2,))


def test_atoms_of_a_softmax_compete_by_themselves() -> None:
    labels = PartialLabels(
        LabelSpace({"anatomy": ATOMS}, {"spleen": frozenset({"spleen"})}),
        {"all": AnnotationSet("all", "all", "CT", {0: frozenset(ATOMS)})},
        {"a": "all"},
    )
    for content in (with_atom_labels(make_dataset_json(), labels), make_dataset_json()):
        assert competing(content, read_decoding(content)) == read_decoding(content)


def test_views_keep_the_rivals_of_their_channels() -> None:
    decoding = competing(OURS, read_decoding(OURS))
    view = LabelValues({"pancreas": 3, "rib": 9, "liver": 4}).view(OURS, decoding)
    assert view.channels == (4, 2, 0)
    assert view.decoding == Decoding(True, (3, 9, 4), ("pancreas", "rib", "liver"), 9, ((2,), (), (0,)))
    of_protocol = protocol_view(OURS, decoding, "all")
    assert of_protocol.decoding.names == ("liver", "spleen", "tumour", "pancreas")
    assert of_protocol.decoding.rivals == ((1, 3), (0, 2, 3), (1, 3), (0, 1, 2))


def test_commands(tmp_path, capsys) -> None:
    content = make_dataset_json({"background": 0, "a": [1, 1], "b": [2, 2], "c": [3, 3]}, regions_class_order=[1, 2, 3])
    model, images = write_model(tmp_path / "model", make_plans(), content), write_noise_image(tmp_path / "images")

    def run(output: str, *more: str, model: Path = model) -> int:
        words = ["-i", str(images), "-o", str(tmp_path / output), "-m", str(model), "--mode", "fast"]
        return predict([*words, "-device", "cpu", "--threads", "1", "--precision", "fp32", *more])

    assert run("stock", "--save_probabilities") == 0
    probabilities = np.stack(
        [nib.load(tmp_path / "stock" / "a_probabilities" / f"{name}.nii.gz").get_fdata() for name in "abc"]
    )
    assert run("competing", "--compete") == 0
    found, stock = read_label_map(tmp_path / "competing"), read_label_map(tmp_path / "stock")
    assert (found != stock).mean() > 0.05
    np.testing.assert_array_equal(found == 0, stock == 0)
    # written probabilities have 8 bits
    best = np.sort(probabilities, 0)
    clear = (found > 0) & (best[-1] - best[-2] > 1)
    assert clear.sum() > 50
    np.testing.assert_array_equal(found[clear], probabilities.argmax(0)[clear] + 1)
    record = json.loads((tmp_path / "competing" / "prediction.json").read_text())
    assert record["settings"]["compete"] is True
    capsys.readouterr()
    assert run("competing", "--continue_prediction") == 1
    assert "predictions with 'compete' True, now it is False" in capsys.readouterr().err

    exported = tmp_path / "exported"
    assert export(["-m", str(model), "-o", str(exported), "--formats", "torch", "--compete"]) == 0
    assert load_exported(exported).plan.decoding.rivals == flat(3)
    assert run("default", model=exported) == 0
    np.testing.assert_array_equal(read_label_map(tmp_path / "default"), found)
    assert run("not", "--no-compete", model=exported) == 0
    np.testing.assert_array_equal(read_label_map(tmp_path / "not"), stock)
    # masks are those of single classes, whatever competes in label maps
    assert run("masks", "--output", "classes", model=exported) == 0
    masks = [nib.load(tmp_path / "masks" / "a" / f"{name}.nii.gz").get_fdata() > 0 for name in "abc"]
    painted = np.zeros(stock.shape, int)
    for value, mask in enumerate(masks, start=1):
        painted[mask] = value
    np.testing.assert_array_equal(painted, stock)
    for output in ("classes", "seg.nrrd"):
        with pytest.raises(SystemExit):
            run("refused", "--compete", "--output", output)
        assert "--compete gives label maps; leave out --output" in capsys.readouterr().err


def test_label_values_of_a_competing_export(tmp_path) -> None:
    content = make_dataset_json({"background": 0, "a": [1, 1], "b": [2, 2], "c": [3, 3]}, regions_class_order=[1, 2, 3])
    model, images = write_model(tmp_path / "model", make_plans(), content), write_noise_image(tmp_path / "images")
    values = tmp_path / "values.json"
    values.write_text(json.dumps({"c": 30, "b": 20, "a": 10}))
    words = ["-i", str(images), "-m", str(model), "-device", "cpu", "--mode", "fast", "--compete"]
    assert predict([*words, "-o", str(tmp_path / "own")]) == 0
    assert predict([*words, "-o", str(tmp_path / "chosen"), "--label_values", str(values)]) == 0
    # whatever the order: one class is left at each voxel
    np.testing.assert_array_equal(read_label_map(tmp_path / "chosen"), 10 * read_label_map(tmp_path / "own"))


def test_old_exports_do_not_compete(tmp_path) -> None:
    model = write_model(tmp_path / "model", make_plans(), OURS)
    assert export(["-m", str(model), "-o", str(tmp_path / "exported"), "--formats", "torch"]) == 0
    path = tmp_path / "exported" / "prediction_plan.json"
    document = json.loads(path.read_text())
    assert document["plan"]["decoding"].pop("rivals") is None
    path.write_text(json.dumps(document))
    plan = load_exported(tmp_path / "exported").plan
    assert plan.decoding == replace(plan.decoding, rivals=None)
