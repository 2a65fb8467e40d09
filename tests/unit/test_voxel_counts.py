"""Voxels counted once and remembered, and classes that vanish between the raw and the preprocessed label map."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2, nnUNetDatasetNumpy

from nnunet_partial.errors import LabelError, VolumeError
from nnunet_partial.labels import AnnotationSet, LabelSpace, PartialLabels
from nnunet_partial.sampling import (
    VoxelCounts,
    class_voxels,
    count_raw_voxels,
    count_voxels,
    describe_missing,
    vanished,
)

VALUES = 5


def label_map(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1, VALUES, (1, 6, 7, 8)).astype(np.int16)


def save(folder: Path, case: str, labels: np.ndarray) -> None:
    nnUNetDatasetBlosc2.save_case(
        np.zeros(labels.shape, np.float32),
        labels,
        {"class_locations": {}},
        str(folder / case),
        chunks=labels.shape,
        blocks=labels.shape,
        chunks_seg=(1, 3, 7, 8),
        blocks_seg=(1, 3, 4, 8),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "preprocessed"
    folder.mkdir()
    for seed in range(4):
        save(folder, f"c{seed}", label_map(seed))
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "counts.json"


class Counted(nnUNetDatasetBlosc2):
    """Remembers which cases were loaded; refuses one of them."""

    def __init__(self, folder: Path, refused: str = "") -> None:
        super().__init__(str(folder))
        self.loaded: list[str] = []
        self.refused = refused

    def load_case(self, identifier):
        if identifier == self.refused:
            raise KeyboardInterrupt
        self.loaded.append(identifier)
        return super().load_case(identifier)


def expected(labels: np.ndarray) -> list[int]:
    return [int((np.maximum(labels, 0) == value).sum()) for value in range(VALUES)]


@pytest.mark.parametrize("threads", [1, 3, None])
def test_counts_of_every_value(folder: Path, cache: Path, threads: int | None) -> None:
    cases = ["c2", "c0", "c1"]
    counts = count_voxels(Counted(folder), cases, VALUES, cache=cache, threads=threads)
    assert list(counts.of) == cases
    for seed in (0, 1, 2):
        assert counts.of[f"c{seed}"].dtype == np.int64
        assert counts.of[f"c{seed}"].tolist() == expected(label_map(seed))
    assert counts.matrix(["c1", "c2"]).tolist() == [expected(label_map(1)), expected(label_map(2))]
    assert counts.matrix([]).shape == (0, VALUES)


def test_counts_of_unpacked_arrays(tmp_path: Path, cache: Path) -> None:
    labels = label_map(9).astype(np.int8)
    nnUNetDatasetNumpy.save_case(np.zeros((1, 2, 2, 2)), labels, {}, str(tmp_path / "c"))
    np.save(tmp_path / "c_seg.npy", labels)
    np.save(tmp_path / "c.npy", labels)
    dataset = nnUNetDatasetNumpy(str(tmp_path))
    assert count_voxels(dataset, ["c"], VALUES, cache=cache).of["c"].tolist() == expected(labels)


def test_one_voxel_and_largest_value(folder: Path, cache: Path) -> None:
    save(folder, "one", np.full((1, 1, 1, 1), 32_000, np.int16))
    save(folder, "outside", np.full((1, 2, 2, 2), -1, np.int16))
    counts = count_voxels(Counted(folder), ["one", "outside"], 32_001, cache=cache)
    assert np.flatnonzero(counts.of["one"]).tolist() == [32_000]
    assert counts.of["outside"][0] == counts.of["outside"].sum() == 8


def test_outside_of_the_image_counts_as_the_value_that_it_becomes(folder: Path, cache: Path) -> None:
    for _ in range(2):  # from the file, and from the cache
        counts = count_voxels(Counted(folder), ["c0", "c1"], VALUES, cache=cache, outside={"c0": 3, "c1": 0})
        outside = int((label_map(0) == -1).sum())
        assert outside
        without = [int((label_map(0) == value).sum()) for value in range(VALUES)]
        assert counts.of["c0"].tolist() == [n + outside * (value == 3) for value, n in enumerate(without)]
        assert counts.of["c1"].tolist() == expected(label_map(1))
    again = Counted(folder)
    assert count_voxels(again, ["c0"], VALUES, cache=cache).of["c0"].tolist() == expected(label_map(0))
    assert again.loaded == []


def test_counted_once(folder: Path, cache: Path) -> None:
    first, again = Counted(folder), Counted(folder)
    counts = count_voxels(first, ["c0", "c1"], VALUES, cache=cache)
    more = count_voxels(again, ["c0", "c1", "c2"], VALUES, cache=cache)
    assert sorted(first.loaded) == ["c0", "c1"]
    assert again.loaded == ["c2"]
    assert more.of["c1"].tolist() == counts.of["c1"].tolist()


def test_changed_files_are_counted_again(folder: Path, cache: Path) -> None:
    count_voxels(Counted(folder), ["c0", "c1"], VALUES, cache=cache)
    before = (folder / "c0_seg.b2nd").stat()
    for name in ("c0.b2nd", "c0_seg.b2nd"):
        (folder / name).unlink()
    save(folder, "c0", label_map(17))
    os.utime(folder / "c0_seg.b2nd", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    again = Counted(folder)
    counts = count_voxels(again, ["c0", "c1"], VALUES, cache=cache)
    assert again.loaded == ["c0"]
    assert counts.of["c0"].tolist() == expected(label_map(17))


def test_an_interrupted_run_goes_on(folder: Path, cache: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        count_voxels(Counted(folder, refused="c2"), ["c0", "c1", "c2", "c3"], VALUES, cache=cache, threads=1)
    again = Counted(folder)
    count_voxels(again, ["c0", "c1", "c2", "c3"], VALUES, cache=cache)
    assert {"c0", "c1"}.isdisjoint(again.loaded)
    assert "c2" in again.loaded


def test_entries_of_other_cases_and_kinds_are_kept(folder: Path, cache: Path) -> None:
    count_voxels(Counted(folder), ["c0"], VALUES, cache=cache)
    content = json.loads(cache.read_text())
    content["raw"] = {"x": {"file": [1, 2], "voxels": {"0": 3}}}
    cache.write_text(json.dumps(content))
    count_voxels(Counted(folder), ["c1"], VALUES, cache=cache)
    content = json.loads(cache.read_text())
    assert sorted(content["preprocessed"]) == ["c0", "c1"]
    assert content["raw"] == {"x": {"file": [1, 2], "voxels": {"0": 3}}}


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"format": 2, "preprocessed": {"c0": 1}}'])
def test_a_useless_cache_is_replaced(folder: Path, cache: Path, broken: str) -> None:
    cache.write_text(broken)
    counts = count_voxels(Counted(folder), ["c0"], VALUES, cache=cache)
    assert counts.of["c0"].tolist() == expected(label_map(0))
    assert json.loads(cache.read_text())["format"] == 3


def test_values_beyond_the_table_are_refused(folder: Path, cache: Path) -> None:
    for _ in range(2):  # from the file, and from the cache
        with pytest.raises(LabelError, match=r"c0_seg.b2nd: holds the label value 4, .* end at 3"):
            count_voxels(Counted(folder), ["c0"], 4, cache=cache)


def test_a_missing_label_map_is_refused(folder: Path, cache: Path) -> None:
    with pytest.raises(VolumeError, match=r"x_seg.b2nd: no such label map; preprocess"):
        count_voxels(Counted(folder), ["x"], VALUES, cache=cache)


@pytest.fixture
def labels() -> PartialLabels:
    """Three cases that label liver and tumour, one that labels the spleen, and one of kidneys without sides."""
    names = ("background", "tissue", "tumour", "spleen", "kidney_left", "kidney_right")
    classes = {"liver": {"tissue", "tumour"}, **{name: {name} for name in names[2:]}}
    space = LabelSpace({"anatomy": names}, {name: frozenset(atoms) for name, atoms in classes.items()})

    def of(name: str, **known: int) -> AnnotationSet:
        possible = {value: frozenset(atoms.split("_or_")) for atoms, value in known.items()}
        return AnnotationSet(name, name, "CT", {0: space.everything.difference(*possible.values()), **possible})

    kidneys = AnnotationSet(
        "kits", "kits", "CT", {0: frozenset(names[:4]), 4: frozenset({"kidney_left", "kidney_right"})}
    )
    sets = [of("lits", tissue=1, tumour=2), of("spleen", spleen=3), kidneys]
    cases = {**dict.fromkeys(("l0", "l1", "l2", "l3", "l4"), "lits"), "s0": "spleen", "k0": "kits"}
    return PartialLabels(space, {s.name: s for s in sets}, cases)


def counts_of(**voxels: list[int]) -> VoxelCounts:
    return VoxelCounts(VALUES, {case: np.array(n) for case, n in voxels.items()})


def test_voxels_of_classes(labels: PartialLabels) -> None:
    counts = counts_of(l0=[9, 5, 2, 0, 0], s0=[9, 0, 0, 4, 0], k0=[9, 0, 0, 0, 7])
    found = class_voxels(labels, counts, ["k0", "l0", "s0"])
    assert labels.class_names == ("liver", "tumour", "spleen", "kidney_left", "kidney_right")
    assert found.tolist() == [[0, 0, 0, 7, 7], [7, 2, 0, 0, 0], [0, 0, 4, 0, 0]]
    assert class_voxels(labels, counts, []).shape == (0, 5)


def test_vanished_classes(labels: PartialLabels, tmp_path: Path, cache: Path) -> None:
    counts = counts_of(
        l0=[9, 5, 2, 0, 0], l1=[9, 5, 0, 0, 0], l2=[9, 5, 0, 0, 0], s0=[9, 0, 0, 4, 0], k0=[9, 0, 0, 0, 0]
    )

    def write(case: str, values: list[int]) -> None:
        array = np.zeros((3, 4, 5), np.uint8)
        array.flat[: len(values)] = values
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{case}.nii.gz")

    write("l1", [1, 1, 2])  # its tumour vanishes
    write("l2", [1, 1])  # never had one
    write("k0", [4])
    # l0 and s0 lack nothing: their raw label maps are not read, and need not be there
    raw = count_raw_voxels(labels, counts, tmp_path, ".nii.gz", cache=cache)
    assert set(raw.of) == {"l1", "l2", "k0"}
    assert raw.of["l1"].tolist() == [57, 2, 1, 0, 0]
    gone = vanished(labels, counts, raw)
    assert gone == [("l1", "tumour"), ("k0", "kidney_left"), ("k0", "kidney_right")]
    assert json.loads(cache.read_text())["raw"]["l2"]["voxels"] == {"0": 58, "1": 2}
    for case in ("l1", "l2", "k0"):
        stamp = (tmp_path / f"{case}.nii.gz").stat()
        (tmp_path / f"{case}.nii.gz").write_bytes(b"x" * stamp.st_size)
        os.utime(tmp_path / f"{case}.nii.gz", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    again = count_raw_voxels(labels, counts, tmp_path, ".nii.gz", cache=cache)
    assert vanished(labels, counts, again) == gone


def test_no_doubtful_case_reads_nothing(labels: PartialLabels, tmp_path: Path, cache: Path) -> None:
    counts = counts_of(l0=[9, 5, 2, 0, 0])
    assert count_raw_voxels(labels, counts, tmp_path, ".nii.gz", cache=cache).of == {}
    assert not cache.exists()


def test_a_missing_raw_label_map_is_named(labels: PartialLabels, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(VolumeError, match=r"l0\.nii\.gz"):
        count_raw_voxels(labels, counts_of(l0=[9, 5, 0, 0, 0]), tmp_path, ".nii.gz", cache=cache)


def test_lines_for_the_log(labels: PartialLabels) -> None:
    small = {f"l{i}": [9, 5, 0, 0, 0] for i in range(1, 5)}
    counts = counts_of(l0=[9, 5, 2, 0, 0], **small, s0=[9, 0, 0, 4, 0], k0=[9, 0, 0, 0, 1])
    gone = [(case, "tumour") for case in small]
    cases = ["l0", *small, "k0"]
    assert describe_missing(labels, counts, cases, gone) == [
        "class 'tumour': its voxels vanish at the target spacing in 4 of 5 cases: l1, l2, l3, ...",
        "class 'spleen': no voxel in any of the 0 cases of this fold that have a label for it; no patch is centred "
        "on it",
    ]
    assert describe_missing(labels, counts, ["l1", "s0", "k0"], gone) == [
        "class 'tumour': its voxels vanish at the target spacing in 1 of 1 cases: l1",
        "class 'tumour': no voxel in any of the 1 cases of this fold that have a label for it; no patch is centred "
        "on it",
    ]
    assert describe_missing(labels, counts, ["l0", "s0", "k0"], gone) == []
