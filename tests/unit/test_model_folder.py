"""Plans against nnU-Net's own classes; folds and checkpoints of model folders."""

from __future__ import annotations

import copy
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.model.model_folder import (
    find_model_folder,
    load_checkpoint,
    load_model,
    open_model_folder,
)
from nnunet_partial.inference.model.nnunet_plans import find_configuration, read_decoding, read_plan
from nnunet_partial.inference.model.plan import PredictionPlan, Resampling
from tests.unit import tiny_models
from tests.unit.tiny_models import LABELS, REGIONS, architecture, configuration, make_dataset_json, make_plans


def old_configuration(name: str, dimensions: int) -> dict[str, Any]:
    old = {
        "UNet_class_name": name,
        "UNet_base_num_features": 4,
        "unet_max_num_features": 9,
        "n_conv_per_stage_encoder": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "num_pool_per_axis": [2] * dimensions,
        "pool_op_kernel_sizes": [[1] * dimensions, [2] * dimensions, [2] * dimensions],
        "conv_kernel_sizes": [[3] * dimensions] * 3,
    }
    return configuration(dimensions, architecture=None, **old)


PLANS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("3d_fullres", make_plans(), make_dataset_json()),
    "regions": ("3d_fullres", make_plans(), make_dataset_json(REGIONS, regions_class_order=[2, 1, 2])),
    "region of background": (
        "3d_fullres",
        make_plans(),
        make_dataset_json({**REGIONS, "all": [0, 1, 2], "none": [0]}, regions_class_order=[3, 1, 2, 4]),
    ),
    "ignore": ("3d_fullres", make_plans(), make_dataset_json({**LABELS, "ignore": 3})),
    "ignore with regions": (
        "3d_fullres",
        make_plans(),
        make_dataset_json({**REGIONS, "ignore": 3}, regions_class_order=[2, 1, 2]),
    ),
    "lists of one": ("3d_fullres", make_plans(), make_dataset_json({"background": 0, "b": [2], "a": [1]})),
    "label twice": (
        "3d_fullres",
        make_plans(),
        make_dataset_json({**REGIONS, "organ": [1, 1]}, regions_class_order=[1, 1, 2]),
    ),
    "2d": ("2d", make_plans(**{"2d": configuration(2)}), make_dataset_json()),
    "two channels": (
        "3d_fullres",
        make_plans(**{"3d_fullres": configuration(channels=2)}),
        make_dataset_json(channels=("CT", "MR")),
    ),
    "modality": (
        "3d_fullres",
        make_plans(),
        {**make_dataset_json(), "modality": {"0": "CT"}, "channel_names": {"0": "a", "1": "b"}},
    ),
    "residual": (
        "3d_fullres",
        make_plans(**{"3d_fullres": configuration(architecture=architecture(3, residual=True))}),
        make_dataset_json(),
    ),
    "heir": (
        "3d_second",
        make_plans(
            **{
                "3d_fullres": configuration(),
                "3d_first": {"inherits_from": "3d_fullres", "patch_size": [16, 8, 8]},
                "3d_second": {"inherits_from": "3d_first", "spacing": [1.0, 1.0, 1.0]},
            }
        ),
        make_dataset_json(),
    ),
    "old": ("3d_fullres", make_plans(**{"3d_fullres": old_configuration("PlainConvUNet", 3)}), make_dataset_json()),
    "old residual 2d": ("2d", make_plans(**{"2d": old_configuration("ResidualEncoderUNet", 2)}), make_dataset_json()),
}


def read(case: str) -> PredictionPlan:
    name, plans, dataset_json = copy.deepcopy(PLANS[case])
    return read_plan(plans, dataset_json, configuration=name, trainer="nnUNetTrainer", mirror_axes=(0, 1))


def changed(**changes: Any) -> PredictionPlan:
    plans = make_plans(**{"3d_fullres": configuration(**changes)})
    return read_plan(plans, make_dataset_json(), configuration="3d_fullres", trainer="t", mirror_axes=None)


@pytest.mark.parametrize("case", PLANS)
def test_plans_say_what_they_say_to_nnunet(case: str) -> None:
    name, plans, dataset_json = copy.deepcopy(PLANS[case])
    plan = read(case)
    manager = PlansManager(plans)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nnU-Net warns of the old format
        stock = manager.get_configuration(name)
    assert plan.patch_size == tuple(stock.patch_size)
    assert plan.spacing_mm == tuple(stock.spacing)
    assert plan.architecture.class_name.rpartition(".")[2] == stock.network_arch_class_name.rpartition(".")[2]
    assert plan.architecture.arguments == stock.network_arch_init_kwargs
    assert plan.architecture.imported == tuple(stock.network_arch_init_kwargs_req_import)
    assert len(plan.channel_names) == determine_num_input_channels(manager, stock, dataset_json)
    assert [each.scheme for each in plan.normalizations] == stock.normalization_schemes
    assert [each.within_mask for each in plan.normalizations] == stock.use_mask_for_norm
    statistics = manager.foreground_intensity_properties_per_channel
    assert [each.statistics for each in plan.normalizations] == [
        statistics[str(channel)] for channel in range(len(plan.normalizations))
    ]
    assert (plan.dataset, plan.plans) == (manager.dataset_name, manager.plans_name)
    assert plan.reader == manager.image_reader_writer_class.__name__
    assert plan.transpose_forward == tuple(manager.transpose_forward)
    assert plan.transpose_backward == tuple(manager.transpose_backward)
    for found, function in (
        (plan.image_resampling, stock.resampling_fn_data),
        (plan.logit_resampling, stock.resampling_fn_probabilities),
    ):
        options = function.keywords
        assert found == Resampling("spline", options["order"], options["order_z"], options["force_separate_z"])


@pytest.mark.parametrize("case", PLANS)
def test_channels_mean_what_they_mean_to_nnunet(case: str) -> None:
    _, plans, dataset_json = copy.deepcopy(PLANS[case])
    decoding = read(case).decoding
    stock = PlansManager(plans).get_label_manager(dataset_json)
    assert decoding.regions == stock.has_regions
    assert len(decoding.values) == len(decoding.names) == stock.num_segmentation_heads
    assert decoding.foreground_labels == len(stock.foreground_labels)
    # each channel alone above 0, which tells what nnU-Net writes for it
    logits = 20 * torch.eye(len(decoding.values)).reshape(len(decoding.values), -1, 1, 1) - 10
    written = stock.convert_logits_to_segmentation(logits).flatten().tolist()
    assert list(decoding.values) == written
    for name, values in zip(decoding.names, decoding.values, strict=True):
        if not decoding.regions:
            assert stock.label_dict[name] in (values, [values])


def test_names_of_classes() -> None:
    assert read_decoding(make_dataset_json({**LABELS, "ignore": 3})).names == ("background", "liver", "spleen")
    regions = read("region of background").decoding
    assert regions.names == ("organ", "liver", "spleen", "all")
    twins = read_decoding(make_dataset_json({"background": 0, "left": 1, "right": 1}))
    assert (twins.names, twins.values, twins.foreground_labels) == (("background", "left/right"), (0, 1), 1)


def test_other_resamplings() -> None:
    def resampling(name: str, options: dict[str, Any]) -> Resampling:
        return changed(resampling_fn_probabilities=name, resampling_fn_probabilities_kwargs=options).logit_resampling

    assert resampling("resample_data_or_seg_to_shape", {}) == Resampling("spline", 3, 0, False)
    assert resampling("resample_data_or_seg_to_shape", {"order": 0, "order_z": 1}) == Resampling("spline", 0, 1, False)
    assert resampling("resample_torch_fornnunet", {"num_threads": 8, "is_seg": False}) == Resampling(
        "torch", 1, 0, None
    )
    across = {"force_separate_z": True, "aniso_axis_mode": "linear", "memefficient_seg_resampling": False}
    assert resampling("resample_torch_fornnunet", across) == Resampling("torch", 1, 1, True)
    assert resampling("no_resampling_hack", {}) == Resampling("none")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resampling_fn_data": "my_resampling"}, "found 'my_resampling'"),
        ({"resampling_fn_data_kwargs": {"order": 5}}, "something not known here"),
        ({"resampling_fn_data_kwargs": {"magic": 1}}, "something not known here"),
        ({"resampling_fn_data_kwargs": {"is_seg": True}}, "has is_seg"),
        ({"resampling_fn_data_kwargs": {"separate_z_anisotropy_threshold": 2}}, "separate_z_anisotropy_threshold"),
        (
            {"resampling_fn_data": "resample_torch_fornnunet", "resampling_fn_data_kwargs": {"mode": "nearest"}},
            "not known",
        ),
        ({"preprocessor_name": "MyPreprocessor"}, "'preprocessor_name' DefaultPreprocessor, found MyPreprocessor"),
        ({"previous_stage": "3d_lowres"}, "second stage of a cascade"),
        ({"spacing": [1.0, 1.0]}, "2 or 3 numbers each"),
        ({"patch_size": None}, "'patch_size' is missing"),
        ({"normalization_schemes": []}, "for 1 channels, found 0 and 1"),
        ({"architecture": None}, "'UNet_class_name' is missing"),
        ({"architecture": None, "UNet_class_name": "MyNet"}, "found 'MyNet'"),
    ],
)
def test_plans_that_only_nnunet_can_follow_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PartialError, match=message):
        changed(**changes)


@pytest.mark.parametrize(
    ("labels", "more", "message"),
    [
        ({"liver": 1}, {}, '"background": 0'),
        ({"background": 1}, {}, '"background": 0'),
        ({"background": 0, "a": 2}, {}, "without gaps"),
        ({"background": 0, "a": 1, "ignore": 5}, {}, "highest label, 2, found 5"),
        ({"background": 0, "a": "x"}, {}, "found 'x'"),
        (REGIONS, {}, "regions_class_order"),
        (REGIONS, {"regions_class_order": [1]}, "regions_class_order"),
    ],
)
def test_labels_against_the_rules_are_refused(labels: dict[str, Any], more: dict[str, Any], message: str) -> None:
    with pytest.raises(PartialError, match=message):
        read_decoding(make_dataset_json(labels, **more))


def test_plans_of_another_kind_are_refused() -> None:
    def read_changed(mirror_axes: tuple[int, ...] = (), **changes: Any) -> PredictionPlan:
        plans = {**make_plans(), **changes}
        plans = {key: value for key, value in plans.items() if value != "gone"}
        return read_plan(plans, make_dataset_json(), configuration="3d_fullres", trainer="t", mirror_axes=mirror_axes)

    for changes, message in (
        ({"label_manager": "MyLabels"}, "found MyLabels"),
        ({"transpose_forward": [0, 1, 1]}, "order of 0, 1 and 2"),
        ({"transpose_backward": [0, 1, 2]}, "expected 'transpose_backward' to undo"),
        ({"configurations": {"2d": {}}}, r"no configuration '3d_fullres'; there are \['2d'\]"),
        ({"configurations": {"3d_fullres": {"inherits_from": "x"}}}, "no configuration 'x', from which '3d_fullres'"),
        ({"configurations": {"3d_fullres": {"inherits_from": "3d_fullres"}}}, "round in circles"),
        ({"plans_name": "gone"}, "'plans_name' is missing"),
        ({"mirror_axes": (3,)}, "mirroring along axes"),
    ):
        with pytest.raises(PartialError, match=message):
            read_changed(**changes)  # type: ignore[arg-type]
    assert read_changed(transpose_forward=None, transpose_backward="gone").transpose_forward == (0, 1, 2)
    with pytest.raises(PartialError, match="to name the channels"):
        read_plan(
            make_plans(),
            {**make_dataset_json(), "channel_names": {"1": "CT"}},
            configuration="3d_fullres",
            trainer="t",
            mirror_axes=(),
        )


def test_images_of_another_preprocessor_must_be_preprocessed_already() -> None:
    plans = make_plans()
    plans["configurations"]["3d_fullres"]["preprocessor_name"] = "MyPreprocessor"
    options: dict[str, Any] = {"configuration": "3d_fullres", "trainer": "t", "mirror_axes": None}
    with pytest.raises(PartialError, match="found MyPreprocessor"):
        read_plan(plans, make_dataset_json(), **options)
    assert read_plan(plans, make_dataset_json(), preprocessed=True, **options).configuration == "3d_fullres"


def test_what_is_inherited_is_overruled() -> None:
    plans = {"configurations": {"a": {"x": 1, "y": 1}, "b": {"inherits_from": "a", "y": 2}}}
    assert find_configuration(plans, "b") == {"x": 1, "y": 2, "inherits_from": "a"}


def test_folds_are_found_as_by_nnunet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    folder = tiny_models.write_model(tmp_path / "m", folds=[10, 2, "all"])
    shutil.copytree(folder / "fold_2", folder / "fold_3")
    (folder / "fold_3" / "checkpoint_final.pth").rename(folder / "fold_3" / "checkpoint_best.pth")
    found = open_model_folder(folder)
    stock = nnUNetPredictor.auto_detect_available_folds(str(folder), "checkpoint_final.pth")
    assert set(found.folds) == {str(fold) for fold in stock} == {"2", "10"}
    assert found.checkpoints[0] == folder / "fold_2" / "checkpoint_final.pth"
    assert open_model_folder(folder, checkpoint="checkpoint_best.pth").folds == ("3",)
    assert open_model_folder(folder, ["all", 2, "010"]).folds == ("all", "2", "10")


def test_missing_files_are_named(tmp_path: Path) -> None:
    folder = tiny_models.write_model(tmp_path / "m", folds=["all"])
    with pytest.raises(PartialError, match=r"no fold_N with checkpoint_final.pth; there are .*fold_all.*-f all"):
        open_model_folder(folder)
    with pytest.raises(PartialError, match=r"fold_4.*no such file; there are \['fold_all/checkpoint_final.pth'\]"):
        open_model_folder(folder, [4])
    with pytest.raises(PartialError, match="numbers or 'all', found 'x'"):
        open_model_folder(folder, ["x"])
    with pytest.raises(PartialError, match="no such folder"):
        open_model_folder(tmp_path / "n")
    (folder / "dataset.json").write_text("{")
    with pytest.raises(PartialError, match=r"dataset.json: cannot be read as JSON"):
        open_model_folder(folder)
    (folder / "dataset.json").write_text("[]")
    with pytest.raises(PartialError, match="expected a JSON object, found list"):
        open_model_folder(folder)
    (folder / "plans.json").unlink()
    with pytest.raises(PartialError, match=r"plans.json: no such file.*dataset.json.*fold_all"):
        open_model_folder(folder)


def test_model_folders_by_name(nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = nnunet_folders / "results"
    folder = results / "Dataset007_Pancreas" / "T__P__2d"
    folder.mkdir(parents=True)
    assert find_model_folder("7", "2d", "T", "P") == folder
    assert find_model_folder("Dataset007_Pancreas", "2d", "T", "P") == folder
    with pytest.raises(PartialError, match=r"no model T__P__3d of dataset 7; there are .*'T__P__2d'"):
        find_model_folder("7", "3d", "T", "P")
    with pytest.raises(PartialError, match=r"no trained model of dataset 8; there are \['Dataset007_Pancreas'\]"):
        find_model_folder("8", "3d", "T", "P")
    (results / "Dataset007_Other" / "T__P__2d").mkdir(parents=True)
    with pytest.raises(PartialError, match="several"):
        find_model_folder("7", "2d", "T", "P")
    monkeypatch.delenv("nnUNet_results")
    with pytest.raises(PartialError, match="nnUNet_results is not set"):
        find_model_folder("7", "2d", "T", "P")


def test_checkpoints_are_loaded_without_pickle(tmp_path: Path) -> None:
    folder = tiny_models.write_model(tmp_path / "m", folds=[0, 1])
    model = load_model(folder)
    assert (model.plan.trainer, model.plan.configuration, model.plan.mirror_axes) == (
        "nnUNetTrainer",
        "3d_fullres",
        (0, 1, 2),
    )
    for weights, path in zip(model.weights, model.folder.checkpoints, strict=True):
        expected = torch.load(path, weights_only=False)["network_weights"]
        assert list(weights) == list(expected)
        assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert load_model(folder, [1]).folder.folds == ("1",)


def test_prefixes_of_wrappers_are_dropped(tmp_path: Path) -> None:
    content = tiny_models.checkpoint_of(torch.nn.Linear(2, 1), inference_allowed_mirroring_axes=None)
    weights = content["network_weights"]
    content["network_weights"] = {f"module._orig_mod.{name}": tensor for name, tensor in weights.items()}
    torch.save(content, tmp_path / "c.pth", _use_new_zipfile_serialization=False)  # as PyTorch before 1.6
    found = load_checkpoint(tmp_path / "c.pth")
    assert list(found.weights) == ["weight", "bias"]
    assert found.mirror_axes is None


class Surprise:
    """Something that only a pickle can hold."""


def test_what_a_checkpoint_may_not_load_is_named(tmp_path: Path) -> None:
    content = tiny_models.checkpoint_of(torch.nn.Linear(2, 1), surprise=Surprise())
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(PartialError, match=r"wants to load test_model_folder.Surprise, .*--trust_checkpoint"):
        load_checkpoint(tmp_path / "c.pth")
    assert load_checkpoint(tmp_path / "c.pth", trust_checkpoint=True).trainer == "nnUNetTrainer"


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    with pytest.raises(PartialError, match="no such file"):
        load_checkpoint(path)
    torch.save(tiny_models.checkpoint_of(torch.nn.Linear(2, 1)), path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(PartialError, match="cannot be read as a checkpoint"):
        load_checkpoint(path)
    path.write_bytes(b"junk" * 100)
    with pytest.raises(PartialError, match="cannot be read as a checkpoint"):
        load_checkpoint(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(PartialError, match=r"expected the keys .*found \['state_dict'\]"):
        load_checkpoint(path)
    torch.save([1], path)
    with pytest.raises(PartialError, match="found list"):
        load_checkpoint(path)
    torch.save(tiny_models.checkpoint_of(torch.nn.Linear(2, 1), init_args={}), path)
    with pytest.raises(PartialError, match="name no configuration"):
        load_checkpoint(path)
