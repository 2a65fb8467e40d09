"""The commands that the documents show, run as they stand; and those that must not run here, checked to exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.phantoms import ATOMS, make_phantom
from tests import documents

README = documents.ROOT / "README.md"
HOW_TO = documents.ROOT / "docs" / "how-to-different-organs.md"

PHANTOM: dict[str, Any] = {"shape": (24, 24, 24), "spacing_mm": (13.0, 13.0, 13.0)}
"""So small that one iteration of nnU-Net's default network takes a second."""

_MARK = "##### block in line "
_OTHER_COMMANDS = {"cd", "eval", "export", "git", "pip", "python"}

Atoms = Mapping[str, tuple[str, ...]]
LIVER_AND_TUMOUR = ("liver_tissue", "liver_tumour")
LIVER: Atoms = {"liver": ("liver_tissue",), "cancer": ("liver_tumour",)}
ORGANS: Atoms = {
    "spleen": ("spleen",),
    "right kidney": ("kidney_right",),
    "left kidney": ("kidney_left",),
    "gallbladder": (),
    "liver": LIVER_AND_TUMOUR,
    "aorta": ("aorta",),
    "pancreas": ("pancreas",),
}
KIDNEYS: Atoms = {"kidney": ("kidney_left", "kidney_right")}
FLARE: Atoms = {"liver": LIVER_AND_TUMOUR, "spleen": ("spleen",), "pancreas": ("pancreas",), "tumor": ("liver_tumour",)}


def write_dataset(
    folder: Path, labels: Atoms, cases: Mapping[str, tuple[int, Sequence[str]]], *, kind: str = "Tr"
) -> None:
    """Writes phantoms as a raw dataset.

    Args:
        folder: DatasetXXX_NAME, or a folder of test cases.
        labels: Label to its atoms, in the order of the values 1, 2, ...; where two labels share atoms, the later
            one is drawn over the earlier.
        cases: Case to the seed of its phantom and the labels that are drawn in it.
        kind: 'Tr' or 'Ts'.
    """
    values = {"background": 0, **{label: value for value, label in enumerate(labels, start=1)}}
    for part in ("images", "labels"):
        (folder / f"{part}{kind}").mkdir(parents=True)
    for case, (seed, drawn) in cases.items():
        phantom = make_phantom(seed, **PHANTOM)
        label_map = np.zeros(phantom.atoms.shape, np.uint8)
        for label in (name for name in labels if name in drawn):
            label_map[np.isin(phantom.atoms, [ATOMS.index(atom) for atom in labels[label]])] = values[label]
        nib.save(nib.Nifti1Image(phantom.hu, phantom.affine), folder / f"images{kind}" / f"{case}_0000.nii.gz")
        nib.save(nib.Nifti1Image(label_map, phantom.affine), folder / f"labels{kind}" / f"{case}.nii.gz")
    description = {"channel_names": {"0": "CT"}, "labels": values, "numTraining": len(cases), "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A work folder with the datasets that the documents speak of."""
    raw = tmp_path / "raw"
    write_dataset(raw / "Dataset003_Liver", LIVER, {f"liver_{i}": (i, tuple(LIVER)) for i in range(3)})
    write_dataset(raw / "Dataset017_BTCV", ORGANS, {f"img000{i}": (100 + i, tuple(ORGANS)) for i in range(3)})
    kidneys = {f"case_0000{i}_{phase}": i for i in range(2) for phase in ("arterial", "late")}
    scans = {case: (200 + number, tuple(KIDNEYS)) for number, case in enumerate(kidneys)}
    write_dataset(raw / "Dataset064_KiTS", KIDNEYS, scans)
    organs = ("liver", "spleen", "pancreas")
    flare = {
        "FLARE23_0001": (301, organs),
        "FLARE23_0002": (1, organs),  # the image of liver_1
        "FLARE23_0003": (303, ("tumor",)),
        "FLARE23_0004": (304, tuple(FLARE)),
        "FLARE23_0005": (305, ()),
    }
    write_dataset(raw / "Dataset023_FLARE23", FLARE, flare)
    new: Atoms = {"spleen": ("spleen",), "liver": LIVER_AND_TUMOUR}
    write_dataset(tmp_path / "new_scans", new, {"scan_1": (401, tuple(new))}, kind="Ts")
    return tmp_path


def environment(work: Path) -> dict[str, str]:
    """nnU-Net's folders, and the settings of a short training on a small machine."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet_")}
    settings = {f"nnUNet_partial_{name}": "1" for name in ("epochs", "iterations", "val_iterations")}
    return {
        **inherited,
        **settings,
        **{f"nnUNet_{name}": str(work / name) for name in ("raw", "preprocessed", "results")},
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "OMP_WAIT_POLICY": "PASSIVE",
        "nnUNet_n_proc_DA": "1",
        "nnUNet_def_n_proc": "1",
        # prediction in one process
        "nnUNet_npp": "0",
        "nnUNet_nps": "0",
        "nnUNet_compile": "f",
    }


def run_document(path: Path, work: Path) -> None:
    """Runs the bash blocks of a document in order, in one shell, as a reader would.

    Files shown in the document are written where they stand. Text blocks are what the block before them prints.
    """
    shown = documents.blocks(path, "bash", "yaml", "csv", "text")
    script = []
    for number, block in enumerate(shown):
        if block.kind in ("yaml", "csv"):
            assert block.file is not None, f"{path.name}, line {block.line}: the text before it names no file"
            (work / f"{number}.shown").write_text(block.text)
            script.append(f"mv {number}.shown {block.file}\n")
        elif block.kind == "bash":
            script.append(f"echo '{_MARK}{block.line}'\n{block.text}")
    (work / "script.sh").write_text("".join(script))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "script.sh"],
        cwd=work,
        env=environment(work),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{path.name} failed, the end of its output:\n{done.stdout[-6000:]}"
    printed = {int(part.split("\n", 1)[0]): part for part in done.stdout.split(_MARK)[1:]}
    last = 0
    for block in shown:
        last = block.line if block.kind == "bash" else last
        for line in block.text.splitlines() if block.kind == "text" else []:
            assert line in printed[last], f"{path.name}, line {block.line}: '{line}' is not printed:\n{printed[last]}"


def test_readme(work: Path) -> None:
    run_document(README, work)
    assert (work / "predictions" / "scan_1.nii.gz").is_file()
    summary = json.loads((work / "scores" / "summary.json").read_text())
    assert set(summary["classes"].values()) == {"spleen", "liver"}
    assert summary["not_annotated"] == []


def test_how_to(work: Path) -> None:
    run_document(HOW_TO, work)
    block = json.loads((work / "raw" / "Dataset110_Abdomen" / "dataset.json").read_text())["partial_labels"]
    assert block["cases"]["flare_FLARE23_0004"] == "flare.both"
    assert "flare_FLARE23_0002" not in block["cases"]
    assert block["patients"]["kits_case_00001_late"] == block["patients"]["kits_case_00001_arterial"]
    summary = json.loads((work / "scores" / "summary.json").read_text())
    assert set(summary["classes"].values()) == set(block["classes"])
    # the fold's cases only, and only their annotated classes
    validation = json.loads((work / "preprocessed" / "Dataset110_Abdomen" / "splits_final.json").read_text())[0]["val"]
    assert len(summary["metric_per_case"]) == len(validation)


CONSOLE = [
    pytest.param(words, id=f"{path.name}: {' '.join(words)}")
    for path in documents.DOCUMENTS
    for block in documents.blocks(path, "console", *(() if path in (README, HOW_TO) else ("bash",)))
    for words in documents.commands(block)
]


@pytest.mark.parametrize("words", CONSOLE)
def test_commands_that_are_not_run_exist(words: list[str]) -> None:
    name, *arguments = words
    scripts = {script.name: script for script in entry_points(group="console_scripts")}
    if name == "make":
        targets = re.findall(r"^([\w-]+):", (documents.ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert set(arguments) <= set(targets)
    elif name.startswith("nnUNetv2_partial_"):
        parser = import_module(scripts[name].value.partition(":")[0]).build_parser()
        assert parser.parse_args(arguments)
    elif name.startswith("nnUNetv2_"):
        assert name in scripts
    else:
        assert name in _OTHER_COMMANDS
