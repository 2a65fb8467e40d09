"""`nnUNetv2_partial_ensemble train` with nnU-Net's commands replaced by fakes, and the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import nnunet_partial
from nnunet_partial.cli import ensemble
from nnunet_partial.ensemble.models import class_folder
from nnunet_partial.labels import partial_labels_of, with_classes, with_region_labels
from tests.unit.stock_commands import CLASSES, DATASET, MODEL, Stock, results

ROOT = Path(nnunet_partial.__file__).parents[1]
TRAIN = ["train", "-d", "100", "-c", "3d_fullres", "-f", "0"]


@pytest.fixture
def folder(abdomen: SimpleNamespace, merge: Callable[..., Any], nnunet_folders: Path) -> Path:
    """Folder with nnU-Net's folders, and a merged dataset of the classes liver, tumour (inside) and spleen."""
    merge(abdomen.text)
    return nnunet_folders


@pytest.fixture
def stock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Stock:
    return Stock.installed(folder, monkeypatch)


def test_training_changes_the_environment_and_nothing_else(
    folder: Path, stock: Stock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("nnUNet_partial_epochs", "3")
    monkeypatch.setenv("nnUNet_partial_classes", "spleen")
    monkeypatch.setenv("nnUNet_extTrainer", "/mine")
    assert ensemble.main(TRAIN) == 0
    command = f"nnUNetv2_train {DATASET} 3d_fullres 0 -tr PartialLabelTrainerImplicit -p nnUNetPlans -device cuda"
    assert stock.lines == [command] * 3
    assert stock.classes == CLASSES
    changed = {"nnUNet_partial_classes", "nnUNet_partial_implied_negatives", "nnUNet_results", "PATH"}
    for call, name in zip(stock.calls, CLASSES, strict=True):
        assert call.env["nnUNet_partial_implied_negatives"] == "0"
        assert call.env["nnUNet_results"] == str(results(folder, name))
        assert call.env["nnUNet_extTrainer"] == f"/mine{os.pathsep}{ROOT / 'nnunet_partial' / 'nnunet_ext'}"
        assert call.env["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
        same = set(os.environ) - changed - {"nnUNet_extTrainer"}
        assert {key: call.env[key] for key in same} == {key: os.environ[key] for key in same}
    out = capsys.readouterr().out
    for name in CLASSES:
        settings = f"nnUNet_partial_classes={name} nnUNet_partial_implied_negatives=0"
        assert f"$ {settings} nnUNet_results={results(folder, name)} {command}\n" in out
    assert out.count("  done in 0 s\n") == 3
    assert f"/CLASS/{DATASET}/{MODEL}\n" in out


def test_the_folder_of_our_trainers_is_added_once(stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = str(ROOT / "nnunet_partial" / "nnunet_ext")
    for before, expected in ((None, ours), (ours, ours), (f"{ours}:/mine", f"{ours}:/mine")):
        monkeypatch.delenv("nnUNet_extTrainer", raising=False)
        if before:
            monkeypatch.setenv("nnUNet_extTrainer", before)
        stock.calls.clear()
        assert ensemble.main([*TRAIN, "--classes", "liver", "-p", f"P{len(before or '')}"]) == 0
        assert stock.calls[0].env["nnUNet_extTrainer"] == expected


def test_options_reach_the_training(stock: Stock, folder: Path) -> None:
    options = ["-tr", "T", "-p", "P", "-device", "cpu", "--classes", "spleen", "liver"]
    assert ensemble.main(["train", "-d", DATASET, "-c", "2d", "-f", "all", *options]) == 0
    assert stock.classes == ["liver", "spleen"]
    assert stock.lines[0] == f"nnUNetv2_train {DATASET} 2d all -tr T -p P -device cpu"
    assert (results(folder, "liver") / DATASET / "T__P__2d" / "fold_all" / "checkpoint_final.pth").is_file()


def test_the_preprocessed_dataset_comes_first(folder: Path, stock: Stock, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((folder / "raw" / DATASET / "dataset.json").read_text())
    labels = with_classes(partial_labels_of(content), ["spleen"])
    for name in ("Dataset100_Abdomen", "Dataset100_Other"):
        (folder / "preprocessed" / name).mkdir(exist_ok=True)
        (folder / "preprocessed" / name / "dataset.json").write_text(json.dumps(with_region_labels(content, labels)))
        assert ensemble.main(TRAIN) == (name == "Dataset100_Other")
    assert stock.classes == ["spleen"]
    assert "dataset 100: several in" in capsys.readouterr().err
    assert ensemble.main(["train", "-d", DATASET, *TRAIN[3:]]) == 0


def test_finished_models_are_skipped_and_interrupted_ones_continued(
    folder: Path, stock: Stock, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ensemble.main(TRAIN) == 0
    stock.calls.clear()
    assert ensemble.main(TRAIN) == 0
    assert stock.calls == []
    assert "spleen: trained already\n" in capsys.readouterr().out

    folds = {name: results(folder, name) / DATASET / MODEL / "fold_0" for name in CLASSES}
    (folds["liver"] / "validation" / "summary.json").unlink()
    (folds["tumour"] / "checkpoint_final.pth").unlink()
    (folds["tumour"] / "checkpoint_latest.pth").touch()
    (folds["spleen"] / "checkpoint_final.pth").unlink()
    assert ensemble.main(TRAIN) == 0
    assert [call.words[-1] for call in stock.calls] == ["--val", "--c", "cuda"]
    assert stock.classes == CLASSES


def test_another_fold_is_trained_anew(stock: Stock) -> None:
    assert ensemble.main(TRAIN) == 0
    assert ensemble.main([*TRAIN[:-1], "01"]) == 0
    assert [call.words[3] for call in stock.calls] == ["0"] * 3 + ["1"] * 3


def test_a_failing_training_stops_and_shows_the_end_of_its_log(
    folder: Path, stock: Stock, capsys: pytest.CaptureFixture[str]
) -> None:
    stock.fails["nnUNetv2_train", "tumour"] = [f"line {i}" for i in range(99)] + ["[red]RuntimeError: no memory"]
    assert ensemble.main(TRAIN) == 1
    assert stock.classes == ["liver", "tumour"]
    captured = capsys.readouterr()
    log = results(folder, "tumour") / f"{DATASET}__{MODEL}__fold_0.log"
    assert f"  output: {log}\n" in captured.out
    assert captured.out.count("done in") == 1
    assert captured.err.startswith("error: 'nnUNet_partial_classes=tumour")
    assert f"failed with exit code 1; the end of {log}:\nline 75\n" in captured.err
    assert captured.err.endswith("line 98\n[red]RuntimeError: no memory\n")
    del stock.fails["nnUNetv2_train", "tumour"]
    assert ensemble.main(TRAIN) == 0
    assert stock.classes == ["liver", "tumour", "tumour", "spleen"]
    assert log.read_text() == "fine\n"


def test_a_missing_command(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(*words: Any, **options: Any) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("nnunet_partial.ensemble.models.subprocess.run", missing)
    assert ensemble.main(TRAIN) == 1
    assert "error: nnUNetv2_train: no such command; install nnunetv2" in capsys.readouterr().err


def test_a_trainer_that_ignores_the_class_is_noticed(stock: Stock, capsys: pytest.CaptureFixture[str]) -> None:
    stock.classes_of = lambda name: CLASSES
    assert ensemble.main(TRAIN) == 1
    assert stock.classes == ["liver"]
    assert "expected a model of the class 'liver' alone, found one of ['liver', 'tumour'" in capsys.readouterr().err
    assert ensemble.main(TRAIN) == 1
    assert stock.classes == ["liver"]


def _rename(folder: Path, old: str, new: str) -> None:
    file = folder / "raw" / DATASET / "dataset.json"
    content = json.loads(file.read_text())
    classes = content["partial_labels"]["classes"]
    content["partial_labels"]["classes"] = {new if name == old else name: atoms for name, atoms in classes.items()}
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["liver, left", "", " liver"])
def test_names_that_a_setting_cannot_hold_are_refused(
    name: str, folder: Path, stock: Stock, capsys: pytest.CaptureFixture[str]
) -> None:
    _rename(folder, "liver", name)
    assert ensemble.main(TRAIN) == 1
    assert stock.calls == []
    error = capsys.readouterr().err
    assert f"dataset.json: class '{name}' cannot be trained alone" in error
    assert "rename the class" in error


def test_class_names_become_folders_of_their_own() -> None:
    names = ["liver", "left kidney", "a/b", "a%2Fb", "a_b", ".", "..", ".x", "%2Ex", "btcv.liver", "Niere rechts ü"]
    folders = [class_folder(name) for name in names]
    assert len(set(folders)) == len(names)
    assert all("/" not in f and not f.startswith(".") for f in folders)
    assert folders[0] == "liver"
    assert folders[9] == "btcv.liver"


def test_a_class_name_with_a_slash_stays_in_its_folder(folder: Path, stock: Stock) -> None:
    _rename(folder, "spleen", "../spleen")
    assert ensemble.main(TRAIN) == 0
    assert stock.classes[-1] == "../spleen"
    assert sorted(p.name for p in (folder / "results").iterdir()) == ["one_model_a_class"]
    assert sorted(p.name for p in (folder / "results" / "one_model_a_class").iterdir()) == [
        "%2E.%2Fspleen",
        "liver",
        "tumour",
    ]


def test_a_class_that_no_source_annotates_is_refused_before_any_training(
    folder: Path, stock: Stock, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "raw" / DATASET / "dataset.json"
    content = json.loads(file.read_text())
    block = content["partial_labels"]
    block["axes"]["anatomy"].append("colon")
    block["classes"]["colon"] = ["colon"]
    file.write_text(json.dumps(content))
    assert ensemble.main(TRAIN) == 1
    assert stock.calls == []
    assert "class 'colon' is never present" in capsys.readouterr().err
    assert ensemble.main([*TRAIN, "--classes", "liver"]) == 0


def test_what_is_not_there(
    folder: Path, stock: Stock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(*arguments: str) -> str:
        assert ensemble.main(list(arguments)) == 1
        return capsys.readouterr().err

    assert "there are no classes ['lung']; classes are ['liver'" in error(*TRAIN, "--classes", "lung")
    assert "dataset '77': no such dataset" in error("train", "-d", "77", *TRAIN[3:])
    assert "no 'partial_labels' block" in error("train", "-d", "3", *TRAIN[3:])
    for arguments in ([*TRAIN[:-1], "one"], ["train", "-d", "100"], []):
        with pytest.raises(SystemExit):
            ensemble.main(arguments)
    monkeypatch.delenv("nnUNet_preprocessed")
    assert ensemble.main(TRAIN) == 0
    monkeypatch.delenv("nnUNet_results")
    assert "the environment variable nnUNet_results is not set" in error(*TRAIN)


def test_help_is_fast() -> None:
    script = """
import sys
from nnunet_partial.cli import ensemble
for arguments in (["--help"], ["train", "--help"], ["predict", "--help"]):
    try:
        ensemble.main(arguments)
    except SystemExit as stop:
        assert stop.code == 0
heavy = {"torch", "nnunetv2", "numpy", "nibabel", "SimpleITK", "pydantic", "sklearn"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    for text in ("nnUNetv2_partial_ensemble", "-tr TRAINER", "--save_probabilities", "--independent", "--disable_tta"):
        assert text in done.stdout
