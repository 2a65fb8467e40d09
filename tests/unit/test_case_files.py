"""Cases of input folders, and reading one ahead."""

from __future__ import annotations

import contextlib
import errno
import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.utilities.utils import get_identifiers_from_splitted_dataset_folder

from nnunet_partial.errors import VolumeError
from nnunet_partial.inference.reading.case_files import FoundCases, cases_of_folder, natural_order
from nnunet_partial.inference.reading.prefetch import Prefetcher


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def dicom(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(128) + b"DICM" + bytes(10))


def test_cases_in_natural_order(tmp_path: Path) -> None:
    names = [f"{case}_000{c}.nii.gz" for case in ("case_10", "case_2", "Ä 1", "x_0000") for c in (1, 0)]
    touch(tmp_path, *names, "notes.txt", ".hidden_0000.nii.gz", "dataset.json", "b_0000.nii")
    (tmp_path / "odd_0000.nii.gz.d").mkdir()
    found = cases_of_folder(tmp_path, ".nii.gz", 2)
    cases = found.files
    assert found.problems == []
    assert list(cases) == ["case_2", "case_10", "x_0000", "Ä 1"]
    assert cases["case_10"] == [tmp_path / "case_10_0000.nii.gz", tmp_path / "case_10_0001.nii.gz"]
    (tmp_path / ".hidden_0000.nii.gz").unlink()
    assert set(cases) == set(get_identifiers_from_splitted_dataset_folder(str(tmp_path), ".nii.gz"))


def test_names_of_digits_and_letters_can_be_sorted() -> None:
    names = ["b", "10", "2", "a2", "a10", "²", "a", ""]
    assert sorted(names, key=natural_order) == ["", "2", "10", "a", "a2", "a10", "b", "²"]


def test_missing_and_surplus_channels_are_problems_of_their_cases(tmp_path: Path) -> None:
    touch(tmp_path, "a_0000.mha", "a_0001.mha", "b_0001.mha", "c_0000.mha", "c_0001.mha", "c_0007.mha")
    found = cases_of_folder(tmp_path, ".mha", 2)
    assert found.files == {"a": [tmp_path / "a_0000.mha", tmp_path / "a_0001.mha"]}
    assert found.problems == [
        "b: the model takes 2 channels; missing 0000",
        "c: the model takes 2 channels; unexpected 0007",
    ]
    (tmp_path / "a_0000.mha").unlink()
    assert cases_of_folder(tmp_path, ".mha", 2).files == {}


def test_names_without_a_channel(tmp_path: Path) -> None:
    touch(tmp_path, "a_0000.png", "liver.png", "b_0000.png")
    found = cases_of_folder(tmp_path, ".png", 1)
    assert list(found.files) == ["a", "b"]
    assert found.problems == [
        "liver.png: expected a name like CASE_0000.png, with the number of the channel",
    ]


def test_a_link_that_leads_nowhere_is_a_case(tmp_path: Path) -> None:
    touch(tmp_path, "a_0000.mha")
    (tmp_path / "b_0000.mha").symlink_to("nowhere")
    assert list(cases_of_folder(tmp_path, ".mha", 1).files) == ["a", "b"]
    found = cases_of_folder(tmp_path, ".mha", 2)
    assert [problem.partition(":")[0] for problem in found.problems] == ["a", "b"]


def test_nothing_found_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"CASE_0000\.nii\.gz.*found no files"):
        cases_of_folder(tmp_path, ".nii.gz", 1)
    touch(tmp_path, "a_0000.nrrd", "b_0000.nrrd", "c.d.nii.gz", "README", "empty/notes.txt")
    with pytest.raises(VolumeError, match=r"found 1 x \(no ending\), 1 x \.nii\.gz, 2 x \.nrrd"):
        cases_of_folder(tmp_path, ".mha", 1)
    with pytest.raises(VolumeError, match="no such file or folder"):
        cases_of_folder(tmp_path / "absent", ".mha", 1)


def test_all_channels_in_one_file(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5, 2), np.int16), np.eye(4)), tmp_path / "a_0000.nii.gz")
    assert cases_of_folder(tmp_path, ".nii.gz", 2) == FoundCases({"a": [tmp_path / "a_0000.nii.gz"]}, [])
    missing = ["a: the model takes 3 channels; missing 0001, 0002"]
    assert cases_of_folder(tmp_path, ".nii.gz", 3) == FoundCases({}, missing)
    sitk.WriteImage(
        sitk.GetImageFromArray(np.zeros((2, 3, 4, 5), np.uint8), isVector=False), str(tmp_path / "a_0000.mha")
    )
    assert list(cases_of_folder(tmp_path, ".mha", 2).files) == ["a"]
    assert cases_of_folder(tmp_path, ".mha", 3) == FoundCases({}, missing)
    touch(tmp_path, "photo_0000.png")
    assert list(cases_of_folder(tmp_path, ".png", 3).files) == ["photo"]
    assert cases_of_folder(tmp_path, ".png", 2).problems == ["photo: the model takes 2 channels; missing 0001"]


@pytest.mark.parametrize("ending", [".nrrd", ".nii", ".nii.gz"])
def test_a_damaged_header_is_the_problem_of_its_case(ending: str, tmp_path: Path) -> None:
    touch(tmp_path, f"a_0000{ending}", f"a_0001{ending}", f"bad_0000{ending}", f"z_0000{ending}", f"z_0001{ending}")
    found = cases_of_folder(tmp_path, ending, 2)
    assert list(found.files) == ["a", "z"]
    (problem,) = found.problems
    assert problem.startswith(f"bad: {tmp_path / 'bad_0000'}{ending}: ")


def test_a_single_file(tmp_path: Path) -> None:
    touch(tmp_path, "a_0000.mha", "a_0001.mha", "b_0000.mha", "any name.mha", "a [1]_0000.mha")
    for name, case in (("b_0000.mha", "b"), ("any name.mha", "any name"), ("a [1]_0000.mha", "a [1]")):
        assert cases_of_folder(tmp_path / name, ".mha", 1) == FoundCases({case: [tmp_path / name]})
    both = [tmp_path / "a_0000.mha", tmp_path / "a_0001.mha"]
    assert cases_of_folder(both[0], ".mha", 2) == FoundCases({"a": both})
    unexpected = ["a: the model takes 1 channels; unexpected 0001"]
    assert cases_of_folder(both[0], ".mha", 1) == FoundCases({}, unexpected)
    with pytest.raises(VolumeError, match=r"ends in \.nii\.gz"):
        cases_of_folder(both[0], ".nii.gz", 1)
    (tmp_path / "photo.png").touch()
    with pytest.raises(VolumeError, match=r"name them photo_0000\.png, photo_0001\.png"):
        cases_of_folder(tmp_path / "photo.png", ".png", 2)


def test_folders_of_dicom(tmp_path: Path) -> None:
    dicom(tmp_path / "patient 10" / "series" / "1")
    dicom(tmp_path / "patient 2" / "1.dcm")
    touch(tmp_path, "list.csv", ".cache/x")
    found = cases_of_folder(tmp_path, ".nii.gz", 1)
    assert found == FoundCases({name: [tmp_path / name] for name in ("patient 2", "patient 10")}, [])
    assert list(found.files) == ["patient 2", "patient 10"]
    alone = cases_of_folder(tmp_path / "patient 2", ".nii.gz", 1)
    assert alone == FoundCases({"patient 2": [tmp_path / "patient 2"]})
    with pytest.raises(VolumeError, match="takes 2 channels, a DICOM series is one"):
        cases_of_folder(tmp_path, ".nii.gz", 2)


def test_folders_without_dicom_beside_cases_are_problems(tmp_path: Path) -> None:
    dicom(tmp_path / "good" / "1.dcm")
    touch(tmp_path, "papers/a.pdf", "papers/b/c.pdf", "papers/.hidden", "out/x.nii.gz")
    (tmp_path / "empty").mkdir()
    (tmp_path / "emptied").mkdir()
    for name in ("1.dcm", "2.dcm"):
        (tmp_path / "emptied" / name).touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1.dcm").symlink_to("nowhere")
    (tmp_path / "linked").symlink_to("nowhere")
    dicom(tmp_path / "0.dcm")
    found = cases_of_folder(tmp_path, ".nii.gz", 1, output=tmp_path / "good" / ".." / "out")
    assert found.files == {"good": [tmp_path / "good"]}
    assert found.left_out == ()
    expected = "expected a folder with one DICOM series, "
    assert found.problems == [
        "0.dcm: a DICOM file beside other cases; put each series in a folder of its own",
        f"broken: {expected}{tmp_path / 'broken' / '1.dcm'}: cannot be read (No such file or directory)",
        f"emptied: {expected}found 2 x .dcm (2 of 0 bytes)",
        f"empty: {expected}found no files",
        f"linked: {expected}found a link that leads nowhere",
        f"papers: {expected}found 2 x .pdf, 1 folder without DICOM files",
    ]


def test_a_file_that_cannot_be_read_does_not_hide_the_dicom_beside_it(tmp_path: Path) -> None:
    dicom(tmp_path / "a" / "2.dcm")
    (tmp_path / "a" / "1.dcm").symlink_to("nowhere")
    # the case is there, and fails when it is read
    assert cases_of_folder(tmp_path, ".nii.gz", 1) == FoundCases({"a": [tmp_path / "a"]}, [])
    dicom(tmp_path / "b" / "1.dcm")
    assert list(cases_of_folder(tmp_path, ".nii.gz", 1).files) == ["a", "b"]


def test_all_folders_without_dicom_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.dcm")
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "1").symlink_to("nowhere")
    (tmp_path / "notes.txt").symlink_to("nowhere")
    with pytest.raises(VolumeError) as caught:
        cases_of_folder(tmp_path, ".nii.gz", 1)
    first, *lines = str(caught.value).splitlines()
    assert first.endswith("found 3 folders without DICOM files")
    assert lines == [
        "  - a: found 1 x .dcm",
        "  - b: found no files",
        f"  - c: {tmp_path / 'c' / '1'}: cannot be read (No such file or directory)",
        "  - notes.txt: found a link that leads nowhere",
    ]


def test_images_beside_folders_of_dicom(tmp_path: Path) -> None:
    dicom(tmp_path / "p 2" / "1.dcm")
    dicom(tmp_path / "p 10" / "1.dcm")
    touch(tmp_path, "p 3_0000.nii.gz", "labels/a.nii.gz")
    found = cases_of_folder(tmp_path, ".nii.gz", 1)
    assert list(found.files) == ["p 2", "p 3", "p 10"]
    assert found.files["p 10"] == [tmp_path / "p 10"]
    assert found.problems == ["labels: expected a folder with one DICOM series, found 1 x .nii.gz"]
    touch(tmp_path, "p 10_0000.nii.gz")
    found = cases_of_folder(tmp_path, ".nii.gz", 1)
    assert found.files["p 10"] == [tmp_path / "p 10_0000.nii.gz"]
    assert found.problems[1] == "p 10: a folder of DICOM files and an image are both of this name; rename one"
    touch(tmp_path, "p 3_0001.nii.gz")
    found = cases_of_folder(tmp_path, ".nii.gz", 2)
    assert list(found.files) == ["p 3"]
    assert [problem.partition(":")[0] for problem in found.problems] == ["labels", "p 2", "p 10", "p 10"]
    assert found.problems[1].startswith("p 2: the model takes 2 channels, a DICOM series is one; convert")


def test_folders_beside_images_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "a_0000.nii.gz", "labels/a.nii.gz", "out/a.nii.gz")
    (tmp_path / "broken").symlink_to("nowhere")
    found = cases_of_folder(tmp_path, ".nii.gz", 1, output=tmp_path / "out")
    assert (list(found.files), found.problems) == (["a"], [])
    assert found.left_out == ("broken: found a link that leads nowhere", "labels: found 1 x .nii.gz")
    dicom(tmp_path / "1.dcm")
    (problem,) = cases_of_folder(tmp_path, ".nii.gz", 1).problems
    assert problem.startswith("1.dcm: a DICOM file beside other cases")


@pytest.mark.parametrize("call", ["iterdir", "is_file", "is_dir"])
def test_a_folder_that_may_not_be_read(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a_0000.nii.gz")

    def denied(path: Path) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, call, denied)
    with pytest.raises(VolumeError, match=r": cannot be read \(Permission denied\)$"):
        cases_of_folder(tmp_path, ".nii.gz", 1)


# reading one ahead


def test_a_failed_case_does_not_stop_the_others() -> None:
    results: list[object] = []
    with Prefetcher([2, 0, 4], lambda n: 8 // n) as prefetcher:
        for fetched in prefetcher:
            try:
                results.append((fetched.item, fetched.take()))
            except ZeroDivisionError as error:
                results.append((fetched.item, type(error)))
    assert results == [(2, 4), (0, ZeroDivisionError), (4, 2)]


def test_reads_one_ahead_and_no_more() -> None:
    begun: list[int] = []
    events = [threading.Event() for _ in range(4)]

    def read(item: int) -> int:
        begun.append(item)
        events[item].set()
        return item

    with Prefetcher(range(4), read) as prefetcher:
        assert events[0].wait(10)
        assert begun == [0]
        for fetched in prefetcher:
            assert fetched.take() == fetched.item
            if fetched.item < 3:
                assert events[fetched.item + 1].wait(10)
            assert begun == list(range(min(fetched.item + 2, 4)))


def test_results_are_not_kept() -> None:
    with Prefetcher([1, 2], lambda n: np.full(3, n)) as prefetcher:
        fetched = next(iter(prefetcher))
        array = fetched.take()
        gone = weakref.ref(array)
        with pytest.raises(RuntimeError, match="taken before"):
            fetched.take()
        del array
        gc.collect()
        assert gone() is None


def test_items_that_cannot_be_reserved_are_not_read() -> None:
    log: list[str] = []

    @contextlib.contextmanager
    def reserve(item: int) -> Iterator[bool]:
        if item == 3:
            raise OSError("no room")
        log.append(f"reserve {item}")
        yield item % 2 == 0
        log.append(f"free {item}")

    def read(item: int) -> int:
        log.append(f"read {item}")
        return 8 // item

    found: list[object] = []
    with Prefetcher([1, 2, 5, 7, 0, 3, 4, 9], read, reserve) as prefetcher:
        for fetched in prefetcher:
            assert f"free {fetched.item}" not in log
            try:
                found.append(fetched.take())
            except (ZeroDivisionError, OSError) as error:
                found.append(str(error))
        assert prefetcher.passed_over == [1, 5, 7, 9]
    assert found == [4, "integer division or modulo by zero", "no room", 2]
    assert [entry for entry in log if entry.startswith("read")] == ["read 2", "read 0", "read 4"]
    for item in (1, 2, 5, 7, 0, 4, 9):
        assert log.count(f"reserve {item}") == log.count(f"free {item}") == 1


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_reservations_are_given_back_where_it_stops_early(taken: int) -> None:
    held: list[int] = []

    @contextlib.contextmanager
    def reserve(item: int) -> Iterator[bool]:
        held.append(item)
        try:
            yield True
        finally:
            held.remove(item)

    with Prefetcher(range(9), lambda n: n, reserve) as prefetcher:
        for fetched, _ in zip(prefetcher, range(taken), strict=False):
            assert fetched.item in held
            assert len(held) <= 2
    assert held == []


def test_stops_early_and_with_nothing_to_do() -> None:
    read: list[int] = []
    with Prefetcher(range(100), read.append) as prefetcher:
        for fetched in prefetcher:
            fetched.take()
            break
    assert read in ([0], [0, 1])
    with Prefetcher([], lambda n: n) as prefetcher:
        assert list(prefetcher) == []
