"""The files that the image for prediction is built from agree with each other and with the package."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.efficiency.results import CaseCost
from nnunet_partial.inference.model.exported_model import PLAN_FILE, export_model
from nnunet_partial.networks.variants import VARIANTS
from tests import documents
from tests.documents import ROOT
from tests.unit import tiny_models

DOCKER = ROOT / "docker"
HOW_TO = ROOT / "docs" / "how-to-flare-docker.md"
DEVICES = ("cpu", "cuda")


def bounds(requirements: list[str] | None) -> dict[str, SpecifierSet]:
    """Names to versions, extras of a package among them or not as they are given."""
    found = (Requirement(text) for text in requirements or [])
    return {canonicalize_name(r.name): r.specifier for r in found}


def listed(device: str) -> dict[str, SpecifierSet]:
    lines = [
        line
        for name in ("requirements.txt", f"requirements-{device}.txt")
        for line in (DOCKER / name).read_text().splitlines()
        if not line.startswith(("#", "-r "))
    ]
    return bounds(lines)


@pytest.mark.parametrize("device", DEVICES)
def test_versions_are_those_of_the_package(device: str) -> None:
    # names of extras are markers, which do not matter here
    ours = bounds([re.sub(r";.*", "", text) for text in requires("nnunet-partial") or []])
    stock = bounds([text for text in requires("nnunetv2") or [] if "extra" not in text])
    for name, versions in listed(device).items():
        assert name in ours or name in stock, f"{name} is needed by neither nnunet_partial nor nnU-Net"
        # what nnU-Net excludes is excluded for our package too, which needs nnU-Net
        excluded = {str(s) for s in stock.get(name, SpecifierSet()) if s.operator == "!="}
        expected = {str(s) for s in ours[name]} | excluded if name in ours else {str(s) for s in stock[name]}
        assert {str(s) for s in versions} == expected, name
    assert ("torch" in listed(device)) == (device == "cuda")


IMPORT_ALL = """
import importlib, sys
refused = set(sys.argv[2:])


class InImage:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in refused else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = [InImage(finder) for finder in sys.meta_path]
for name in sys.argv[1].split(","):
    module, _, network = name.rpartition(".")
    print(getattr(importlib.import_module(module), network).__name__)
importlib.import_module("einops")  # SwinUNETR asks for it when it is made
"""


def installed_with(requirements: set[str]) -> set[str]:
    """What can be imported where these packages and what they need are installed."""
    modules: dict[str, set[str]] = {}
    for module, names in packages_distributions().items():
        for name in names:
            modules.setdefault(canonicalize_name(name), set()).add(module)
    found: set[str] = set()
    waiting = sorted(requirements)
    while waiting:
        name = waiting.pop()
        if name in found or name not in modules:  # of another system
            continue
        found.add(name)
        needed = [Requirement(text) for text in requires(name) or []]
        waiting += [canonicalize_name(n.name) for n in needed if n.marker is None or n.marker.evaluate({"extra": ""})]
    return {module for name in found for module in modules[name]}


def test_all_networks_of_the_plans_are_in_the_image_for_gpus() -> None:
    networks = {
        variant.architecture["network_class_name"] for variant in VARIANTS.values() if variant.architecture is not None
    }
    assert len(networks) >= 6
    allowed = installed_with(set(listed("cuda"))) | sys.stdlib_module_names | {"nnunet_partial"}
    refused = set(packages_distributions()) - allowed
    assert {"nnunetv2", "batchgenerators", "pandas"} <= refused
    words = [sys.executable, "-c", IMPORT_ALL, ",".join(sorted(networks)), *sorted(refused)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {name.rpartition(".")[2] for name in networks}


def test_all_that_is_copied_is_in_the_context() -> None:
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = set()
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        match = re.fullmatch(r"COPY (?!--from)(.+) \S+", line)
        for device in DEVICES if match else ():
            copied |= set(match[1].replace("${DEVICE}", device).replace("${MODEL}", "model").split())
    assert {path.partition("/")[0] for path in copied} == set(let_through)
    assert [path for path in copied - {"model"} if not (ROOT / path).exists()] == []
    assert {path.name for path in DOCKER.iterdir() if path.is_file()} <= {Path(path).name for path in copied}


@pytest.fixture(scope="module")
def check_model() -> ModuleType:
    specification = importlib.util.spec_from_file_location("check_model", DOCKER / "check_model.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_models_that_fit_the_image_are_taken(
    check_model: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino")
    model = tmp_path / "model"
    export_model(tiny_models.write_model(tmp_path / "trained"), model, formats=["torch", "openvino"])
    assert check_model.check(model, "cpu") == 0
    assert "OpenVINO" in capsys.readouterr().out
    assert check_model.check(model, "cuda") == 0
    assert "PyTorch" in capsys.readouterr().out
    plan = json.loads((model / PLAN_FILE).read_text())
    del plan["files"]["torch"]
    (model / PLAN_FILE).write_text(json.dumps(plan))
    with pytest.raises(PartialError, match="device 'cuda'"):
        check_model.check(model, "cuda")


def test_folders_of_nnunet_are_refused(check_model: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(PartialError, match="expected a folder of nnUNetv2_partial_export"):
        check_model.check(tiny_models.write_model(tmp_path / "trained"), "cpu")


def test_the_how_to_lists_what_the_image_takes() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    arguments = dict(re.findall(r"^ARG (\w+)(?:=(\S+))?$", dockerfile, flags=re.MULTILINE))
    shown = documents.table(HOW_TO, "build argument")
    listed_arguments = {
        name: default
        for names, default in zip(shown.column("build argument"), shown.column("default"), strict=True)
        for name in names.split(", ")
    }
    assert listed_arguments == arguments
    script = (DOCKER / "predict.sh").read_text()
    variables = dict(re.findall(r"\$\{(NNUNET_PARTIAL_\w+):-(\S+)\}", script))
    environment = documents.table(HOW_TO, "environment variable")
    assert environment.column("environment variable") == list(variables)
    for (name, default), text in zip(variables.items(), environment.column("default"), strict=True):
        assert default in text.split(), name


def test_the_how_to_lists_the_columns_of_the_table() -> None:
    columns = documents.table(HOW_TO, "column of efficiency.csv").column("column of efficiency.csv")
    assert columns == [field.name for field in dataclasses.fields(CaseCost)]
