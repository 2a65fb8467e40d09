"""The wheel and the installed package: everything in it, nothing beside it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from a copy of the sources, so that no build folder is left behind."""
    source = tmp_path_factory.mktemp("source")
    for name in ("nnunet_partial", "trainers", "dataset_conversion"):
        shutil.copytree(PROJECT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(source / "dist"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return zipfile.ZipFile(next((source / "dist").glob("*.whl")))


def test_the_wheel_holds_trainers_converters_merge_files_and_type_marker(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert {
        "nnunet_partial/trainers/PartialLabelTrainer.py",
        "nnunet_partial/trainers/PartialLabelTrainerMultiTalent.py",
        "nnunet_partial/dataset_conversion/__init__.py",
        "nnunet_partial/nnunet_ext/trainer_shim.py",
        "nnunet_partial/py.typed",
    } <= names
    modules = {str(p.relative_to(PROJECT)) for p in (PROJECT / "nnunet_partial").rglob("*.py")}
    assert modules <= names
    collections = {p.name for p in (PROJECT / "dataset_conversion" / "collections").glob("*.yaml")}
    assert len(collections) > 3
    assert {f"nnunet_partial/dataset_conversion/collections/{name}" for name in collections} <= names


def test_nothing_generic_lands_at_the_top(wheel: zipfile.ZipFile) -> None:
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"nnunet_partial"}


def test_the_installed_trainers_are_those_of_the_package(tmp_path: Path) -> None:
    code = "import nnunet_partial.trainers as t; print(t.PartialLabelTrainer.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "nnunet_partial.trainers.PartialLabelTrainer"


def test_every_console_script_resolves() -> None:
    scripts = [e for e in entry_points(group="console_scripts") if e.name.startswith("nnUNetv2_partial_")]
    assert {e.name for e in scripts} >= {
        f"nnUNetv2_partial_{n}" for n in ("env", "merge", "verify", "evaluate", "demo")
    }
    assert all(callable(e.load()) for e in scripts)
