"""`nnUNetv2_partial_convert`, and the page of datasets that it writes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial import conversion
from nnunet_partial.cli import convert
from nnunet_partial.conversion import (
    ALL_FLIPS,
    Annotated,
    Case,
    Converter,
    Intensity,
    LabelMap,
    LeftOut,
    Masks,
    Slices,
    Uniform,
)
from nnunet_partial.dataset_conversion import converters
from nnunet_partial.labels import load_dataset_json, partial_labels_of
from tests import documents
from tests.conversion_fakes import totalsegmentator
from tests.conversion_fakes.scene import make_scene, numbered, write_nifti
from tests.documents import ROOT
from tests.unit.conversion.conftest import NAMES, Toy, plain_cases, toy

TABLES = (Case, Converter, LabelMap, Masks, Slices, Annotated, Uniform)


@pytest.fixture
def raw(download: Toy, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$nnUNet_raw, and the made-up dataset among the converters."""
    monkeypatch.setenv("nnUNet_raw", str(download.raw))
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)

    def cases(root: Path) -> Iterator[Case | LeftOut]:
        yield from plain_cases(root)
        yield LeftOut("z", "withdrawn by its authors")

    table = {"expected": {"train": 50, "test": 2}, "notes": ("a note",), "top": ("Toy_v1",)}
    known: dict[str, Converter] = {"Toy": toy(cases=cases, **table)}
    monkeypatch.setattr("nnunet_partial.dataset_conversion.converters", lambda: known)
    return download.raw


def rows(out: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]


def test_help_and_lists_are_quick() -> None:
    """No library is imported that takes long: not even NumPy."""
    script = """
import sys
from nnunet_partial.cli import convert
for words in (["--help"], ["--list"], ["--describe", "FLARE22"]):
    try:
        assert convert.main(words) == 0
    except SystemExit as stop:
        assert stop.code == 0
heavy = {"torch", "nnunetv2", "numpy", "nibabel", "SimpleITK", "pydantic", "pandas"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, encoding="utf-8", env=environment, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    for text in ("NAME", "DOWNLOAD", "--link", "--dry-run", "--overlaps", "FLARE22", "Dataset322_FLARE22"):
        assert text in done.stdout


def test_convert_says_what_it_did(raw: Path, download: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert.main(["toy", "-i", str(download.download), "-np", "1", "--link"]) == 0
    out = capsys.readouterr().out
    assert rows(out) == [["all", "3", "liver, spleen, kidneys"]]
    assert "left out: 1 (z): withdrawn by its authors" in out
    assert "note: 3 labelled cases found and 1 left out, the full download has 50" in out
    assert "note: a note" in out
    assert f"written to {raw / 'Dataset007_Toy'}" in out
    assert "images: 3 linked" in out
    assert "nnUNetv2_partial_verify -d 7" in out
    assert convert.main(["Toy", "-i", str(download.download), "-np", "1", "--link"]) == 0
    assert f"up to date already: {raw / 'Dataset007_Toy'}" in capsys.readouterr().out


def test_a_dry_run_writes_nothing(raw: Path, download: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--dry-run", "--dry_run"):
        assert convert.main(["Toy", "-i", str(download.download), flag]) == 0
        out = capsys.readouterr().out
        assert rows(out) == [["all", "3", "liver, spleen, kidneys"]]
        assert "nothing was written" in out
    assert not raw.exists()


def test_options_reach_the_conversion(raw: Path, download: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["Toy", "-i", str(download.download), "-d", "12", "--name", "Mine", "-np", "1", "--orientation", "RAS"]
    assert convert.main([*words, "--labels", "liver, spleen", "--exclude", "a,b"]) == 0
    out = capsys.readouterr().out
    assert rows(out) == [["all", "1", "liver, spleen"]]
    assert "left out: 2 (a, b): left out by --exclude" in out
    assert "images: 1 converted" in out
    assert (raw / "Dataset012_Mine" / "labelsTr" / "c.nii.gz").is_file()
    assert convert.main(words) == 1
    assert "was converted differently" in capsys.readouterr().err
    assert convert.main([*words, "--overwrite", "--unlabelled", "--overlaps", "ignore"]) == 0


def test_overlaps_and_kept_splits_are_said(
    raw: Path, download: Toy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nnunet_partial.dataset_conversion.converters", converters)
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    kept = tmp_path / "preprocessed" / "Dataset342_TotalSegmentator_v2" / "splits_final.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("[]")
    fake = totalsegmentator.make(tmp_path / "fake", "TotalSegmentator_v2")
    assert convert.main(["TotalSegmentator_v2", "-i", str(fake.download), "-np", "1"]) == 0
    out = capsys.readouterr().out
    assert rows(out) == [["all", "2", "117: spleen, kidney_right, kidney_left, ..."]]
    assert "test cases: 1, of which 1 have labels" in out
    assert "values of their own: kidney_left+kidney_cyst_left (1 cases), sacrum+vertebrae_S1 (1 cases)" in out
    assert f"note: {kept} differs from the official split and was kept" in out


def test_how_labels_were_placed_is_counted(
    raw: Path, download: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for case, scene in download.scenes.items():
        scene.image[:] = np.where(scene.structures["liver"], 100, -1000)
        write_nifti(download.image(case), scene.image, scene.affine)
        turned = np.flip(scene.values(numbered(NAMES)), 2 if case == "b" else 1)
        write_nifti(download.label(case), np.ascontiguousarray(turned), np.eye(4))

    def cases(root: Path) -> Iterator[Case]:
        for case in plain_cases(root):
            assert isinstance(case.label, LabelMap)
            yield replace(case, label=LabelMap(case.label.path, grid="image", flips=ALL_FLIPS))

    known = {"Toy": toy(cases=cases, checks=(Intensity("liver", 0, 200, 0.9),))}
    monkeypatch.setattr("nnunet_partial.dataset_conversion.converters", lambda: known)
    for _ in range(2):  # the second time it is up to date
        assert convert.main(["Toy", "-i", str(download.download), "-np", "1"]) == 0
        assert "labels: 2 flipped y, 1 flipped z; look at the rare ones" in capsys.readouterr().out


def test_images_that_are_not_in_hounsfield_units_are_named(
    raw: Path, download: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    for case in "bc":
        scene = download.scenes[case]
        scene.image[:] = np.random.default_rng(0).normal(1050, 30, scene.image.shape)
        write_nifti(download.image(case), scene.image, scene.affine, "LPS")
    for _ in range(2):  # the second time it is up to date
        assert convert.main(["Toy", "-i", str(download.download), "-np", "1"]) == 0
        out = capsys.readouterr().out
        assert "note: 2 of 3 CT images (b, c) look as if they were not in Hounsfield units" in out
        assert "Perhaps 1024 was not subtracted" in out


def test_all_failing_cases_are_listed(raw: Path, download: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    download.image("a").write_bytes(b"")
    scene = download.scenes["b"]
    write_nifti(download.label("b"), scene.values(numbered(NAMES, first=7)), scene.affine, "LPS")
    assert convert.main(["Toy", "-i", str(download.download), "-np", "1"]) == 1
    err = capsys.readouterr().err
    assert "2 of 3 cases of Toy failed, the others are done" in err
    assert re.findall(r"^  - case '(\w)': ", err, flags=re.MULTILINE) == ["a", "b"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["Toys", "-i", "."], "'Toys' is no dataset that can be converted; did you mean Toy?"),
        (["xyz", "-i", "."], "'xyz' is no dataset that can be converted; see --list"),
        (["Toy", "-i", "nowhere"], "nowhere: no such folder; expected the unpacked download of Toy"),
        (["Toy", "-i", ".", "--size", "640"], "--size: expected WIDTHxHEIGHT in pixels, e.g. 640x512, found '640'"),
        (["Toy", "-i", ".", "--size", "0x5"], "--size: expected WIDTHxHEIGHT"),
        (["Toy", "-i", ".", "--size", "5x5"], "Toy holds volumes; only pictures can be resized"),
        (["Toy", "-i", ".", "--labels", ","], "--labels: nothing cannot be chosen"),
        (["--describe", "flar"], "'flar' is no dataset"),
    ],
)
def test_errors_are_one_message(words: list[str], message: str, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert.main(words) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.parametrize("words", [[], ["Toy"], ["-i", "."]])
def test_a_dataset_and_a_download_are_needed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        convert.main(words)
    assert caught.value.code == 2
    assert "give a dataset and -i DOWNLOAD, or --list, or --describe NAME" in capsys.readouterr().err


def test_list_and_describe(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert.main(["--list"]) == 0
    assert rows(capsys.readouterr().out) == [["Toy", "CT", "50 + 2 test", "liver, spleen, kidneys", "none"]]
    assert convert.main(["--describe", "TOY"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:6] == [
        "Toy: CT (50 train, 2 test)",
        "from http://localhost",
        "licence: none",
        "cite: nobody",
        "default dataset: Dataset007_Toy",
        "files, below the folder given with -i or Toy_v1 in it:",
    ]
    assert "  2: spleen (could be spleen_tissue, spleen_tumor)" in out
    assert "  1: liver (could be hepatic_vessel, liver_parenchyma, liver_tumor)" in out
    assert out[-1] == "note: a note"


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        (range(1, 256), "1 to 255"),
        ([7], "7"),
        ([5, 4], "4, 5"),
        ([1, 3, 4, 5, 9, 10], "1, 3 to 5, 9, 10"),
    ],
)
def test_values_in_a_row_are_shortened(
    numbers: list[int], text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"Toy": toy(labels=dict.fromkeys(numbers, "aorta"))}
    monkeypatch.setattr("nnunet_partial.dataset_conversion.converters", lambda: known)
    assert convert.main(["--describe", "Toy"]) == 0
    assert f"\n  {text}: aorta\n" in capsys.readouterr().out


def test_the_page_of_datasets_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert convert.main(["--list", "--format", "markdown"]) == 0
    page = capsys.readouterr().out
    assert (ROOT / "docs" / "datasets.md").read_text("utf-8") == page, (
        "write it again: nnUNetv2_partial_convert --list --format markdown > docs/datasets.md"
    )
    assert [line.split(" | ")[0].strip("| ") for line in page.splitlines() if line.startswith("| ")][2:] == sorted(
        converters(), key=str.lower
    )


def test_names_and_numbers_of_converters_are_unique(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunet_partial import dataset_conversion
    from nnunet_partial.errors import LabelError

    monkeypatch.setattr(dataset_conversion, "__path__", [*dataset_conversion.__path__, str(tmp_path)])
    flare = "from nnunet_partial.dataset_conversion.flare22 import CONVERTER as C\nfrom dataclasses import replace\n"
    texts = {
        "zz_same_name": ("CONVERTER = replace(C, dataset_id=999)", "another converter called 'FLARE22'"),
        "zz_same_number": ("CONVERTER = replace(C, name='X')", "X and FLARE22 have the same dataset_id, 322"),
        "zz_none": ("", "expected a Converter called CONVERTER, or several in CONVERTERS"),
    }
    for name, (text, message) in texts.items():
        path = tmp_path / f"{name}.py"
        path.write_text(flare + text)
        with pytest.raises(LabelError, match=message):
            converters()
        path.unlink()


def test_the_example_of_the_documents_converts(download: Toy) -> None:
    (shown,) = documents.blocks(ROOT / "docs" / "adding-a-converter.md", "python")
    names: dict[str, Any] = {"__name__": "example"}
    exec(shown.text, names)
    values = {"liver_tissue": 1, "liver_tumor": 2, "kidneys": 4}
    scenes = {f"scan_{number:02d}": make_scene(number, list(values)) for number in (1, 2)}
    for case, scene in scenes.items():
        write_nifti(download.download / "scans" / f"{case}.nii.gz", scene.image, scene.affine)
        write_nifti(download.download / "segmentations" / f"{case}_seg.nii.gz", scene.values(values), scene.affine)
    result = download.convert(names["CONVERTER"])
    model = partial_labels_of(load_dataset_json(result.folder))
    assert set(model.cases) == set(scenes)
    assert model.class_names == ("liver", "liver_tumor", "kidneys")
    written = np.asarray(nib.load(result.folder / "labelsTr" / "scan_01.nii.gz").dataobj)
    np.testing.assert_array_equal(written, scenes["scan_01"].values(numbered(list(values))))


def test_the_table_of_the_documents_names_what_there_is() -> None:
    rows = documents.table(ROOT / "docs" / "adding-a-converter.md", "in the download").column("in the converter")
    called = {name for row in rows for name in re.findall(r"\b([A-Z]\w+|[a-z_]+)(?=\()", row)}
    assert called <= set(conversion.__all__)
    assert {"Masks", "Slices", "Dicom", "LabelMap", "LeftOut", "either", "read_table"} <= called
    fields = {field.name for table in TABLES for field in fields_of(table)}
    assert {name for row in rows for name in re.findall(r"\b(\w+)=", row)} <= fields
