"""Merging CT and MR: images normalised by modality, and the rules kept in dataset.json."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.cli import merge as merge_command
from nnunet_partial.errors import LabelError, ProblemsError
from nnunet_partial.labels import load_dataset_json, partial_labels_of, with_region_labels
from nnunet_partial.labels.merge import MergeResult
from nnunet_partial.labels.raw_dataset import RawDataset
from nnunet_partial.labels.verify import verify_dataset
from nnunet_partial.normalisation import Clip, Percentiles, ZScore

Factory = Callable[..., Path]
Merge = Callable[..., MergeResult]

SHAPE = (8, 7, 6)
TEXT = """
name: Both
folds: 2
normalisation:
  CT: {clip: [-400, 400]}
  MR: {percentiles: [1, 99]}
classes: {liver: , spleen: }
sources:
  ct: {dataset: 3, labels: {liver: liver, spleen: spleen}, modality: CT}
  mr: {dataset: 4, labels: {liver: liver}, modality: MR}
"""
FINGERPRINT = TEXT.replace("{clip: [-400, 400]}", "fingerprint").replace("{percentiles: [1, 99]}", "zscore")


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def save(path: Path, array: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)


def clipped(array: np.ndarray) -> np.ndarray:
    return ((np.clip(array.astype(np.float64), -400, 400) + 400) / 800).astype(np.float32)


def times(folder: Path, part: str) -> dict[str, int]:
    return {p.name.removesuffix(".nii.gz"): p.lstat().st_mtime_ns for p in sorted(folder.glob(f"{part}/*.nii.gz"))}


@pytest.fixture
def ct(raw_dataset: Factory) -> Path:
    """Two CT with organs; liver voxels are few, so that the fingerprint differs from the whole image."""
    return raw_dataset("CT", 3, {"liver": 1, "spleen": 2}, {"a": [1] * 40 + [2] * 20, "b": [0] * 100 + [1] * 50})


@pytest.fixture
def mr(raw_dataset: Factory) -> Path:
    """Two MR, whose channel has another name."""
    return raw_dataset("MR", 4, {"liver": 1}, {"c": [1], "d": [1, 1]}, channel_names=("T1",))


def test_ct_and_mr(ct: Path, mr: Path, merge: Merge) -> None:
    result = merge(TEXT)
    content = load_dataset_json(result.folder)
    assert content["channel_names"] == {"0": "noNorm"}
    assert content["partial_labels"]["normalisation"] == {
        "CT": {"clip": [-400.0, 400.0]},
        "MR": {"percentiles": [1.0, 99.0]},
    }
    labels = partial_labels_of(content)
    assert labels.normalisation == {"CT": Clip(-400, 400), "MR": Percentiles(1, 99)}
    assert {s.modality for s in labels.sets.values()} == {"CT", "MR"}
    cases = RawDataset(result.folder).cases
    assert list(cases) == ["ct_a", "ct_b", "mr_c", "mr_d"]
    for name, case in cases.items():
        (path,) = case.images
        assert path.parent == result.folder / "imagesTr"
        assert not path.is_symlink()
        source = read((ct if name.startswith("ct") else mr) / "imagesTr" / f"{name[-1]}_0000.nii.gz")
        expected = clipped(source)
        if name.startswith("mr"):
            low, high = np.percentile(source[source > 0].astype(np.float64), [1, 99])
            expected = (np.clip(source, low, high) - low) / (high - low)
        found = read(path)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-7)
        assert case.label is not None
        assert read(case.label).any()


def test_nnunet_takes_the_images_as_they_are(ct: Path, mr: Path, merge: Merge) -> None:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    folder = merge(TEXT).folder
    files = get_filenames_of_train_images_and_targets(str(folder))["ct_a"]["images"]
    seen, _ = SimpleITKIO().read_images(files)
    np.testing.assert_array_equal(seen[0].transpose(), clipped(read(ct / "imagesTr" / "a_0000.nii.gz")))


def test_the_rules_reach_the_model_folder(ct: Path, mr: Path, merge: Merge) -> None:
    """The trainer writes the block anew, from the label model."""
    content = load_dataset_json(merge(FINGERPRINT).folder)
    labels = partial_labels_of(content)
    written = json.loads(json.dumps(with_region_labels(content, labels)))
    assert partial_labels_of(written).normalisation == labels.normalisation
    assert written["channel_names"] == {"0": "noNorm"}


def test_fingerprint_over_all_foreground_voxels(ct: Path, mr: Path, merge: Merge) -> None:
    folder = merge(FINGERPRINT).folder
    voxels = []
    for case in "ab":
        image, label = (
            read(ct / f"{part}Tr" / f"{case}{end}.nii.gz") for part, end in [("images", "_0000"), ("labels", "")]
        )
        voxels += [float(i) for i, v in zip(image.ravel(), label.ravel(), strict=True) if v > 0]
    assert len(voxels) == 110
    low, high = np.percentile(voxels, [0.5, 99.5])
    block = load_dataset_json(folder)["partial_labels"]["normalisation"]
    assert block["MR"] == "zscore"
    assert block["CT"]["clip"] == pytest.approx([low, high], rel=1e-12)
    assert block["CT"]["mean"] == pytest.approx(np.mean(voxels), rel=1e-12)
    assert block["CT"]["sd"] == pytest.approx(np.std(voxels), rel=1e-12)
    image = read(ct / "imagesTr" / "b_0000.nii.gz")
    expected = (np.clip(image, low, high) - np.mean(voxels)) / np.std(voxels)
    np.testing.assert_allclose(read(folder / "imagesTr" / "ct_b_0000.nii.gz"), expected, atol=1e-6)


def test_fingerprint_of_what_was_annotated_only(raw_dataset: Factory, merge: Merge, nnunet_folders: Path) -> None:
    """Ignored voxels, slices nobody annotated and unlabelled cases are no foreground."""
    labels = {"liver": 1, "ignore": 2}
    sliced = np.zeros(SHAPE)
    sliced[:4, :, :] = 1
    sliced[4:, :, 1] = 2
    one = raw_dataset("One", 3, labels, {"a": sliced, "b": [2] * 50})
    raw_dataset("Free", 4, {}, {"x": None})
    (nnunet_folders / "slices.csv").write_text("case,axis,first,last,set\na,z,1,2,one\n")
    text = """
name: One
folds: 2
normalisation: {CT: fingerprint}
classes: {liver: }
sources:
  one: {dataset: 3, labels: {liver: liver}, slices: slices.csv, modality: CT}
  free: {dataset: 4, modality: CT}
"""
    rule = partial_labels_of(load_dataset_json(merge(text).folder)).normalisation["CT"]
    voxels = read(one / "imagesTr" / "a_0000.nii.gz")[:4, :, 1:3].astype(np.float64)
    assert isinstance(rule, Clip)
    assert [rule.low, rule.high] == pytest.approx(np.percentile(voxels, [0.5, 99.5]), rel=1e-12)
    assert [rule.mean, rule.sd] == pytest.approx([voxels.mean(), voxels.std()], rel=1e-12)


def test_a_rule_applies_to_each_channel(raw_dataset: Factory, merge: Merge) -> None:
    folder = raw_dataset("Two", 3, {"liver": 1}, {"a": [1] * 30, "b": [1] * 9}, channel_names=("arterial", "venous"))
    text = """
name: Two
folds: 2
normalisation: {CT: RULE}
classes: {liver: }
sources:
  two: {dataset: 3, labels: {liver: liver}, modality: CT}
"""
    content = load_dataset_json(merge(text.replace("RULE", "fingerprint")).folder)
    assert content["channel_names"] == {"0": "noNorm", "1": "noNorm"}
    voxels = np.concatenate(
        [
            read(folder / "imagesTr" / f"{case}_{channel}.nii.gz").ravel()[:count]
            for case, count in (("a", 30), ("b", 9))
            for channel in ("0000", "0001")
        ]
    )
    assert content["partial_labels"]["normalisation"]["CT"]["mean"] == pytest.approx(voxels.mean(), rel=1e-12)
    images = merge(text.replace("RULE", "{clip: [-400, 400]}"), number=101).folder / "imagesTr"
    for channel in ("0000", "0001"):
        expected = clipped(read(folder / "imagesTr" / f"a_{channel}.nii.gz"))
        np.testing.assert_array_equal(read(images / f"two_a_{channel}.nii.gz"), expected)


def test_two_processes_give_the_same_as_one(ct: Path, mr: Path, merge: Merge) -> None:
    one, two = (merge(FINGERPRINT, number=100 + n, processes=n).folder for n in (1, 2))
    assert load_dataset_json(one) == load_dataset_json(two)
    for path in one.glob("imagesTr/*"):
        np.testing.assert_array_equal(read(path), read(two / "imagesTr" / path.name))


def test_up_to_date_and_changed_rules(ct: Path, mr: Path, merge: Merge) -> None:
    folder = merge(FINGERPRINT).folder
    before = times(folder, "imagesTr")
    assert not merge(FINGERPRINT).written
    assert not merge(FINGERPRINT, images="copy").written
    assert times(folder, "imagesTr") == before
    changed = FINGERPRINT.replace("zscore", "{percentiles: [0, 100]}")
    with pytest.raises(LabelError, match=r"merged differently"):
        merge(changed)
    assert merge(changed, overwrite=True).written
    assert partial_labels_of(load_dataset_json(folder)).normalisation["MR"] == Percentiles(0, 100)
    assert read(folder / "imagesTr" / "mr_c_0000.nii.gz").max() == 1


def stop(path: Path, merge: Merge, text: str) -> bytes:
    """Merges with a broken label map; returns the good one's bytes."""
    good = path.read_bytes()
    save(path, np.full(SHAPE, 9, np.uint8))
    with pytest.raises(ProblemsError, match=r"3 cases are done"):
        merge(text)
    return good


def test_a_stopped_merge_goes_on(ct: Path, mr: Path, merge: Merge, nnunet_folders: Path) -> None:
    label = mr / "labelsTr" / "d.nii.gz"
    label.write_bytes(stop(label, merge, TEXT))
    building = nnunet_folders / "raw" / ".Dataset100_Both.incomplete"
    finished = times(building, "imagesTr")
    assert sorted(finished) == ["ct_a_0000", "ct_b_0000", "mr_c_0000"]
    after = times(merge(TEXT).folder, "imagesTr")
    assert {name: after[name] for name in finished} == finished
    assert len(after) == 4


@pytest.mark.parametrize("block", [True, False])
def test_a_stopped_merge_does_not_keep_images_of_another_rule(
    block: bool, ct: Path, mr: Path, merge: Merge, nnunet_folders: Path
) -> None:
    label = mr / "labelsTr" / "d.nii.gz"
    label.write_bytes(stop(label, merge, TEXT))
    building = nnunet_folders / "raw" / ".Dataset100_Both.incomplete"
    finished = times(building, "imagesTr")
    if block:
        folder = merge(TEXT.replace("[-400, 400]", "[-100, 300]")).folder
        after = times(folder, "imagesTr")
        assert after["mr_c_0000"] == finished["mr_c_0000"]
        source = read(ct / "imagesTr" / "a_0000.nii.gz")
        expected = (np.clip(source, -100, 300) + 100) / 400
        np.testing.assert_allclose(read(folder / "imagesTr" / "ct_a_0000.nii.gz"), expected, atol=1e-7)
    else:
        text = re.sub(r"normalisation:\n.*\n.*\n", "channel_names: {0: any}\n", TEXT)
        folder = merge(text).folder
        assert all(path.is_symlink() for path in folder.glob("imagesTr/*"))
        assert "normalisation" not in load_dataset_json(folder)["partial_labels"]


def test_a_stopped_merge_does_not_keep_images_of_another_fingerprint(
    ct: Path, mr: Path, merge: Merge, nnunet_folders: Path
) -> None:
    label = mr / "labelsTr" / "d.nii.gz"
    label.write_bytes(stop(label, merge, FINGERPRINT))
    building = nnunet_folders / "raw" / ".Dataset100_Both.incomplete"
    finished = times(building, "imagesTr")
    more = np.zeros(SHAPE, np.uint8)
    more.flat[200:] = 2
    save(ct / "labelsTr" / "b.nii.gz", more)
    folder = merge(FINGERPRINT).folder
    after = times(folder, "imagesTr")
    assert after["mr_c_0000"] == finished["mr_c_0000"]
    assert after["ct_a_0000"] > finished["ct_a_0000"]
    block = load_dataset_json(folder)["partial_labels"]["normalisation"]["CT"]
    image = read(ct / "imagesTr" / "a_0000.nii.gz")
    expected = (np.clip(image, *block["clip"]) - block["mean"]) / block["sd"]
    np.testing.assert_allclose(read(folder / "imagesTr" / "ct_a_0000.nii.gz"), expected, atol=1e-6)


def test_a_merge_that_is_merged_again_from_its_record(ct: Path, mr: Path, merge: Merge) -> None:
    folder = merge(FINGERPRINT).folder
    record = json.loads((folder / "merge.json").read_text())
    assert record["merge_file"]["normalisation"] == {"CT": "fingerprint", "MR": "zscore"}
    assert not merge(json.dumps(record["merge_file"])).written


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (", modality: CT", "", r"source 'ct' has no 'modality', by which 'normalisation' chooses its rule; add one of"),
        ("modality: MR", "modality: MRI", r"source 'mr': 'normalisation' has no rule for its modality 'MRI', only for"),
        ("MR: {", "PET: zscore\n  MR: {", r"normalisation: no source has the modality \['PET'\]"),
        ("{clip: [-400, 400]}", "{clip: [400, -400]}", r"normalisation.CT: clip: .* the lower one first"),
        ("{clip: [-400, 400]}", "ct", r"normalisation.CT: expected fingerprint, zscore.*found 'ct'"),
        ("\n  CT: {clip: [-400, 400]}\n  MR: {percentiles: [1, 99]}", " {}", "normalisation: .*at least 1 item"),
    ],
)
def test_what_is_wrong_with_the_block(before: str, after: str, message: str, ct: Path, mr: Path, merge: Merge) -> None:
    assert before in TEXT
    with pytest.raises(LabelError, match=message):
        merge(TEXT.replace(before, after))


def test_normalised_images_cannot_be_references(ct: Path, mr: Path, merge: Merge) -> None:
    with pytest.raises(LabelError, match=r"normalised images are written, not referenced; leave --images out"):
        merge(TEXT, images="reference")


def test_channels_of_other_names_must_be_declared_where_there_are_several(raw_dataset: Factory, merge: Merge) -> None:
    raw_dataset("CT", 3, {"liver": 1, "spleen": 2}, {"a": [1, 2], "b": [1]}, channel_names=("early", "late"))
    raw_dataset("MR", 4, {"liver": 1}, {"c": [1], "d": [1]}, channel_names=("T1", "T2"))
    with pytest.raises(LabelError, match=r"differ in channel_names: .*'early'.*'T1'"):
        merge(TEXT)
    folder = merge(TEXT + "channel_names: {0: first, 1: second}\n").folder
    assert load_dataset_json(folder)["channel_names"] == {"0": "noNorm", "1": "noNorm"}


def test_a_format_without_fractions(raw_dataset: Factory, merge: Merge) -> None:
    for number in (3, 4):
        folder = raw_dataset(f"P{number}", number, {"liver": 1, "spleen": 2}, {"a": [1, 2]}, file_ending=".nii.gz")
        (folder / "imagesTr" / "a_0000.nii.gz").rename(folder / "imagesTr" / "a_0000.png")
        (folder / "labelsTr" / "a.nii.gz").rename(folder / "labelsTr" / "a.png")
        content = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps({**content, "file_ending": ".png"}))
    text = TEXT.replace("dataset: 4, labels: {liver: liver}", "dataset: 4, labels: {liver: liver, spleen: spleen}")
    with pytest.raises(LabelError, match=r"normalisation: .png files cannot hold normalised images; convert"):
        merge(text)


@pytest.mark.parametrize("text", [TEXT, FINGERPRINT], ids=["clip", "fingerprint"])
def test_all_bad_images_are_named_at_once(text: str, ct: Path, mr: Path, merge: Merge) -> None:
    for case in "ab":
        save(ct / "imagesTr" / f"{case}_0000.nii.gz", np.full(SHAPE, np.nan, np.float32))
    with pytest.raises(ProblemsError) as caught:
        merge(text)
    assert [re.sub(r".*imagesTr/", "", p) for p in caught.value.problems] == [
        f"{case}_0000.nii.gz: 336 voxels are NaN or infinite, expected numbers; replace them, e.g. by the value of air"
        for case in "ab"
    ]


def test_images_that_are_normalised_already(ct: Path, mr: Path, merge: Merge) -> None:
    folder = merge(TEXT).folder
    (ct / "imagesTr" / "a_0000.nii.gz").write_bytes((folder / "imagesTr" / "ct_a_0000.nii.gz").read_bytes())
    with pytest.raises(ProblemsError, match=r"Dataset003_CT/imagesTr/a_0000.nii.gz: is normalised already"):
        merge(TEXT, number=101)


def test_a_fingerprint_needs_foreground(raw_dataset: Factory, mr: Path, merge: Merge) -> None:
    raw_dataset("Dark", 3, {"liver": 1, "spleen": 2}, {"a": [0], "b": [0]})
    with pytest.raises(LabelError, match=r"normalisation.CT: no foreground voxels, so 'fingerprint' has no numbers"):
        merge(FINGERPRINT)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"CT": {"clip": [2, 1]}, "MR": "zscore"}, r"normalisation.CT: clip: .*lower one first, found {'clip': \[2, 1"),
        ({"CT": "fingerprint", "MR": "zscore"}, "normalisation.CT: expected the numbers of the fingerprint"),
        (["CT"], "normalisation: expected an object, found list"),
        ({"CT": "zscore"}, r"normalisation: no rule for \['MR'\]; rules are for \['CT'\]"),
    ],
)
def test_bad_rules_in_dataset_json(rules: object, message: str, ct: Path, mr: Path, merge: Merge) -> None:
    content = load_dataset_json(merge(TEXT).folder)
    content["partial_labels"]["normalisation"] = rules
    with pytest.raises(LabelError, match=message):
        partial_labels_of(content)


def test_the_merge_says_what_nnunet_does_to_two_modalities(
    ct: Path, mr: Path, merge_file: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    without = re.sub(r"normalisation:\n.*\n.*\n", "channel_names: {0: any}\n", TEXT)
    for text, count in ((without, 1), (without.replace("modality: MR", "modality: CT"), 0), (TEXT, 0)):
        assert merge_command.main([str(merge_file(text)), "-d", "100", "--dry_run"]) == 0
        out = capsys.readouterr().out
        assert out.count("note: the sources have the modalities ['CT', 'MR'], but nnU-Net normalises") == count
        assert out.count("normalisation: {CT: fingerprint, MR: zscore}") == count


def test_copies_of_a_scan_are_found_after_normalisation(ct: Path, mr: Path, merge: Merge) -> None:
    """In another orientation and data type, in two sources of one rule; not hidden by the clipping of others."""
    source = nib.load(ct / "imagesTr" / "a_0000.nii.gz")
    turned = source.as_reoriented(nib.orientations.axcodes2ornt("LPS"))
    copy = nib.Nifti1Image(np.asarray(turned.dataobj).astype(np.float32), turned.affine)
    nib.save(copy, mr / "imagesTr" / "c_0000.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), turned.affine), mr / "labelsTr" / "c.nii.gz")
    for rule in ("{clip: [-400, 400]}", "fingerprint", "zscore", "{percentiles: [1, 99]}"):
        text = re.sub(r"normalisation:\n.*\n.*\n", f"normalisation: {{CT: {rule}}}\n", TEXT)
        folder = merge(text.replace("modality: MR", "modality: CT"), overwrite=True).folder
        report = verify_dataset(folder)
        assert report.duplicates == [("ct_a", "mr_c")]
        assert any("the same image in ct_a, mr_c" in problem for problem in report.problems)


def test_other_numbers_in_the_merge_file(ct: Path, mr: Path, merge: Merge) -> None:
    folder = merge(TEXT.replace("[-400, 400]", "[-100, 200], mean: 50, sd: 25").replace("{per", "zscore #")).folder
    assert partial_labels_of(load_dataset_json(folder)).normalisation == {"CT": Clip(-100, 200, 50, 25), "MR": ZScore()}
