"""nnUNetv2_partial_plan, on folders as nnU-Net's planning leaves them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models.segmentation import deeplabv3_resnet50

import nnunet_partial
from nnunet_partial.cli.plan import main
from nnunet_partial.networks.plan_files import find_preprocessed_folder
from nnunet_partial.networks.plan_variants import plan_variant
from nnunet_partial.networks.variants import VARIANTS
from tests.unit.test_plan_variants import make_plans

ROOT = Path(nnunet_partial.__file__).parents[1]


@pytest.fixture
def folder(nnunet_folders: Path) -> Path:
    """A planned dataset with two cases, of which 3d_fullres is preprocessed."""
    folder = nnunet_folders / "preprocessed" / "Dataset100_Abdomen"
    (folder / "nnUNetPlans_3d_fullres").mkdir(parents=True)
    (folder / "nnUNetPlans.json").write_text(json.dumps(make_plans()))
    (folder / "dataset.json").write_text(json.dumps({"numTraining": 2, "channel_names": {"0": "CT"}}))
    for case in ("a", "b"):
        (folder / "nnUNetPlans_3d_fullres" / f"{case}.pkl").touch()
    return folder


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text())


def test_writes_plans_and_says_what_comes_next(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-d", "100", "--variant", "flare-small"]) == 0
    name = "nnUNetPlans_flare-small"
    assert read(folder, name) == plan_variant(make_plans(), "flare-small", name)
    output = capsys.readouterr().out
    assert f"written to {folder / name}.json" in output
    assert output.split("next:\n")[1].splitlines() == [
        f"  nnUNetv2_preprocess -d 100 -plans_name {name} -c 3d_fullres",
        f"  nnUNetv2_train 100 3d_fullres 0 -tr PartialLabelTrainer -p {name}",
    ]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if line.startswith("│")]
    assert ["patch size", "32 64 64", "128 128 128"] in rows
    assert ["spacing", "5 0.8 0.8", "2.42 1.95 1.95"] in rows


def test_all_sizes_can_be_given(folder: Path) -> None:
    sizes = ["--patch_size", "16", "32", "48", "--spacing", "4", "2", "2.5", "--batch_size", "3"]
    words = ["-d", "Dataset100_Abdomen", "--variant", "transunet", "-c", "3d_lowres", "-p", "nnUNetPlans", *sizes]
    assert main([*words, "--features", "4", "8", "16", "-o", "mine"]) == 0
    expected = plan_variant(
        make_plans(),
        "transunet",
        "mine",
        configuration="3d_lowres",
        patch_size=(16, 32, 48),
        spacing=(4.0, 2.0, 2.5),
        batch_size=3,
        features=(4, 8, 16),
    )
    assert read(folder, "mine") == expected


def test_preprocessing_is_left_out_where_the_data_are_complete(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-d", "100", "--variant", "small", "--features", "4", "8", "--overwrite"]
    assert main(words) == 0
    assert "nnUNetv2_preprocess" not in capsys.readouterr().out
    (folder / "nnUNetPlans_3d_fullres" / "b.pkl").unlink()
    assert main(words) == 0
    assert "nnUNetv2_preprocess -d 100 -plans_name nnUNetPlans_small -c 3d_fullres" in capsys.readouterr().out


def test_plans_are_not_overwritten_by_accident(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-d", "100", "--variant", "swin-unetr"]
    assert main(words) == 0
    first = (folder / "nnUNetPlans_swin-unetr.json").read_bytes()
    assert main([*words, "--batch_size", "2"]) == 1
    assert "there are such plans already" in capsys.readouterr().err
    assert (folder / "nnUNetPlans_swin-unetr.json").read_bytes() == first
    assert main([*words, "--batch_size", "2", "--overwrite"]) == 0
    assert read(folder, "nnUNetPlans_swin-unetr")["configurations"]["3d_fullres"]["batch_size"] == 2
    assert main([*words, "-o", "nnUNetPlans", "--overwrite"]) == 1
    assert read(folder, "nnUNetPlans") == make_plans()
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["-d", "101", "--variant", "flare-small"],
            "expected one folder .*Dataset101_.*, found none; plan the dataset",
        ),
        (["-d", "100", "--variant", "flare"], "no such variant"),
        (["-d", "100", "--variant", "flare-small", "-p", "other"], r"no such file; plans there are \['nnUNetPlans'\]"),
        (["-d", "100", "--variant", "flare-small", "-p", "dataset"], "expected nnU-Net plans, found no"),
        (["-d", "100", "--variant", "swin-unetr", "--patch_size", "95", "96", "96"], "must be a multiple of 32"),
        (["-d", "100", "--variant", "small"], "changes nothing by itself"),
    ],
)
def test_one_error_and_no_file(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    before = sorted(folder.iterdir())
    assert main(words) == 1
    assert sorted(folder.iterdir()) == before
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(f"error: .*{message}", captured.err, flags=re.DOTALL)


def test_broken_plans_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "nnUNetPlans.json").write_text("{")
    assert main(["-d", "100", "--variant", "flare-small"]) == 1
    assert "nnUNetPlans.json: is no valid JSON" in capsys.readouterr().err


def test_two_datasets_of_one_number(folder: Path, nnunet_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (nnunet_folders / "preprocessed" / "Dataset100_Other").mkdir()
    assert main(["-d", "100", "--variant", "flare-small"]) == 1
    assert "found ['Dataset100_Abdomen', 'Dataset100_Other']; give the name" in capsys.readouterr().err
    assert find_preprocessed_folder("Dataset100_Abdomen") == folder


@pytest.mark.parametrize("words", [["-d", "100"], ["--variant", "small"], []])
def test_needs_a_dataset_and_a_variant(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert "-d and --variant are needed" in capsys.readouterr().err


def test_list_shows_all_variants(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    rows = {line.split("│")[1].strip(): line for line in lines}
    assert list(rows) == list(VARIANTS)
    assert "2.42 x 1.95 x 1.95" in rows["flare-small"]
    assert "512 x 640" in rows["deeplabv3"]


def test_weights_of_coco_become_a_checkpoint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with torch.device("meta"):
        shapes = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).state_dict()
    weights = folder / "coco.pth"  # one number for each tensor, seen in its shape, keeps the file small
    torch.save({k: torch.tensor(6.0).to(v.dtype).expand(v.shape) for k, v in shapes.items()}, weights)
    assert main(["-d", "100", "--variant", "deeplabv3", "--coco_weights", str(weights)]) == 0
    checkpoint = folder / "nnUNetPlans_deeplabv3_coco.pth"
    output = capsys.readouterr().out
    assert f"-p nnUNetPlans_deeplabv3 -pretrained_weights {checkpoint}" in output
    stem = torch.load(checkpoint, weights_only=True)["network_weights"]["backbone.conv1.weight"]
    assert stem.shape == (64, 1, 7, 7)  # the dataset has one channel
    assert (stem == 18).all()


def test_weights_of_coco_are_for_deeplab(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["-d", "100", "--variant", "small", "--coco_weights", "x.pth"])
    assert "for --variant deeplabv3" in capsys.readouterr().err


def test_neither_help_nor_writing_imports_torch(folder: Path) -> None:
    script = """
import sys
from nnunet_partial.cli.plan import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
heavy = {"torch", "nnunetv2", "monai", "numpy", "pydantic"} & set(sys.modules)
assert not heavy, heavy
assert main(["-d", "100", "--variant", "mednext-l"]) == 0
heavy = {"torch", "nnunetv2", "monai"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    finished = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert (folder / "nnUNetPlans_mednext-l.json").is_file()
