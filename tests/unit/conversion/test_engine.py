"""Converted datasets as a whole: labels, splits, records, and what the label model says."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_partial import __version__
from nnunet_partial.conversion import OCCURRING, Annotated, Case, LabelMap, LeftOut, Masks
from nnunet_partial.errors import LabelError, ProblemsError
from nnunet_partial.evaluation.reference import read_reference
from nnunet_partial.labels import load_dataset_json, partial_labels_of
from nnunet_partial.labels.verify import verify_dataset
from tests.conversion_fakes.scene import make_scene, numbered, write_nifti
from tests.unit.conversion.conftest import (
    NAMES,
    Toy,
    canonical,
    cases_with,
    toy,
)

VALUES = numbered(NAMES)


# what was annotated


def test_block_of_a_dataset_with_several_sets(download: Toy) -> None:
    cases = cases_with(a={"annotated": "organs"}, b={"annotated": OCCURRING})
    for case, names in (("a", ("kidneys",)), ("b", ("liver", "kidneys"))):
        scene = download.scenes[case].without(*names)
        write_nifti(download.label(case), scene.values(VALUES), scene.affine, "LPS")
    sets = {"organs": Annotated(("liver", "spleen"), absent=("liver_tumor",))}
    result = download.convert(toy(cases=cases, sets=sets))
    model = partial_labels_of(load_dataset_json(result.folder))
    assert dict(model.cases) == {"a": "organs", "b": "spleen", "c": "all"}
    assert model.class_names == tuple(NAMES)
    np.testing.assert_array_equal(
        [model.annotated[model.row_of(case)] for case in "abc"], [[1, 1, 0], [0, 1, 0], [1, 1, 1]]
    )
    assert model.sets["organs"].possible[1] == {"liver_parenchyma", "hepatic_vessel"}
    assert "liver_tumor" not in model.sets["organs"].possible[0]
    assert "kidney_left_tissue" in model.sets["organs"].possible[0]
    assert model.sources == ("Toy",)
    assert {s.modality for s in model.sets.values()} == {"CT"}
    rows = list(csv.reader((result.folder / "annotation_sets.csv").open()))
    assert rows == [["case", "set"], ["a", "organs"], ["b", "spleen"], ["c", "all"]]
    assert verify_dataset(result.folder).problems == []


def test_two_sets_cannot_have_one_name(download: Toy) -> None:
    cases = cases_with(a={"annotated": "spleen"}, b={"annotated": ("spleen",)})
    for case in "ab":
        scene = download.scenes[case].without("liver", "kidneys")
        write_nifti(download.label(case), scene.values(VALUES), scene.affine, "LPS")
    sets = {"spleen": Annotated(("spleen",), absent=("liver_tumor",))}
    with pytest.raises(LabelError, match="two annotation sets are called 'spleen'; rename one"):
        download.convert(toy(cases=cases, sets=sets))
    assert download.convert(toy(cases=cases, sets={"spleen": Annotated(("spleen",))})).written


def test_a_label_that_was_not_annotated_cannot_occur(download: Toy) -> None:
    cases = cases_with(a={"annotated": ("liver", "spleen")})
    message = r"\['kidneys'\] occur, but the annotation set 'liver\+spleen' has only \['liver', 'spleen'\]"
    with pytest.raises(ProblemsError, match=message):
        download.convert(toy(cases=cases))


def test_classes_are_the_converter_s_as_far_as_they_are_labelled(download: Toy) -> None:
    table: dict[str, Any] = {"labels": ["liver_tumor", "liver_tissue", "spleen"], "classes": ("liver_tumor", "liver")}
    result = download.convert(toy(**table))
    model = partial_labels_of(load_dataset_json(result.folder))
    assert model.class_names == ("liver", "liver_tumor", "spleen")
    assert load_dataset_json(result.folder)["labels"] == {
        "background": 0,
        "liver_tumor": 1,
        "liver_tissue": 2,
        "spleen": 3,
    }
    result = download.convert(toy(**table), labels=("liver_tissue",), overwrite=True)
    assert partial_labels_of(load_dataset_json(result.folder)).class_names == ("liver_tissue",)
    assert set(np.unique(canonical(result.folder / "labelsTr" / "a.nii.gz"))) == {0, 1}


def test_a_class_that_no_case_annotates_is_left_out(download: Toy) -> None:
    cases = cases_with(**{case: {"annotated": ("liver", "spleen")} for case in "abc"})
    for case, scene in download.scenes.items():
        write_nifti(download.label(case), scene.without("kidneys").values(VALUES), scene.affine, "LPS")
    result = download.convert(toy(cases=cases))
    assert partial_labels_of(load_dataset_json(result.folder)).class_names == ("liver", "spleen")
    assert verify_dataset(result.folder).problems == []


def test_absent_structures_cannot_be_all_that_a_label_means(download: Toy) -> None:
    with pytest.raises(LabelError, match="value 2 could be nothing but what is 'absent'"):
        download.convert(toy(absent=("spleen",)))


def test_unlabelled_cases_hold_ignore(download: Toy) -> None:
    cases = cases_with(a={"label": None})
    result = download.convert(toy(cases=cases))
    assert sorted(p.name for p in (result.folder / "labelsTr").iterdir()) == ["b.nii.gz", "c.nii.gz"]
    assert "ignore" not in load_dataset_json(result.folder)["labels"]
    result = download.convert(toy(cases=cases), unlabelled=True, overwrite=True)
    assert (canonical(result.folder / "labelsTr" / "a.nii.gz") == 4).all()
    dataset = load_dataset_json(result.folder)
    assert dataset["labels"]["ignore"] == 4
    assert dataset["numTraining"] == 3
    model = partial_labels_of(dataset)
    assert model.cases["a"] == "none"
    assert model.sets["none"].possible == {0: model.space.everything, 4: model.space.everything}
    assert not model.is_informative("a")
    assert verify_dataset(result.folder).problems == []


def test_nothing_but_unlabelled_cases(download: Toy) -> None:
    cases = cases_with(**{case: {"label": None} for case in "abc"})
    with pytest.raises(LabelError, match="no class is annotated in any case"):
        download.convert(toy(cases=cases), unlabelled=True)


def test_sides_are_declared(download: Toy) -> None:
    result = download.convert(toy(labels=["kidney_left", "kidney_right", "spleen"]))
    sides = partial_labels_of(load_dataset_json(result.folder)).sides
    assert (sides.classes, sides.axes) == (("kidney_left", "kidney_right"), (2,))
    assert load_dataset_json(result.folder)["overwrite_image_reader_writer"] == "NibabelIOWithReorient"


# splits, patients, test cases


def test_labelled_test_cases_can_be_evaluated(download: Toy) -> None:
    result = download.convert(toy(cases=cases_with(a={"split": "test"}, b={"split": "test", "label": None})))
    assert sorted(p.name for p in (result.folder / "imagesTs").iterdir()) == ["a_0000.nii.gz", "b_0000.nii.gz"]
    reference = read_reference(result.folder / "labelsTs")
    assert list(reference.files) == ["a"]
    assert reference.labels.is_annotated("a")
    assert set(partial_labels_of(load_dataset_json(result.folder)).cases) == {"c"}
    assert load_dataset_json(result.folder)["numTraining"] == 1
    assert verify_dataset(result.folder).problems == []


@pytest.mark.parametrize(
    ("splits", "folds"),
    [
        ({"a": "val"}, [{"train": ["b", "c"], "val": ["a"]}]),
        ({"a": 1, "b": 0}, [{"train": ["a", "c"], "val": ["b"]}, {"train": ["b", "c"], "val": ["a"]}]),
    ],
)
def test_official_splits(splits: dict[str, Any], folds: list[Any], download: Toy, nnunet_folders: Path) -> None:
    converter = toy(cases=cases_with(**{case: {"split": split} for case, split in splits.items()}))
    result = download.convert(converter)
    assert json.loads((result.folder / "splits_final.json").read_text()) == folds
    preprocessed = nnunet_folders / "preprocessed" / result.folder.name / "splits_final.json"
    assert json.loads(preprocessed.read_text()) == folds
    assert result.splits_kept is None
    preprocessed.write_text("[]")
    assert download.convert(converter, link=True, overwrite=True).splits_kept is None
    preprocessed.write_text("[]")
    (result.folder / "conversion.json").unlink()
    for file in sorted(result.folder.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    result.folder.rmdir()
    assert download.convert(converter).splits_kept == preprocessed


@pytest.mark.parametrize("splits", [{"a": 2, "b": 0}, {"a": "val", "b": 0}])
def test_folds_with_gaps(splits: dict[str, Any], download: Toy) -> None:
    cases = cases_with(**{case: {"split": split} for case, split in splits.items()})
    with pytest.raises(LabelError, match=r"folds must be numbered 0, 1, \.\.\., found"):
        download.convert(toy(cases=cases))


def test_cases_of_a_patient_stay_together(download: Toy) -> None:
    def cases(root: Path) -> Iterator[Case]:
        for number in range(12):
            label = LabelMap(download.label("abc"[number % 3]))
            yield Case(
                f"case_{number}", image=download.image("abc"[number % 3]), label=label, patient=f"p{number // 2}"
            )

    result = download.convert(toy(cases=cases))
    folds = json.loads((result.folder / "splits_final.json").read_text())
    assert len(folds) == 5
    for fold in folds:
        patients = {part: {int(case[5:]) // 2 for case in fold[part]} for part in ("train", "val")}
        assert patients["train"].isdisjoint(patients["val"])
    rows = list(csv.reader((result.folder / "patients.csv").open()))
    assert rows[:2] == [["case", "patient"], ["case_0", "p0"]]
    assert partial_labels_of(load_dataset_json(result.folder)).patients["case_11"] == "p5"


@pytest.mark.parametrize(("patients", "folds"), [(4, 4), (2, 2), (1, None)])
def test_few_patients_make_few_folds(patients: int, folds: int | None, download: Toy) -> None:
    def cases(root: Path) -> Iterator[Case]:
        for number in range(8):
            image, label = download.image("abc"[number % 3]), LabelMap(download.label("abc"[number % 3]))
            yield Case(f"case_{number}", image=image, label=label, patient=f"p{number % patients}")

    path = download.convert(toy(cases=cases)).folder / "splits_final.json"
    if folds is None:  # whatever is validated on would be of the patient who is trained on
        assert not path.exists()
        return
    found = json.loads(path.read_text())
    assert len(found) == folds
    assert sorted(case for fold in found for case in fold["val"]) == [f"case_{number}" for number in range(8)]
    for fold in found:
        trained, validated = ({int(case[5:]) % patients for case in fold[part]} for part in ("train", "val"))
        assert trained
        assert len(validated) == 1
        assert trained.isdisjoint(validated)


def test_no_splits_where_random_ones_are_as_good(download: Toy) -> None:
    cases = cases_with(**{case: {"patient": f"p{case}"} for case in "abc"})
    folder = download.convert(toy(cases=cases)).folder
    assert not (folder / "splits_final.json").exists()
    assert (folder / "patients.csv").exists()


# records


def test_sources_are_recorded_with_their_digests(download: Toy) -> None:
    cases = cases_with(a={"note": "bladder cut off"})
    converter = toy(cases=lambda root: [*cases(root), LeftOut("z", "withdrawn")])
    result = download.convert(converter)
    record = json.loads((result.folder / "conversion.json").read_text())
    assert (record["converter"], record["version"]) == ("Toy", __version__)
    assert record["left_out"] == {"z": "withdrawn"}
    assert record["options"]["orientation"] == "as-is"
    content = download.image("a").read_bytes()
    assert record["cases"]["a"] == {
        "split": "train",
        "images": ["copied"],
        "voxels": {name: int(download.scenes["a"].structures[name].sum()) for name in NAMES},
        "note": "bladder cut off",
        "sources": [
            {"path": "images/a.nii.gz", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()},
            {
                "path": "labels/a.nii.gz",
                "bytes": download.label("a").stat().st_size,
                "sha256": hashlib.sha256(download.label("a").read_bytes()).hexdigest(),
            },
        ],
    }


def test_many_files_are_recorded_as_one_group(download: Toy) -> None:
    names = [f"part_{index}" for index in range(6)]
    scene = make_scene(0, names)
    write_nifti(download.image("a"), scene.image, scene.affine)
    for name, voxels in scene.structures.items():
        write_nifti(download.download / "masks" / f"{name}.nii.gz", voxels.astype(np.uint8), scene.affine)

    def cases(root: Path) -> Iterator[Case]:
        yield Case("a", download.image("a"), Masks({name: root / "masks" / f"{name}.nii.gz" for name in names}))

    folder = download.convert(toy(cases=cases, labels=names)).folder
    image, masks = json.loads((folder / "conversion.json").read_text())["cases"]["a"]["sources"]
    assert image["path"] == "images/a.nii.gz"
    files = sorted((download.download / "masks").iterdir())
    lines = "".join(f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in files)
    assert masks == {
        "path": "masks",
        "files": 6,
        "bytes": sum(f.stat().st_size for f in files),
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
    }


def test_processes_make_no_difference(download: Toy, content: Callable[[Path], dict[str, bytes]]) -> None:
    first = content(download.convert().folder)
    download.target.rename(download.raw / "Dataset008_Other")
    assert content(download.convert(processes=2).folder) == first
