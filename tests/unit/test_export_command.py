"""`nnUNetv2_partial_export`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nnunet_partial.cli import export
from nnunet_partial.cli.export import build_parser, main
from nnunet_partial.inference.backends.open_backend import KINDS
from nnunet_partial.inference.model.exported_model import load_exported
from nnunet_partial.inference.model.model_folder import CHECKPOINT
from tests import documents
from tests.unit import tiny_models

MODEL = "PartialLabelTrainer__nnUNetPlans__3d_fullres"


@pytest.fixture
def model(nnunet_folders: Path) -> Path:
    return tiny_models.write_model(nnunet_folders / "results" / "Dataset100_Abdomen" / MODEL, folds=[0, 1])


def test_a_model_is_exported_by_its_name(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out" / "small"
    arguments = ["-d", "100", "-c", "3d_fullres", "-tr", "PartialLabelTrainer", "-f", "1", "-o", str(output)]
    assert main([*arguments, "--formats", "torch"]) == 0
    printed = capsys.readouterr().out
    assert f"written to {output}" in printed
    assert f"nnUNetv2_partial_predict -i IMAGES -o PREDICTIONS -m {output}" in printed
    assert [path.name for path in load_exported(output).files["torch"]] == ["weights_fold_1.safetensors"]
    assert main([*arguments, "--formats", "torch"]) == 1
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert main([*arguments, "--formats", "torch", "--overwrite"]) == 0


def test_a_model_is_exported_by_its_folder(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    (model / "fold_0" / CHECKPOINT).rename(model / "fold_0" / "checkpoint_best.pth")
    assert main(["-m", str(model), "-chk", "checkpoint_best.pth", "-o", str(tmp_path / "small")]) == 0
    files = load_exported(tmp_path / "small").files
    assert {kind: [path.name for path in paths] for kind, paths in files.items()} == {
        "torch": ["weights_fold_0.safetensors"],
        "openvino": ["network_fold_0.xml"],
    }


class Surprise:
    """Something that only a pickle can hold."""


def test_checkpoints_are_trusted_on_demand(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = model / "fold_0" / CHECKPOINT
    torch.save({**torch.load(path, weights_only=False), "surprise": Surprise()}, path)
    arguments = ["-m", str(model), "-o", str(tmp_path / "small"), "--formats", "torch"]
    assert main(arguments) == 1
    assert "--trust_checkpoint" in capsys.readouterr().err
    assert main([*arguments, "--trust_checkpoint"]) == 0


def test_a_model_is_named_in_one_way(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["-d", "100"], "-d and -c are needed (or -m)"),
        (["-m", "x", "-d", "100"], "leave out -d and -c"),
    ):
        with pytest.raises(SystemExit):
            main([*arguments, "-o", "y"])
        assert message in capsys.readouterr().err


def test_errors_have_no_traceback(nnunet_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-d", "100", "-c", "2d", "-o", str(nnunet_folders / "small")]) == 1
    assert "error: " in capsys.readouterr().err


def test_what_the_parser_repeats_is_what_the_library_says() -> None:
    assert export._FORMATS == KINDS
    arguments = build_parser().parse_args(["-m", "x", "-o", "y"])
    assert arguments.chk == CHECKPOINT


def test_help_imports_nothing_heavy() -> None:
    script = """
import sys
from nnunet_partial.cli.export import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
heavy = {"torch", "nnunetv2", "monai", "numpy", "pydantic"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    finished = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(documents.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
