"""The merge files of the package: fake downloads of all their sources, converted, merged, and asked what is known."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_partial.cli import merge
from nnunet_partial.conversion.engine import Options, convert_dataset
from nnunet_partial.dataset_conversion import collections
from nnunet_partial.labels import load_dataset_json, table
from nnunet_partial.labels.verify import verify_dataset
from tests.conversion_fakes.scene import Fake
from tests.unit.conversion.conversions import CONVERTERS, fake_download
from tests.unit.conversion.merged_collections import (
    FILES,
    FLARE23,
    NUMBERS,
    OPTIONS,
    Merged,
    add_cases,
    add_two_kidneys,
)

MULTITALENT = {
    "msd-liver": "liver liver_tumor",
    "msd-lung": "lung_tumor",
    "msd-pancreas": "pancreas pancreas_tumor",
    "msd-hepaticvessel": "hepatic_vessel liver_tumor",
    "msd-spleen": "spleen",
    "msd-colon": "colon_tumor",
    "btcv": "spleen kidney_right kidney_left gallbladder esophagus liver stomach aorta inferior_vena_cava "
    "portal_vein_and_splenic_vein pancreas adrenal_gland_right adrenal_gland_left",
    "gibson": "spleen kidney_left gallbladder esophagus liver stomach pancreas duodenum",
    "structseg": "lung_left lung_right heart esophagus trachea spinal_cord",
    "segthor": "esophagus heart trachea aorta",
    "nih": "pancreas",
    "kits19": "kidneys kidney_mass",
    "btcv-cervix": "urinary_bladder uterus rectum small_bowel",
}
VERSATILE = [
    *("spleen", "kidney_right", "kidney_left", "gallbladder", "esophagus", "liver", "stomach", "aorta"),
    *("inferior_vena_cava", "pancreas", "adrenal_gland_right", "adrenal_gland_left", "duodenum", "urinary_bladder"),
    *("prostate_or_uterus", "portal_vein_and_splenic_vein"),
]
DSAD_6 = ["abdominal_wall", "colon", "liver", "pancreas", "small_intestine", "stomach"]
DSAD_11 = sorted([*DSAD_6, "inferior_mesenteric_artery", "intestinal_veins", "spleen", "ureter", "vesicular_glands"])


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("raw")


@pytest.fixture(scope="module")
def fakes(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fake]:
    """Fake downloads of all datasets of all collections, by dataset, converted."""
    made: dict[str, Fake] = {}
    for dataset in dict.fromkeys(str(entry.dataset) for file in FILES.values() for entry in file.sources.values()):
        converter = CONVERTERS[dataset.partition("_")[2]]
        made[dataset] = fake_download(converter, tmp_path_factory.mktemp(converter.name))
        if converter.name == "FLARE23":
            add_cases(made[dataset])
        if converter.name == "AbdomenCT-1K":
            add_two_kidneys(made[dataset])
        convert_dataset(
            converter, made[dataset].download, raw_folder=raw, options=OPTIONS.get(converter.name, Options())
        )
    return made


@pytest.fixture(scope="module")
def merged(raw: Path, fakes: dict[str, Fake]) -> dict[str, Merged]:
    """All collections, merged by their names."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_raw", str(raw))
        patch.delenv("nnUNet_preprocessed", raising=False)
        for name, file in FILES.items():
            assert merge.main([name.lower(), "-d", str(NUMBERS[name]), "-np", "1"]) == 0
            folder = raw / f"Dataset{NUMBERS[name]:03d}_{name}"
            found[name] = Merged(folder, file, {s: fakes[str(e.dataset)] for s, e in file.sources.items()})
    return found


def test_collections_are_named_as_their_files_and_say_what_they_are() -> None:
    assert sorted(FILES) == ["DSAD-11", "DSAD-6", "FLARE23", "MultiTalent", "Versatile"]
    for name, path in collections().items():
        assert FILES[name].name == name
        assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("name", FILES)
def test_all_labels_of_the_datasets_have_a_meaning(name: str, raw: Path, fakes: dict[str, Fake]) -> None:
    for source, entry in FILES[name].sources.items():
        labels = set(load_dataset_json(raw / str(entry.dataset))["labels"]) - {"background", "ignore"}
        assert set(entry.labels) <= labels
        # the others must say no more than that they are nothing of what is listed
        assert set(entry.labels) == labels or (entry.unlisted, source) == ("background", "gibson")


@pytest.mark.parametrize("name", FILES)
def test_merged_collections_are_verified(name: str, merged: dict[str, Merged]) -> None:
    report = verify_dataset(merged[name].folder)
    assert report.problems == []
    assert set(merged[name].labels.sources) == set(FILES[name].sources)


@pytest.mark.parametrize("name", FILES)
def test_patients_never_straddle_a_fold(name: str, merged: dict[str, Merged]) -> None:
    labels = merged[name].labels
    assert merged[name].splits
    for split in merged[name].splits:
        assert sorted(split["train"] + split["val"]) == sorted(labels.cases)
        assert {labels.patient_of(c) for c in split["train"]} & {labels.patient_of(c) for c in split["val"]} == set()


@pytest.mark.parametrize("name", FILES)
def test_structures_are_where_they_were(name: str, merged: dict[str, Merged]) -> None:
    """Of labels that mean a class of the same name, voxel for voxel."""
    data, checked = merged[name], 0
    for source, fake in data.fakes.items():
        same = [str(k) for k, meaning in data.file.sources[source].labels.items() if k == meaning]
        for case, scene in fake.train.items():
            full = f"{source}_{case}"
            if full not in data.labels.cases:
                continue
            values, row = data.label_map(full), data.labels.row_of(full)
            for label in same:
                column = f"{source}.{label}" if data.file.sources[source].keep_apart else label
                if label not in scene.structures or column not in data.labels.class_names:
                    continue
                states = data.labels.states[row, :, data.labels.class_names.index(column)]
                clear = scene.structures[label] & ~_overlapping(scene.structures, label)
                present = states[values] == table.PRESENT
                assert present[clear].all(), (full, label)
                elsewhere = ~np.logical_or.reduce(list(scene.structures.values()))
                assert not present[elsewhere].any(), (full, label)
                checked += int(clear.sum())
    assert checked > 0


def _overlapping(structures: dict[str, np.ndarray], label: str) -> np.ndarray:
    others = [mask for name, mask in structures.items() if name != label]
    return np.logical_or.reduce(others) if others else np.zeros_like(structures[label])


# MultiTalent


def test_multitalent_has_47_classes_none_of_them_shared(merged: dict[str, Merged]) -> None:
    data = merged["MultiTalent"]
    expected = {source: {f"{source}.{name}" for name in names.split()} for source, names in MULTITALENT.items()}
    assert len(data.labels.class_names) == 47
    assert {source: data.annotated(source) for source in data.labels.sources} == expected
    assert list(expected) == list(data.file.sources)


def test_multitalent_has_three_classes_of_organ_and_tumour(merged: dict[str, Merged]) -> None:
    data = merged["MultiTalent"]
    pairs = {
        (wide, narrow)
        for wide, atoms in data.labels.space.classes.items()
        for narrow, part in data.labels.space.classes.items()
        if part < atoms
    }
    assert pairs == {
        ("msd-liver.liver", "msd-liver.liver_tumor"),
        ("msd-pancreas.pancreas", "msd-pancreas.pancreas_tumor"),
        ("kits19.kidneys", "kits19.kidney_mass"),
    }


def test_test_images_of_btcv_are_not_trained_on(merged: dict[str, Merged]) -> None:
    data = merged["MultiTalent"]
    assert {c for c in data.labels.cases if c.startswith("gibson_")} == {
        "gibson_btcv_0001",
        "gibson_tcia_0002",
        "gibson_tcia_0003",
        "gibson_tcia_0007",
    }
    assert "btcv_0061" in data.fakes["gibson"].train  # which the conversion keeps
    assert not list(data.folder.glob("*/gibson_btcv_0061*"))


def test_scans_of_two_datasets_are_in_the_same_fold(merged: dict[str, Merged]) -> None:
    data = merged["MultiTalent"]
    shared: dict[str, set[str]] = {}
    for case in data.labels.cases:
        shared.setdefault(data.labels.patient_of(case), set()).add(case)
    together = {patient: cases for patient, cases in shared.items() if len({c.split("_")[0] for c in cases}) > 1}
    assert together["BTCV_0001"] == {"btcv_img0001", "gibson_btcv_0001"}
    assert any(patient.startswith("PANCREAS_") for patient in together)
    for cases in together.values():
        for split in data.splits:
            assert cases <= set(split["val"]) or not cases & set(split["val"])


def test_nothing_is_known_outside_of_the_box_of_gibson(merged: dict[str, Merged]) -> None:
    data = merged["MultiTalent"]
    said = data.said("gibson_btcv_0001", np.index_exp[0, :, :])  # its box starts at the second slice
    assert set(said.values()) == {"?"}


# the others


def test_versatile_has_16_classes(merged: dict[str, Merged]) -> None:
    data = merged["Versatile"]
    assert list(data.labels.class_names) == VERSATILE
    sides = {"kidney_right", "kidney_left", "adrenal_gland_right", "adrenal_gland_left"}
    assert set(data.labels.sides.classes) == sides
    assert data.annotated("abdomenct-1k") == {"liver", "spleen", "pancreas", "kidney_right", "kidney_left"}
    assert data.annotated("nih") == {"pancreas"}
    assert data.annotated("amos-mr") == set(VERSATILE) - {"portal_vein_and_splenic_vein"}
    assert data.annotated("totalsegmentator") == set(VERSATILE) - {"prostate_or_uterus"}
    missing = {"aorta", "inferior_vena_cava", "prostate_or_uterus", "portal_vein_and_splenic_vein"}
    assert data.annotated("word") == set(VERSATILE) - missing


def test_sides_are_split_where_there_is_no_doubt(merged: dict[str, Merged]) -> None:
    data = merged["Versatile"]
    kidneys = data.fakes["abdomenct-1k"].train["Case_00002"].structures["kidneys"]
    for side, part in (("left", np.index_exp[:4]), ("right", np.index_exp[5:])):  # x runs to the right
        voxels = np.zeros_like(kidneys)
        voxels[part] = kidneys[part]
        said = data.said("abdomenct-1k_Case_00002", voxels)
        assert said == {name: "+" if name == f"kidney_{side}" else "-" for name in VERSATILE}


def test_sides_stay_open_elsewhere(merged: dict[str, Merged]) -> None:
    data = merged["Versatile"]
    for source, label, sides in (
        ("abdomenct-1k", "kidneys", ("kidney_right", "kidney_left")),
        ("word", "adrenal_glands", ("adrenal_gland_right", "adrenal_gland_left")),
    ):
        fake = data.fakes[source]
        case = next(c for c, scene in fake.train.items() if scene.structures[label].any())
        said = data.said(f"{source}_{case}", fake.train[case].structures[label])
        assert said == {name: "?" if name in sides else "-" for name in VERSATILE}


def test_other_organs_of_word_are_background(merged: dict[str, Merged]) -> None:
    data = merged["Versatile"]
    scene = data.fakes["word"].train["word_0002"].structures
    background = ~np.logical_or.reduce(list(scene.values()))
    for name in ("colon", "intestine", "rectum", "femoral_head_left", "femoral_head_right"):
        assert data.said("word_word_0002", scene[name]) == data.said("word_word_0002", background)


def test_images_of_versatile_are_normalised_by_modality(merged: dict[str, Merged]) -> None:
    data = merged["Versatile"]
    case = next(iter(data.fakes["amos-ct"].train))
    image = nib.as_closest_canonical(nib.load(data.folder / "imagesTr" / f"amos-ct_{case}_0000.nii.gz"))
    expected = (data.fakes["amos-ct"].train[case].image.clip(-400, 400) + 400) / 800
    np.testing.assert_allclose(np.asanyarray(image.dataobj), expected, atol=1e-6)
    assert data.labels.set_of(f"amos-mr_{next(iter(data.fakes['amos-mr'].train))}").modality == "MR"
    assert len(data.splits) == 10


def test_flare23_has_13_organs_and_tumours(merged: dict[str, Merged]) -> None:
    data = merged["FLARE23"]
    assert list(data.labels.class_names) == FLARE23
    everything = data.fakes["flare23"].train["FLARE23_0001"].structures
    organs_only = data.fakes["flare23"].train["FLARE23_0002"].structures
    liver = data.said("flare23_FLARE23_0001", everything["liver"])
    assert liver == {name: "+" if name == "liver" else "-" for name in FLARE23}
    liver = data.said("flare23_FLARE23_0002", organs_only["liver"])
    assert liver == {name: {"liver": "+", "tumor": "?"}.get(name, "-") for name in FLARE23}
    tumour = data.said("flare23_FLARE23_0010", data.fakes["flare23"].train["FLARE23_0010"].structures["tumor"])
    vessels = ("aorta", "inferior_vena_cava")
    assert tumour == {name: "+" if name == "tumor" else "-" if name in vessels else "?" for name in FLARE23}
    for case in ("flare23_FLARE23_2200", "flare23_FLARE23_4000"):
        assert set(data.said(case, np.index_exp[:, :, :]).values()) == {"?"}
        assert all(case in split["train"] for split in data.splits)


@pytest.mark.parametrize(("name", "organs"), [("DSAD-6", DSAD_6), ("DSAD-11", DSAD_11)])
def test_dsad(name: str, organs: list[str], merged: dict[str, Merged]) -> None:
    data = merged[name]
    assert sorted(data.labels.class_names) == organs
    assert {source: data.annotated(source) for source in data.labels.sources} == {
        organ.replace("_", "-"): {organ} for organ in organs
    }
    scene = data.fakes["colon"].train["22_01"]
    drawn = scene.structures["colon"]
    assert drawn.any()
    # what is colon is no other organ; what is no colon could be any other
    assert data.said("colon_22_01", drawn) == {organ: "+" if organ == "colon" else "-" for organ in organs}
    assert data.said("colon_22_01", ~drawn) == {organ: "-" if organ == "colon" else "?" for organ in organs}
    picture = sitk.GetArrayFromImage(sitk.ReadImage(str(data.folder / "imagesTr" / "colon_22_01_0000.png")))
    np.testing.assert_array_equal(np.swapaxes(picture, 0, 1), scene.image)


@pytest.mark.parametrize("name", ["DSAD-6", "DSAD-11"])
def test_dsad_has_the_official_split_by_surgery(name: str, merged: dict[str, Merged]) -> None:
    data = merged[name]
    (fold,) = data.splits
    surgeries = {part: {case.split("_")[1] for case in fold[part]} for part in ("train", "val")}
    assert surgeries == {"train": {"12", "22"}, "val": {"03", "21"}}  # 02 and 20 are for testing
    assert {case.split("_")[0] for case in fold["val"]} == set(data.file.sources)


# the command


def test_collections_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert merge.main(["--list"]) == 0
    out = capsys.readouterr().out
    for name in FILES:
        assert f" {name} " in out
    assert "13 CT datasets, 47 classes" in out
    assert str(collections()["FLARE23"].parent) in out


@pytest.mark.parametrize(("name", "configuration"), [("DSAD-6", "2d"), ("MultiTalent", "3d_fullres")])
def test_merging_again_does_nothing(
    name: str,
    configuration: str,
    merged: dict[str, Merged],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("nnUNet_raw", str(merged[name].folder.parent))
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    assert merge.main([name, "-d", str(NUMBERS[name]), "-np", "1"]) == 0
    out = capsys.readouterr().out
    assert f"up to date already: {merged[name].folder}" in out
    assert f"nnUNetv2_plan_and_preprocess -d {NUMBERS[name]} -c {configuration}" in out
    assert f"nnUNetv2_train {NUMBERS[name]} {configuration} 0" in out


def test_datasets_that_were_not_converted_are_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    assert merge.main(["DSAD-6", "-d", "500"]) == 1
    error = capsys.readouterr().err
    assert "datasets are missing; " in error and "6 problems" in error
    assert error.count("convert it with nnUNetv2_partial_convert") == 6
    assert "Dataset379_DSAD_stomach" in error


def test_a_name_that_is_no_collection(capsys: pytest.CaptureFixture[str]) -> None:
    assert merge.main(["MultiTalents", "-d", "500"]) == 1
    assert "MultiTalents: no such file, and no merge file of the package; see --list" in capsys.readouterr().err


def test_a_file_goes_before_a_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    (tmp_path / "FLARE23").write_text("name: Mine\n")
    assert merge.main(["FLARE23", "-d", "500"]) == 1
    assert "FLARE23: not a valid merge file" in capsys.readouterr().err
