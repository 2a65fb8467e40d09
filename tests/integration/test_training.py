"""Training in this process: resuming, configurations, folds, transfer, and classes that validation lacks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_partial.demo.pipeline import Pipeline
from nnunet_partial.errors import LabelError, PartialError
from nnunet_partial.labels import one_axis_per_source, partial_labels_of
from nnunet_partial.networks.plan_variants import plan_variant
from tests.integration import workspace

MakeTrainer = Callable[..., Any]


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in trainer.network.state_dict().items()}


def test_resumed_training_gives_the_weights_of_an_uninterrupted_one(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_partial_epochs", "3")
    whole = make_trainer()
    whole.run_training()

    monkeypatch.setenv("nnUNet_results", str(tmp_path / "interrupted"))
    first = make_trainer()
    start_epoch = first.on_epoch_start

    def interrupt() -> None:
        if first.current_epoch == 2:
            raise KeyboardInterrupt
        start_epoch()

    monkeypatch.setattr(first, "on_epoch_start", interrupt)
    with pytest.raises(KeyboardInterrupt):
        first.run_training()
    torch.manual_seed(987)
    np.random.seed(987)  # noqa: NPY002 - whatever state the new process is in must not matter
    second = make_trainer(resume=True)
    second.load_checkpoint(str(Path(second.output_folder) / "checkpoint_latest.pth"))
    assert second.current_epoch == 2
    second.run_training()
    for name, expected in weights(whole).items():
        assert torch.equal(expected, second.network.state_dict()[name]), name


def test_two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    for seed in ("1", "1", "2"):
        monkeypatch.setenv("nnUNet_partial_seed", seed)
        trainer = make_trainer()
        trainer.run_training()
        runs.append(weights(trainer))
    name = next(iter(runs[0]))
    assert torch.equal(runs[0][name], runs[1][name])
    assert not torch.equal(runs[0][name], runs[2][name])


def test_workers_change_nothing_but_the_speed(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = {}
    for workers in (0, 2):
        monkeypatch.setenv("nnUNet_n_proc_DA", str(workers))
        trainer = make_trainer()
        trainer.initialize()
        loader, _ = trainer.get_dataloaders()
        batches[workers] = [next(loader) for _ in range(4)]
        if workers:
            loader._finish()
    for alone, shared in zip(batches[0], batches[2], strict=True):
        assert list(alone["keys"]) == list(shared["keys"])
        assert torch.equal(alone["data"], shared["data"])
        assert torch.equal(alone["target"][0], shared["target"][0])


def test_the_loader_hands_out_integer_maps(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.initialize()
    batch = next(trainer.get_dataloaders()[0])
    assert batch["target"][0].dtype == torch.int16
    assert batch["target"][0].shape == (2, 1, 32, 32, 32)


def test_left_right_axis_is_not_mirrored(make_trainer: MakeTrainer, nnunet: Path) -> None:
    trainer = make_trainer()
    trainer.initialize()
    trainer.get_dataloaders()
    assert trainer.inference_allowed_mirroring_axes == (0, 1)
    content = json.loads((nnunet / "dataset.json").read_text())
    content["partial_labels"]["sides"] = {"classes": [], "axes": [2]}
    without_sides = make_trainer(dataset_json=content)
    without_sides.initialize()
    without_sides.get_dataloaders()
    assert without_sides.inference_allowed_mirroring_axes == (0, 1, 2)


def test_multitalent_trains_one_head_a_source_and_class(make_trainer: MakeTrainer, nnunet: Path) -> None:
    trainer = make_trainer("PartialLabelTrainerMultiTalent")
    trainer.run_training()
    trainer.perform_actual_validation()
    expected = one_axis_per_source(partial_labels_of(json.loads((nnunet / "dataset.json").read_text())))
    assert trainer.partial_labels.class_names == expected.class_names
    assert {"lits.liver", "organs.liver", "lits.liver_tumour"} <= set(expected.class_names)
    assert trainer.network.decoder.seg_layers[-1].out_channels == len(expected.class_names)
    summary = json.loads((Path(trainer.output_folder) / "validation" / "summary.json").read_text())
    assert set(summary["per_source"]) <= {"lits", "organs", "sided", "kidneys"}


def test_plans_that_validation_could_not_predict_are_refused_before_training(
    make_trainer: MakeTrainer, nnunet: Path
) -> None:
    plans = json.loads((nnunet / "nnUNetPlans_small.json").read_text())
    plans["configurations"]["3d_fullres"]["resampling_fn_probabilities"] = "my_resampling"
    trainer = make_trainer(plans=plans)
    with pytest.raises(PartialError, match="my_resampling"):
        trainer.initialize()


def test_validation_only_repeats_the_scores(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.run_training()
    trainer.perform_actual_validation()
    file = Path(trainer.output_folder) / "validation" / "summary.json"
    first = json.loads(file.read_text())
    file.unlink()
    again = make_trainer()
    again.load_checkpoint(str(Path(again.output_folder) / "checkpoint_final.pth"))
    again.perform_actual_validation()
    assert json.loads(file.read_text()) == first
    cases = {Path(c["reference_file"]).name[: -len(".nii.gz")] for c in first["metric_per_case"]}
    assert cases == set(trainer.do_split()[1])


def test_pretrained_weights(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    source = make_trainer()
    source.run_training()
    checkpoint = Path(source.output_folder) / "checkpoint_final.pth"
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "transferred"))
    monkeypatch.setenv("nnUNet_partial_seed", "4")
    target = make_trainer("PartialLabelTrainerMultiTalent")
    target.initialize()
    load_pretrained_weights(target.network, str(checkpoint))
    before, after = source.network.state_dict(), target.network.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if ".seg_layers." not in k)


def train_and_validate(trainer: Any) -> dict[str, Any]:
    trainer.run_training()
    trainer.perform_actual_validation()
    return json.loads((Path(trainer.output_folder) / "validation" / "summary.json").read_text())


def test_two_dimensions(make_trainer: MakeTrainer, nnunet: Path) -> None:
    plans = json.loads((nnunet / "nnUNetPlans.json").read_text())
    small = {"patch_size": (32, 32), "features": (4, 8, 8), "batch_size": 2}
    trainer = make_trainer(configuration="2d", plans=plan_variant(plans, "small", "flat", configuration="2d", **small))
    summary = train_and_validate(trainer)
    assert trainer.inference_allowed_mirroring_axes == (0,)
    assert summary["metric_per_case"]


def test_residual_encoder_plans(make_trainer: MakeTrainer, nnunet: Path, prepared: tuple[Pipeline, Path]) -> None:
    prepared[0].run("nnUNetv2_plan_experiment", "-d", str(workspace.DATASET_ID), "-pl", "nnUNetPlannerResEncM")
    plans = json.loads((nnunet / "nnUNetResEncUNetMPlans.json").read_text())
    small = {"patch_size": (32, 32, 32), "features": (4, 8, 8), "batch_size": 2}
    trainer = make_trainer(plans=plan_variant(plans, "small", "residual", **small))
    summary = train_and_validate(trainer)
    assert type(trainer.network).__name__ == "ResidualEncoderUNet"
    assert summary["metric_per_case"]


def test_fold_all(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(fold="all")
    trainer.run_training()
    assert Path(trainer.output_folder).name == "fold_all"
    assert math.isfinite(trainer.logger.get_value("train_losses", step=-1))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("PartialLabelTrainer", {}),
        ("PartialLabelTrainerImplicit", {}),
        ("PartialLabelTrainerAmbiguity", {"slices": "axial"}),
    ],
)
def test_missing_splits_are_made_by_source(
    make_trainer: MakeTrainer, nnunet: Path, monkeypatch: pytest.MonkeyPatch, name: str, settings: dict[str, str]
) -> None:
    """Some losses need the training cases before nnU-Net has made folds."""
    for setting, text in settings.items():
        monkeypatch.setenv(f"nnUNet_partial_{setting}", text)
    monkeypatch.delenv("nnUNet_raw")
    splits_file = nnunet / "splits_final.json"
    written = splits_file.read_text()
    splits_file.unlink()
    try:
        trainer = make_trainer(name)
        trainer.initialize()
        training, _ = trainer.do_split()
        made = json.loads(splits_file.read_text())
    finally:
        splits_file.write_text(written)
    assert made == json.loads(written)
    assert training == made[0]["train"]


def test_missing_splits_are_those_of_the_raw_dataset(
    make_trainer: MakeTrainer, nnunet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They outlive the preprocessed folder."""
    splits_file = nnunet / "splits_final.json"
    written = splits_file.read_text()
    splits = json.loads(written)
    raw_file = tmp_path / "raw" / nnunet.name / "splits_final.json"
    raw_file.parent.mkdir(parents=True)
    raw_file.write_text(json.dumps(splits[::-1]))
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    splits_file.unlink()
    try:
        trainer = make_trainer()
        assert trainer.do_split() == (splits[-1]["train"], splits[-1]["val"])
        assert json.loads(splits_file.read_text()) == splits[::-1]
    finally:
        splits_file.write_text(written)
    assert f"Folds: copied from {raw_file}" in Path(trainer.log_file).read_text()


def test_a_fold_beyond_the_splits_shares_no_patient(make_trainer: MakeTrainer, nnunet: Path) -> None:
    description = json.loads((nnunet / "dataset.json").read_text())
    cases = sorted(description["partial_labels"]["cases"])
    description["partial_labels"]["patients"] = {case: f"patient {place // 2}" for place, case in enumerate(cases)}
    before = (nnunet / "splits_final.json").read_text()
    trainer = make_trainer(fold=7, dataset_json=description)
    training, validation = trainer.do_split()
    patient = trainer.partial_labels.patient_of
    assert sorted(training + validation) == cases
    assert not {patient(case) for case in training} & {patient(case) for case in validation}
    assert make_trainer(fold=7, dataset_json=description).do_split() == (training, validation)
    assert make_trainer(fold=8, dataset_json=description).do_split() != (training, validation)
    assert (nnunet / "splits_final.json").read_text() == before
    assert "has 5 folds; fold 7 is drawn, by patient" in Path(trainer.log_file).read_text()


def test_numbers_set_as_nnunets_variants_set_them(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_partial_epochs")
    trainer = make_trainer()
    assert trainer.num_epochs == 1000
    trainer.num_epochs, trainer.initial_lr, trainer.weight_decay = 250, 1e-3, 1e-2
    trainer.initialize()
    (group,) = trainer.optimizer.param_groups
    assert group["weight_decay"] == 1e-2
    for epoch in (0, 100, 249):
        trainer.lr_scheduler.step(epoch)
        assert group["lr"] == pytest.approx(1e-3 * (1 - epoch / 250) ** 0.9)


def test_classes_that_validation_lacks_leave_no_nan(make_trainer: MakeTrainer, nnunet: Path) -> None:
    splits_file = nnunet / "splits_final.json"
    splits = json.loads(splits_file.read_text())
    cases = sorted(splits[0]["train"] + splits[0]["val"])
    kidneys = [c for c in cases if c.startswith("kidneys")]
    only_kidneys = {"train": [c for c in cases if c not in kidneys], "val": kidneys}
    try:
        splits_file.write_text(json.dumps([only_kidneys]))
        # merged kidneys annotate neither side: there is no class with a Dice at all
        trainer = make_trainer()
        trainer.run_training()
        trainer.perform_actual_validation()
    finally:
        splits_file.write_text(json.dumps(splits))
    assert math.isfinite(trainer.logger.get_value("ema_fg_dice", step=-1))
    summary = json.loads((Path(trainer.output_folder) / "validation" / "summary.json").read_text())
    assert set(summary["not_annotated"]) == set(trainer.partial_labels.class_names)
    assert summary["mean"] == {}
    assert "NaN" not in json.dumps(summary)


def test_adamw_and_the_prior_of_the_heads(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_partial_optimizer", "adamw")
    trainer = make_trainer()
    trainer.initialize()
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    biases = torch.cat([head.bias for head in trainer.network.decoder.seg_layers])
    assert torch.sigmoid(biases).tolist() == pytest.approx([0.01] * len(biases))
    published = make_trainer("PartialLabelTrainerMultiTalent")
    published.initialize()
    assert not torch.allclose(published.network.decoder.seg_layers[-1].bias, torch.tensor(math.log(0.01 / 0.99)))


def test_a_cascade_is_refused(make_trainer: MakeTrainer, nnunet: Path) -> None:
    plans = json.loads((nnunet / "nnUNetPlans_small.json").read_text())
    lowres = dict(plans["configurations"]["3d_fullres"])
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    plans["configurations"]["3d_lowres"] = {**lowres, "next_stage": "3d_cascade_fullres"}
    with pytest.raises(LabelError, match="is a cascade"):
        make_trainer(plans=plans, configuration="3d_cascade_fullres")


def test_a_configuration_that_was_not_planned_is_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(LabelError, match="is not in the plans"):
        make_trainer(configuration="3d_lowres")


def test_a_dataset_without_the_block_is_refused(make_trainer: MakeTrainer, nnunet: Path) -> None:
    content = json.loads((nnunet / "dataset.json").read_text())
    del content["partial_labels"]
    with pytest.raises(LabelError, match="nothing says what was annotated"):
        make_trainer(dataset_json=content)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("nnUNet_partial_epochs", "ten", "expected a whole number, found 'ten'"),
        ("nnUNet_partial_epochs", "0", "expected a number of at least 1"),
        ("nnUNet_partial_weight_decay", "-1", "expected a number of at least 0"),
        ("nnUNet_partial_optimizer", "lion", "expected one of sgd, adamw"),
        ("nnUNet_partial_learning_rate", "fast", "expected a number"),
        ("nnUNet_partial_epoch", "3", "is no setting"),
    ],
)
def test_settings_are_checked(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(PartialError, match=message):
        make_trainer()
