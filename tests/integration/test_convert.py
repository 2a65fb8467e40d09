"""Converted datasets in stock nnU-Net, in our check, and merged with each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.cli import convert, merge, verify
from nnunet_partial.conversion import Case, Converter, Masks
from nnunet_partial.conversion.engine import convert_dataset
from nnunet_partial.demo.pipeline import Pipeline
from nnunet_partial.labels import load_dataset_json, partial_labels_of
from nnunet_partial.labels.merge_file import load_merge_file
from nnunet_partial.labels.merge_plan import plan_merge
from tests.conversion_fakes import flare22, kits23, totalsegmentator
from tests.conversion_fakes.scene import Fake, write_picture
from tests.documents import ROOT
from tests.integration.test_docs_commands import run_document

HOW_TO = ROOT / "docs" / "how-to-convert.md"

MERGE_FILE = """
name: Kidneys
folds: 2
classes:
  liver:
  kidneys: [left_tissue, right_tissue, left_mass, right_mass]
  kidney_left: [left_tissue, left_mass]
  kidney_right: [right_tissue, right_mass]
  kidney_mass: [left_mass, right_mass]
sources:
  flare:
    dataset: Dataset322_FLARE22
    labels: {{liver: liver, kidney_left: kidney_left, kidney_right: kidney_right}}
    unlisted: background
    annotated: {{all: all, none: []}}
    cases: '{sets}'
  kits:
    dataset: Dataset323_KiTS23
    labels: {{kidney_tissue: [left_tissue, right_tissue], kidney_tumor: kidney_mass, kidney_cyst: kidney_mass}}
"""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline(tmp_path_factory.mktemp("workspace"), processes=1)


@pytest.fixture(scope="module")
def downloads(pipeline: Pipeline) -> dict[str, Fake]:
    """Fake downloads, converted: links and unlabelled cases, overlapping masks of few structures, and pictures."""
    made = {
        "FLARE22": flare22.make(pipeline.folder / "flare", "FLARE22"),
        "KiTS23": kits23.make(pipeline.folder / "kits", "KiTS23"),
        "TotalSegmentator_v2": totalsegmentator.make(pipeline.folder / "total", "TotalSegmentator_v2"),
    }
    options = {
        "FLARE22": ["--link", "--unlabelled"],
        "KiTS23": ["--orientation", "RAS"],
        "TotalSegmentator_v2": ["--labels", "kidney_left,kidney_cyst_left,kidney_right,sacrum,vertebrae_S1"],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_raw", str(pipeline.raw))
        patch.delenv("nnUNet_preprocessed", raising=False)
        for name, fake in made.items():
            assert convert.main([name, "-i", str(fake.download), "-np", "1", *options[name]]) == 0
    convert_dataset(pictures(pipeline.folder / "pictures"), pipeline.folder / "pictures", raw_folder=pipeline.raw)
    return made


def pictures(folder: Path) -> Converter:
    rng = np.random.default_rng(0)
    for case in ("01_a", "01_b", "02_a"):
        write_picture(folder / f"{case}.png", rng.integers(0, 256, (40, 32, 3)).astype(np.uint8))
        write_picture(folder / f"{case}_liver.png", (rng.random((40, 32)) > 0.5).astype(np.uint8) * 255)

    def cases(root: Path) -> Iterator[Case]:
        for case in ("01_a", "01_b", "02_a"):
            masks = Masks({"liver": root / f"{case}_liver.png"})
            yield Case(case, image=root / f"{case}.png", label=masks, patient=case[:2])

    return Converter(
        name="Pictures",
        dataset_id=399,
        modality="RGB",
        channels=("R", "G", "B"),
        labels=["liver", "spleen"],
        cases=cases,
        layout=(),
        licence="none",
        citation="nobody",
        url="http://localhost",
        file_ending=".png",
    )


def test_stock_nnunet_finds_nothing_wrong(pipeline: Pipeline, downloads: dict[str, Fake]) -> None:
    pipeline.run(
        *("nnUNetv2_plan_and_preprocess", "-d", "322", "342", "399", "-c", "2d", "--verify_dataset_integrity"),
        *("--no_pp", "-npfp", "1", "-np", "1"),
    )
    (log,) = (pipeline.folder / "logs").glob("*_nnUNetv2_plan_and_preprocess.log")
    assert log.read_text("utf-8", errors="replace").count("verify_dataset_integrity Done.") == 3
    for name in ("Dataset322_FLARE22", "Dataset342_TotalSegmentator_v2", "Dataset399_Pictures"):
        assert (pipeline.folder / "preprocessed" / name / "nnUNetPlans.json").is_file()


def test_our_check_and_the_merge_take_them(
    pipeline: Pipeline, downloads: dict[str, Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_raw", str(pipeline.raw))
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    for number in ("322", "323", "342"):
        assert verify.main(["-d", number, "-np", "1"]) == 0
    path = pipeline.folder / "merge.yaml"
    path.write_text(MERGE_FILE.format(sets=pipeline.raw / "Dataset322_FLARE22" / "annotation_sets.csv"))
    assert merge.main([str(path), "-d", "100", "-np", "1"]) == 0
    assert verify.main(["-d", "100", "-np", "1"]) == 0

    merged = pipeline.raw / "Dataset100_Kidneys"
    dataset = load_dataset_json(merged)
    labels = partial_labels_of(dataset)
    known = {case: labels.annotated[labels.row_of(case)].tolist() for case in labels.cases}
    classes = labels.class_names
    assert classes == ("liver", "kidneys", "kidney_left", "kidney_right", "kidney_mass")
    assert known["flare_Case_00001"] == [False] * 5
    assert known["flare_FLARE22_Tr_0010"] == [True, True, True, True, False]
    assert known["kits_case_00299"] == [False, True, False, False, True]
    image = nib.as_closest_canonical(nib.load(merged / "labelsTr" / "kits_case_00000.nii.gz"))
    scene = downloads["KiTS23"].train["case_00000"]
    mass = [value for value in labels.set_of("kits_case_00000").possible if value != 0]
    states = labels.states[labels.row_of("kits_case_00000")]
    drawn = np.asarray(image.dataobj)
    tumour = [value for value in mass if states[value, classes.index("kidney_mass")] == 1]
    np.testing.assert_array_equal(
        np.isin(drawn, tumour), scene.structures["kidney_tumor"] | scene.structures["kidney_cyst"]
    )
    np.testing.assert_array_equal(drawn > 0, np.any(list(scene.structures.values()), axis=0))


def test_how_to(tmp_path: Path) -> None:
    flare22.make(tmp_path / "downloads" / "FLARE22", "FLARE22")
    kits23.make(tmp_path / "downloads" / "kits23", "KiTS23")
    run_document(HOW_TO, tmp_path)
    plan = plan_merge(load_merge_file(tmp_path / "kidneys.yaml"), tmp_path / "raw")
    assert plan.notes() == []
    kits = plan.labels.annotated[plan.labels.row_of("kits_case_00000")]
    assert dict(zip(plan.labels.class_names, kits.tolist(), strict=True)) == {
        "kidneys": True,
        "kidney_left": False,
        "kidney_right": False,
        "kidney_mass": True,
    }
