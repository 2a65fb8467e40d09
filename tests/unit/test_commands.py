"""The commands of the label model."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import nnunet_partial
from nnunet_partial.cli import env, merge, verify
from nnunet_partial.cli.command import add_version, run_command
from nnunet_partial.errors import PartialError, ProblemsError

Factory = Callable[..., Path]
ROOT = Path(nnunet_partial.__file__).parents[1]

MERGE_FILE = """
name: Abdomen
folds: 2
classes:
  liver: [liver_tissue, liver_tumour]
  tumour: [liver_tumour]
  kidney_left:
sources:
  lits:
    dataset: 3
    labels: {liver: liver_tissue, tumor: tumour}
  btcv:
    dataset: 4
    labels: {left kidney: kidney_left, liver: liver}
"""


@pytest.fixture
def merge_path(raw_dataset: Factory, merge_file: Callable[..., Path]) -> Path:
    raw_dataset("LiTS", 3, {"liver": 1, "tumor": 2}, {"a": [1, 2], "b": [1]})
    raw_dataset("BTCV", 4, {"left kidney": 3, "liver": 6}, {"a": [3, 6], "c": [6]})
    return merge_file(MERGE_FILE)


def test_a_body_decides_the_exit_status() -> None:
    assert [run_command(lambda: 0), run_command(lambda: 3)] == [0, 3]


def test_errors_for_users_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise ProblemsError("/data/[bold]x[/bold]", ["a" * 300, "[red]b"])

    assert run_command(fail) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: /data/[bold]x[/bold]: 2 problems\n  - {'a' * 300}\n  - [red]b\n"


def test_an_interrupt_and_a_defect() -> None:
    def interrupt() -> int:
        raise KeyboardInterrupt

    def defect() -> int:
        raise ZeroDivisionError

    assert run_command(interrupt) == 130
    with pytest.raises(ZeroDivisionError):
        run_command(defect)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_version(parser)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"nnunet_partial {nnunet_partial.__version__}\n"


def test_help_imports_neither_torch_nor_nnunet_nor_image_libraries() -> None:
    script = """
import sys
from nnunet_partial.cli import env, merge, verify
for module in (env, merge, verify):
    try:
        module.main(["--help"])
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
    for text in ("MERGE_FILE", "--images", "--dry_run", "--skip_duplicates", "nnUNetv2_partial_env"):
        assert text in done.stdout


def test_merge_says_what_it_did_and_what_comes_next(
    merge_path: Path, nnunet_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert merge.main([str(merge_path), "-d", "100", "-np", "1"]) == 0
    out = capsys.readouterr().out
    folder = nnunet_folders / "raw" / "Dataset100_Abdomen"
    assert (folder / "dataset.json").is_file()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert rows == [
        ["lits", "2", "lits (2)", "liver, tumour"],
        ["btcv", "2", "btcv (2)", "liver, kidney_left"],
        ["0", "liver", "4 cases", "", "liver_tissue, liver_tumour"],
        ["1", "tumour", "2 cases", "", "liver_tumour"],
        ["2", "kidney_left", "2 cases", "yes", "kidney_left"],
    ]
    assert "sides: mirroring along x is left out" in out
    assert f"written to {folder}" in out
    assert "nnUNetv2_plan_and_preprocess -d 100" in out
    assert "nnUNetv2_train 100 3d_fullres 0 -tr PartialLabelTrainer" in out

    assert merge.main([str(merge_path), "-d", "100", "-np", "1"]) == 0
    assert f"up to date already: {folder}" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--dry_run", "--dry-run"])
def test_a_dry_run_writes_nothing(
    option: str, merge_path: Path, nnunet_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert merge.main([str(merge_path), "-d", "100", option]) == 0
    out = capsys.readouterr().out
    assert "liver, kidney_left" in out
    assert "nothing was written" in out
    assert not list((nnunet_folders / "raw").glob("*Dataset100*"))


def test_a_dry_run_refuses_the_folds_that_a_merge_refuses(
    merge_file: Callable[..., Path], merge_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folds, message in [("99", "99 folds need at least 99 annotated patients"), ("dataset", "'folds: dataset'")]:
        path = merge_file(MERGE_FILE.replace("folds: 2", f"folds: {folds}"))
        errors = []
        for options in (["--dry_run"], ["-np", "1"]):
            assert merge.main([str(path), "-d", "100", *options]) == 1
            errors.append(capsys.readouterr().err)
        assert message in errors[0]
        assert errors[0] == errors[1]


def test_merge_says_where_the_folds_are(
    merge_path: Path, nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert merge.main([str(merge_path), "-d", "100", "-np", "1"]) == 0
    assert "nnUNet_preprocessed" not in capsys.readouterr().out
    monkeypatch.delenv("nnUNet_preprocessed")
    assert merge.main([str(merge_path), "-d", "100", "-np", "1"]) == 0
    file = nnunet_folders / "raw" / "Dataset100_Abdomen" / "splits_final.json"
    assert f"note: nnUNet_preprocessed is not set, so the folds are in {file} only; " in capsys.readouterr().out


def test_merge_options_reach_the_merge(merge_path: Path, nnunet_folders: Path) -> None:
    folder = nnunet_folders / "raw" / "Dataset100_Abdomen"
    assert merge.main([str(merge_path), "-d", "100", "-np", "1", "--images", "reference"]) == 0
    assert not (folder / "imagesTr").exists()
    assert merge.main([str(merge_path), "-d", "100", "--images", "copy", "-np", "1"]) == 1
    assert merge.main([str(merge_path), "-d", "100", "-np", "1", "--images", "copy", "--overwrite"]) == 0
    assert (folder / "imagesTr" / "lits_a_0000.nii.gz").is_file()


def test_merge_errors_are_one_message(merge_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert merge.main([str(merge_path.with_name("none.yaml")), "-d", "100"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {merge_path.with_name('none.yaml')}: no such file")
    assert merge.main([str(merge_path), "-d", "3"]) == 1
    assert "dataset id 3 is taken by Dataset003_LiTS" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        merge.main([str(merge_path)])


def test_a_kept_split_and_a_wide_label_are_said(
    merge_path: Path, nnunet_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = nnunet_folders / "preprocessed" / "Dataset100_Abdomen" / "splits_final.json"
    kept.parent.mkdir()
    kept.write_text("[]")
    merge_path.write_text(MERGE_FILE.replace("liver: liver_tissue", "liver: liver"))
    assert merge.main([str(merge_path), "-d", "100", "-np", "1"]) == 0
    out = capsys.readouterr().out
    assert f"{kept} differs from the folds of the merge and was kept" in out
    assert "note: annotation set 'lits': 'liver' could also be 'tumour'" in out


def test_verify_prints_the_coverage(merge_path: Path, nnunet_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    merge.main([str(merge_path), "-d", "100", "-np", "1"])
    folder = nnunet_folders / "raw" / "Dataset100_Abdomen"
    for dataset in ("100", "Dataset100_Abdomen", str(folder)):
        capsys.readouterr()
        assert verify.main(["-d", dataset, "-np", "1"]) == 0
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert rows == [
        ["liver", "2 (2), 3", "2 (2), 2"],
        ["tumour", "2 (1), 1", "-"],
        ["kidney_left", "-", "2 (1), 1"],
    ]
    assert f"{folder}: no problems" in out


def test_verify_exits_with_one_on_problems(
    merge_path: Path, nnunet_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merge.main([str(merge_path), "-d", "100", "-np", "1", "--images", "copy"])
    images = nnunet_folders / "raw" / "Dataset100_Abdomen" / "imagesTr"
    (images / "btcv_c_0000.nii.gz").write_bytes((images / "lits_b_0000.nii.gz").read_bytes())
    capsys.readouterr()
    assert verify.main(["-d", "100", "-np", "1"]) == 1
    assert "problem: the same image in btcv_c, lits_b: a leak" in capsys.readouterr().out
    assert verify.main(["-d", "100", "-np", "1", "--skip_duplicates"]) == 0
    capsys.readouterr()
    assert verify.main(["-d", "100", "-np", "1", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["duplicates"] == [["btcv_c", "lits_b"]]
    assert len(report["problems"]) == 1
    assert report["coverage"]["lits"] == {
        "cases": 2,
        "classes": {
            "liver": {"annotated": 2, "present": 2, "voxels": 3},
            "tumour": {"annotated": 2, "present": 1, "voxels": 1},
            "kidney_left": {"annotated": 0, "present": 0, "voxels": 0},
        },
    }


def test_verify_of_what_is_not_there(nnunet_folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main(["-d", "77"]) == 1
    assert "error: dataset '77': no such dataset" in capsys.readouterr().err


def _evaluated(current: str | None, line: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "nnUNet_extTrainer"}
    if current is not None:
        environment["nnUNet_extTrainer"] = current
    done = subprocess.run(
        ["bash", "-c", 'eval "$1"; printf %s "$nnUNet_extTrainer"', "bash", line],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    return done.stdout


FOLDER = str(ROOT / "nnunet_partial" / "nnunet_ext")


def test_env_prints_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    assert env.main([]) == 0
    out = capsys.readouterr().out
    assert out == f'export nnUNet_extTrainer="{FOLDER}"\n'
    assert Path(_evaluated(None, out)).is_dir()


@pytest.mark.parametrize(
    ("current", "expected"),
    [
        ("", FOLDER),
        ("/mine", f"/mine:{FOLDER}"),
        (FOLDER, FOLDER),
        (f"/mine:{FOLDER}/:/yours", f"/mine:{FOLDER}/:/yours"),
        ('/my trainers/$HOME\'s "best"', f'/my trainers/$HOME\'s "best":{FOLDER}'),
    ],
)
def test_env_keeps_other_folders_whatever_their_names(
    current: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("nnUNet_extTrainer", current)
    assert env.main([]) == 0
    assert _evaluated(current, capsys.readouterr().out) == expected


def test_env_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PartialError, match=r"nnunet_partial.nnunet_ext is not installed; install nnunet_partial again"):
        env.export_line(None)


def test_a_merge_is_seen_by_the_label_model(merge_path: Path, nnunet_folders: Path) -> None:
    from nnunet_partial.labels import load_dataset_json, partial_labels_of

    merge.main([str(merge_path), "-d", "100", "-np", "1"])
    labels = partial_labels_of(load_dataset_json(nnunet_folders / "raw" / "Dataset100_Abdomen"))
    np.testing.assert_array_equal(labels.annotated, [[1, 1, 0], [1, 0, 1]])
