"""The models of the benchmark of prediction: trained, widened to any number of classes, and read by nnU-Net."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_partial.inference.predictor import open_predictor
from tests.bench.inference import models, training
from tests.bench.inference.bench import Bench
from tests.bench.inference.models import Model, prepare_model, widened_heads
from tests.bench.inference.plans import CONFIGURATION, PLANS, TORCH_PLANS, make_dataset_json, make_plans
from tests.bench.inference.presets import PRESETS, Phase, Training
from tests.bench.inference.volumes import CLASSES

TINY = replace(
    PRESETS["tiny"],
    network=replace(PRESETS["tiny"].network, patch=(8, 8, 8), features=(2, 4)),
    training=Training(
        phantoms=1, shape=(16, 16, 16), phases=(Phase((4, 4, 4), 2, 2, 1e-2), Phase((8, 8, 8), 1, 1, 1e-2))
    ),
)
STATISTICS = {"mean": 1.0, "std": 2.0, "percentile_00_5": -3.0, "percentile_99_5": 4.0}


@pytest.fixture(autouse=True)
def threads():
    """A training takes the threads of its process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("decoding", ["regions", "argmax"])
@pytest.mark.parametrize("classes", [2, 14, 47])
def test_nnunet_reads_as_many_heads(tmp_path, decoding, classes):
    plans = make_plans(TINY.network, STATISTICS)
    manager = PlansManager(plans).get_label_manager(
        make_dataset_json([f"class_{n}" for n in range(1, classes)], decoding)
    )
    model = Model(tmp_path, classes, decoding)
    assert manager.has_regions == (decoding == "regions")
    assert manager.num_segmentation_heads == model.heads == classes - (decoding == "regions")
    assert len(str(model.dataset).split("_")[0]) == len("Dataset014")


def test_plans_differ_in_resampling_only():
    stock, by_torch = (make_plans(PRESETS["full"].network, STATISTICS, name) for name in (PLANS, TORCH_PLANS))
    one, other = (PlansManager(p).get_configuration(CONFIGURATION) for p in (stock, by_torch))
    assert one.resampling_fn_probabilities.func.__name__ == "resample_data_or_seg_to_shape"
    assert one.resampling_fn_probabilities.keywords["order"] == 1
    assert one.resampling_fn_data.keywords["order"] == 3
    assert other.resampling_fn_probabilities.func.__name__ == "resample_torch_fornnunet"
    assert list(one.patch_size) == list(other.patch_size) == [128, 128, 128]
    assert list(one.spacing) == [2.42, 1.95, 1.95]
    assert stock["plans_name"] == PLANS and by_torch["plans_name"] == TORCH_PLANS
    assert (
        stock["configurations"][CONFIGURATION]["architecture"]
        == by_torch["configurations"][CONFIGURATION]["architecture"]
    )


def heads(features=4):
    torch.manual_seed(0)
    return torch.randn(13, features, 1, 1, 1), torch.randn(13), torch.randn(13, features)


@pytest.mark.parametrize("decoding", ["regions", "argmax"])
def test_trained_heads_stay(tmp_path, decoding):
    weight, bias, means = heads()
    for classes in (2, 14, 47):
        wide, shifts = widened_heads(weight, bias, means, Model(tmp_path, classes, decoding))
        background = decoding == "argmax"
        count = min(classes - 1, 13)
        assert wide.shape == (classes - 1 + background, 4, 1, 1, 1)
        torch.testing.assert_close(wide[background : count + background], weight[:count])
        torch.testing.assert_close(shifts[background : count + background], bias[:count])
        if background:
            assert not wide[0].any() and shifts[0] == 0


def test_further_heads_divide_what_their_parents_find(tmp_path):
    weight, bias, means = heads()
    parent = torch.arange(46) % 13
    at_mean = (weight[parent].flatten(1) * means[parent]).sum(1) + bias[parent]
    generation = torch.arange(46) // 13

    wide, shifts = widened_heads(weight, bias, means, Model(tmp_path, 47, "regions"))
    found = (wide.flatten(1) * means[parent]).sum(1) + shifts
    # of a class's voxels each further head takes those that are surer by a quarter of the mean logit
    torch.testing.assert_close(found, at_mean - at_mean.clamp(min=0) * generation / 4, atol=1e-4, rtol=1e-4)
    assert (wide[13:] != weight[parent][13:]).all()

    wide, shifts = widened_heads(weight, bias, means, Model(tmp_path, 47, "argmax"))
    found = (wide[1:].flatten(1) * means[parent]).sum(1) + shifts[1:]
    # all heads of a class meet in its mean
    torch.testing.assert_close(found, at_mean, atol=1e-4, rtol=1e-4)


def test_training_is_kept_until_its_sizes_change(tmp_path, monkeypatch):
    first = training.train(tmp_path, TINY, 1)
    assert first.feature_means.shape == (len(CLASSES), 2)
    with monkeypatch.context() as untrained:
        untrained.setattr(training, "fit", lambda *_: pytest.fail("trained again"))
        again = training.train(tmp_path, TINY, 1)
    for name, tensor in first.weights.items():
        torch.testing.assert_close(again.weights[name], tensor)
    torch.testing.assert_close(again.feature_means, first.feature_means)
    assert again.statistics == first.statistics
    longer = replace(TINY, training=replace(TINY.training, phases=TINY.training.phases * 2))
    other = training.train(tmp_path, longer, 1)
    assert any((other.weights[name] != tensor).any() for name, tensor in first.weights.items())


def test_loss_falls_where_the_prediction_is_right():
    labels = torch.randint(0, 14, (2, 6, 6, 6))
    right = 20 * (torch.nn.functional.one_hot(labels, 14).movedim(-1, 1)[:, 1:].float() - 0.5)
    assert float(training._loss(right, labels)) < 1e-3 < float(training._loss(torch.zeros_like(right), labels))


def test_loss_of_patches_without_a_class():
    labels = torch.zeros((2, 4, 4, 4), dtype=torch.long)
    logits = torch.zeros((2, 13, 4, 4, 4), requires_grad=True)
    loss = training._loss(logits, labels)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.log(torch.tensor(2.0)))
    assert logits.grad is not None and bool((logits.grad > 0).all())


@pytest.mark.parametrize(("edge", "expected"), [(4, False), (6, True), (8, True)])
def test_reduced_precision_is_for_images_of_three_voxels(edge, expected, monkeypatch):
    monkeypatch.setattr(training, "has_bf16", lambda: True)
    plans = make_plans(TINY.network, STATISTICS)
    assert training._in_bf16(plans, (edge, 8, 8), torch.device("cpu")) is expected
    assert training._in_bf16(plans, (edge, 8, 8), torch.device("cuda"))


def test_models_are_predicted_with_and_made_once(tmp_path):
    bench = Bench(tmp_path, TINY, 1, 1, tuple(TINY.volumes), (2, 14))
    model = prepare_model(bench, 14)
    assert model.folder() != model.folder(TORCH_PLANS)
    checkpoint = model.folder() / "fold_0" / "checkpoint_final.pth"
    stamp = checkpoint.stat().st_mtime_ns
    predictor = open_predictor(model.folder(), folds=[0], device="cpu", mirroring=False)
    assert predictor.plan.decoding.regions and len(predictor.plan.decoding.values) == 13
    assert predictor.plan.normalizations[0].statistics["std"] > 1
    by_torch = open_predictor(model.folder(TORCH_PLANS), folds=[0], device="cpu")
    assert by_torch.plan.logit_resampling.kind == "torch"
    prepare_model(bench, 14)
    assert checkpoint.stat().st_mtime_ns == stamp
    environment = models.environment(bench)
    assert environment["nnUNet_results"] == str(model.results) and environment["OMP_NUM_THREADS"] == "1"
    assert json.loads((model.folder() / "dataset.json").read_text())["regions_class_order"] == list(range(1, 14))
