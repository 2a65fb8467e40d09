"""Every method trains, validates and is predicted by stock nnU-Net; fine-tuning goes through its phases."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from batchgenerators.utilities.file_and_folder_operations import load_pickle

from nnunet_partial import trainers
from nnunet_partial.demo.pipeline import Pipeline
from nnunet_partial.errors import LabelError, PartialError
from nnunet_partial.labels import partial_labels_of
from nnunet_partial.losses import positive_weights_of
from nnunet_partial.networks.plan_variants import plan_variant
from nnunet_partial.sampling import Draws, outside_values
from nnunet_partial.training import partial_trainer
from tests.integration.workspace import LOOKED_AT

MakeTrainer = Callable[..., Any]

METHODS = [n for n in trainers.__all__ if n not in ("PartialLabelTrainer", "PartialLabelTrainerFineTune")]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_and_validates(make_trainer: MakeTrainer, name: str) -> None:
    trainer = make_trainer(name)
    trainer.run_training()
    trainer.perform_actual_validation()
    assert math.isfinite(trainer.logger.get_value("train_losses", step=-1))
    summary = json.loads((Path(trainer.output_folder) / "validation" / "summary.json").read_text())
    classes = set(summary["classes"].values()) | set(summary["not_annotated"])
    assert set(trainer.partial_labels.class_names) <= classes
    rows = (Path(trainer.output_folder) / "sampling.csv").read_text().splitlines()
    assert rows[0] == "epoch,level,name,declared,realised,draws"
    assert any(",source,lits," in row for row in rows)


def test_stock_predict_decodes_a_softmax_as_our_validation_does(
    make_trainer: MakeTrainer, prepared: tuple[Pipeline, Path], tmp_path: Path
) -> None:
    pipeline, merged = prepared
    trainer = make_trainer("PartialLabelTrainerAmbiguity")
    trainer.run_training()
    trainer.perform_actual_validation()
    validation = Path(trainer.output_folder) / "validation"
    case = next(iter(sorted(validation.glob("*.nii.gz")))).name.removesuffix(".nii.gz")
    images = tmp_path / "images"
    images.mkdir()
    (images / f"{case}_0000.nii.gz").symlink_to((merged / "imagesTr" / f"{case}_0000.nii.gz").resolve())
    pipeline.run(
        *("nnUNetv2_predict", "-i", images, "-o", tmp_path / "out", "-d", merged.name, "-c", "3d_fullres", "-f", "0"),
        *("-tr", "PartialLabelTrainerAmbiguity", "-p", "nnUNetPlans_small", "-device", "cpu", "-npp", "1", "-nps", "1"),
        settings={"nnUNet_results": str(tmp_path / "results")},
    )
    ours = np.asarray(nib.load(validation / f"{case}.nii.gz").dataobj)
    theirs = np.asarray(nib.load(tmp_path / "out" / f"{case}.nii.gz").dataobj)
    # nnU-Net sums windows in half precision, and a network that has hardly learned anything is undecided in many places
    assert np.mean(ours != theirs) < 0.02
    content = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert list(content["labels"]) == ["background", *trainer.partial_labels.space.atoms[1:]]


def test_positive_weights_are_those_of_the_training_cases(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("PartialLabelTrainerImplicit")
    trainer.initialize()
    labels = trainer.partial_labels
    training, _ = trainer.get_tr_and_val_datasets()
    values = labels.states.shape[1]
    cases = list(training.identifiers)
    maps = [np.asarray(training.load_case(case)[1][:]) for case in cases]
    # before the loss, what lies outside the nonzero mask becomes 0, or the ignore label where a case has one
    outside = outside_values(labels)[[labels.row_of(case) for case in cases]]
    assert {case.split("_")[0] for case, value in zip(cases, outside, strict=True) if value} == {"sparse"}
    inside = [np.where(m < 0, value, m) for m, value in zip(maps, outside, strict=True)]
    counts = np.array([np.bincount(m.ravel(), minlength=values) for m in inside])
    expected = positive_weights_of(counts, labels.states[[labels.row_of(case) for case in cases]])
    found = trainer.loss.loss.loss.positive_weights
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    assert (expected > 1).all()


def test_masking_only_shows_the_loss_fewer_known_voxels(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_trainer("PartialLabelTrainerImplicit")
    monkeypatch.setenv("nnUNet_partial_implied_negatives", "0")
    masked = make_trainer("PartialLabelTrainerImplicit")
    assert (masked.loss_table >= 0).sum() < (whole.loss_table >= 0).sum()
    masked.run_training()
    assert math.isfinite(masked.logger.get_value("train_losses", step=-1))


@pytest.mark.parametrize("slices", ["axial", "sagittal"])
def test_slicewise_loss(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, slices: str) -> None:
    monkeypatch.setenv("nnUNet_partial_slices", slices)
    read: list[str] = []
    monkeypatch.setattr(partial_trainer, "load_pickle", lambda file: read.append(file) or load_pickle(file))
    trainer = make_trainer("PartialLabelTrainerAmbiguity")
    trainer.run_training()
    assert trainer.loss.loss.loss.slice_axis == {"axial": 0, "sagittal": 2}[slices]
    assert math.isfinite(trainer.logger.get_value("train_losses", step=-1))
    training, _ = trainer.sources.datasets
    assert len(read) == len(training.identifiers)
    assert log_of(trainer).count("Desired fold for training") == 1


@pytest.mark.parametrize(("slices", "fits"), [("axial", True), ("sagittal", False)])
def test_slices_of_two_dimensions(
    make_trainer: MakeTrainer, nnunet: Path, monkeypatch: pytest.MonkeyPatch, slices: str, fits: bool
) -> None:
    monkeypatch.setenv("nnUNet_partial_slices", slices)
    plans = json.loads((nnunet / "nnUNetPlans.json").read_text())
    small = {"patch_size": (32, 32), "features": (4, 8, 8), "batch_size": 2}
    flat = plan_variant(plans, "small", "flat", configuration="2d", **small)
    trainer = make_trainer("PartialLabelTrainerAmbiguity", configuration="2d", plans=flat)
    if fits:
        trainer.initialize()
        assert trainer.loss.loss.loss.slice_axis is None
    else:
        with pytest.raises(PartialError, match="slices=sagittal: the 2D patches of configuration '2d' lie across"):
            trainer.initialize()


def log_of(trainer: Any) -> str:
    return Path(trainer.log_file).read_text()


def test_slices_that_nobody_looked_at_stay_unknown(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two slices of the sparse cases were looked at; turned, mirrored, scaled and cut off they stay about two."""
    monkeypatch.setenv("nnUNet_partial_slices", "axial")
    trainer = make_trainer("PartialLabelTrainerAmbiguity")
    trainer.initialize()
    labels = trainer.partial_labels
    loader = trainer.get_dataloaders()[0].data_loader
    loader.draws = Draws.anywhere([c for c in loader.draws.cases if c.startswith("sparse")], labels)
    told = ~torch.from_numpy(labels.possible.all(-1))
    telling = []
    for _ in range(20):
        batch = next(loader)
        for key, target in zip(batch["keys"], batch["target"][0], strict=True):
            known = told[labels.row_of(str(key))][target[0].long()]
            telling.append(int(known.flatten(1).any(1).sum()))
    assert max(telling) <= 2 * len(LOOKED_AT)
    assert np.mean(telling) > 1


def test_cases_that_are_never_drawn_are_reported(make_trainer: MakeTrainer) -> None:
    for name, reported in (("PartialLabelTrainer", False), ("PartialLabelTrainerAmbiguity", True)):
        trainer = make_trainer(name)
        trainer.initialize()
        case = next(c for c in trainer.sources.datasets[0].identifiers if c.startswith("lits"))
        trainer.sources.counts.of[case][1:] = 0
        trainer.sources.report_missing()
        labelled = sum(trainer.partial_labels.is_informative(c) for c in trainer.sources.datasets[0].identifiers)
        line = f"Warning: 1 of {labelled} labelled training cases are never drawn"
        assert (line in log_of(trainer)) == reported


def declared_sources(trainer: Any) -> dict[str, float]:
    rows = [row.split(",") for row in (Path(trainer.output_folder) / "sampling.csv").read_text().splitlines()]
    return {name: float(share) for _, level, name, share, *_ in rows if level == "source"}


def test_labelled_cases_that_teach_nothing_are_reported(make_trainer: MakeTrainer) -> None:
    """The two cases of merged kidneys annotate neither side."""
    trainer = make_trainer("PartialLabelTrainerSelected", fold="all")
    trainer.run_training()
    cases = trainer.sources.datasets[0].identifiers
    labelled = sum(trainer.partial_labels.is_informative(c) for c in cases)
    log = log_of(trainer)
    assert f"Warning: 2 of {labelled} labelled training cases are not used" in log
    assert "without implied negatives: 2 of 2 of source 'kidneys'; " in log
    assert "are never drawn" not in log
    declared = declared_sources(trainer)
    assert declared["kidneys"] == 0 and declared["lits"] > 0
    assert not any(str(name).startswith("kidneys") for name in trainer.sources.draws[1].cases)


def test_classes_that_count_everywhere_leave_no_case_unused(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_partial_optional", "spleen")
    monkeypatch.setenv("nnUNet_partial_iterations", "1")
    trainer = make_trainer("PartialLabelTrainerSelected", fold="all")
    trainer.run_training()
    assert "are not used" not in log_of(trainer)
    assert declared_sources(trainer)["kidneys"] > 0


def test_a_training_without_a_case_to_learn_from_says_why(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer("PartialLabelTrainerSelected", fold="all")
    trainer.initialize()
    cases = [c for c in trainer.sources.datasets[0].identifiers if c.startswith("kidneys")]
    monkeypatch.setattr(trainer.sources.datasets[0], "identifiers", cases)
    with pytest.raises(LabelError, match="of this fold"):
        trainer.sources.report_missing()
    assert "Warning: 2 of 2 labelled training cases are not used" in log_of(trainer)


def test_weights_of_the_ambiguity_losses_are_settings(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {"entropy_weight": "0", "entropy_weight_unannotated": "0.5", "smoothing": "1"}.items():
        monkeypatch.setenv(f"nnUNet_partial_{name}", text)
    trainer = make_trainer("PartialLabelTrainerAmbiguity")
    trainer.initialize()
    loss = trainer.loss.loss.loss
    assert (loss.entropy_weight, loss.entropy_weight_unannotated, loss.smoothing) == (0, 0.5, 1)
    assert "entropy_weight=0.0, entropy_weight_unannotated=0.5, smoothing=1.0" in log_of(trainer)


def test_classes_that_all_cases_annotate(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_partial_optional", "spleen, liver")
    trainer = make_trainer("PartialLabelTrainerSelected")
    trainer.run_training()
    names = list(trainer.channel_names)
    assert trainer.loss.loss.loss.optional == (names.index("spleen"), names.index("liver"))
    assert math.isfinite(trainer.logger.get_value("train_losses", step=-1))
    monkeypatch.setenv("nnUNet_partial_optional", "splen")
    with pytest.raises(PartialError, match=r"'splen'.* are no classes"):
        make_trainer("PartialLabelTrainerSelected").initialize()


def test_one_class_of_many(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_partial_classes", "spleen")
    monkeypatch.setenv("nnUNet_partial_implied_negatives", "0")
    trainer = make_trainer("PartialLabelTrainerImplicit")
    trainer.run_training()
    assert trainer.network.decoder.seg_layers[-1].out_channels == 1
    declared = declared_sources(trainer)
    assert {name for name, share in declared.items() if share} == {"organs", "sparse"}  # they label the spleen


def test_a_softmax_needs_one_axis(make_trainer: MakeTrainer, nnunet: Path) -> None:
    from nnunet_partial.labels import one_axis_per_source, to_json

    content = json.loads((nnunet / "dataset.json").read_text())
    content["partial_labels"] = to_json(one_axis_per_source(partial_labels_of(content)))
    with pytest.raises(LabelError, match="softmax heads need one axis"):
        make_trainer("PartialLabelTrainerAmbiguity", dataset_json=content)


@pytest.fixture
def plans(nnunet: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Plans with instance norm, as nnU-Net's, or with the layers that the parameter names."""
    content = json.loads((nnunet / "nnUNetPlans_small.json").read_text())
    if hasattr(request, "param"):
        content["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["norm_op"] = request.param
    return content


@pytest.fixture
def pretrained(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, plans: dict[str, Any]
) -> Any:
    """A trained network of some of the classes; later trainers write elsewhere."""
    monkeypatch.setenv("nnUNet_partial_classes", "spleen,aorta")
    trainer = make_trainer(plans=plans)
    trainer.run_training()
    monkeypatch.delenv("nnUNet_partial_classes")
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "fine_tuned"))
    monkeypatch.setenv("nnUNet_partial_pretrained", str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    monkeypatch.setenv("nnUNet_partial_seed", "4")
    for name, value in {"head_epochs": 1, "warmup_epochs": 1, "epochs": 1}.items():
        monkeypatch.setenv(f"nnUNet_partial_{name}", str(value))
    return trainer


def test_fine_tuning_takes_over_body_and_heads_by_name(make_trainer: MakeTrainer, pretrained: Any) -> None:
    trainer = make_trainer("PartialLabelTrainerFineTune")
    trainer.initialize()
    before, after = pretrained.network.state_dict(), trainer.network.state_dict()
    names, known = trainer.partial_labels.class_names, pretrained.partial_labels.class_names
    for key, value in before.items():
        if ".seg_layers." not in key:
            assert torch.equal(after[key], value), key
            continue
        for row, name in enumerate(names):
            if name in known:
                assert torch.equal(after[key][row], value[known.index(name)]), (key, name)
    assert set(known) < set(names)


@pytest.mark.parametrize("plans", ["torch.nn.InstanceNorm3d", "torch.nn.BatchNorm3d"], indirect=True)
def test_fine_tuning_begins_with_the_heads(make_trainer: MakeTrainer, pretrained: Any, plans: dict[str, Any]) -> None:
    """The body stays as it is for an epoch, also the running statistics of batch norm."""
    trainer = make_trainer("PartialLabelTrainerFineTune", plans=plans)
    body = pretrained.network.state_dict()
    assert any("running_mean" in key for key in body) == ("BatchNorm3d" in json.dumps(plans))
    at_end: list[tuple[str, bool, float]] = []
    end_of_epoch = trainer.on_epoch_end

    def watch() -> None:
        state = trainer.network.state_dict()
        unchanged = all(torch.equal(state[k], v) for k, v in body.items() if ".seg_layers." not in k)
        at_end.append((type(trainer.optimizer).__name__, unchanged, trainer.optimizer.param_groups[0]["lr"]))
        end_of_epoch()

    trainer.on_epoch_end = watch
    trainer.run_training()
    assert at_end == [("AdamW", True, 5e-4), ("SGD", False, 0.01), ("SGD", False, 0.01)]


@pytest.mark.parametrize("stop", [1, 2])
def test_fine_tuning_resumes_in_every_phase(
    make_trainer: MakeTrainer, pretrained: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stop: int
) -> None:
    whole = make_trainer("PartialLabelTrainerFineTune")
    whole.run_training()
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "interrupted"))
    first = make_trainer("PartialLabelTrainerFineTune")
    start_epoch = first.on_epoch_start

    def interrupt() -> None:
        if first.current_epoch == stop:
            raise KeyboardInterrupt
        start_epoch()

    first.on_epoch_start = interrupt
    with pytest.raises(KeyboardInterrupt):
        first.run_training()
    second = make_trainer("PartialLabelTrainerFineTune", resume=True)
    second.load_checkpoint(str(Path(second.output_folder) / "checkpoint_latest.pth"))
    assert second.current_epoch == stop
    second.run_training()
    for name, expected in whole.network.state_dict().items():
        assert torch.equal(expected, second.network.state_dict()[name]), name


def test_fine_tuning_without_a_network_is_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(PartialError, match="fine-tunes a trained network and none was given"):
        make_trainer("PartialLabelTrainerFineTune").run_training()


def test_a_pretrained_network_of_another_shape_is_refused(
    make_trainer: MakeTrainer, pretrained: Any, nnunet: Path
) -> None:
    plans = json.loads((nnunet / "nnUNetPlans_small.json").read_text())
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 8, 16]
    with pytest.raises(PartialError, match="the pretrained network is another one"):
        make_trainer("PartialLabelTrainerFineTune", plans=plans).initialize()


@pytest.mark.parametrize("content", [None, b"no checkpoint"])
def test_a_file_that_is_no_checkpoint_is_refused(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "weights.pth"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("nnUNet_partial_pretrained", str(file))
    with pytest.raises(PartialError, match=r"weights\.pth"):
        make_trainer().initialize()
