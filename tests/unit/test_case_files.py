"""Cases of input folders, and reading one ahead."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path

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
    touch(tmp_path, "list.csv", "papers/a.pdf")
    cases = cases_of_folder(tmp_path, ".nii.gz", 1).files
    assert cases == {name: [tmp_path / name] for name in ("patient 2", "patient 10")}
    assert list(cases) == ["patient 2", "patient 10"]
    alone = cases_of_folder(tmp_path / "patient 2", ".nii.gz", 1)
    assert alone == FoundCases({"patient 2": [tmp_path / "patient 2"]})
    with pytest.raises(VolumeError, match="takes 2 channels, a DICOM series is one"):
        cases_of_folder(tmp_path, ".nii.gz", 2)


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


def test_stops_early_and_with_nothing_to_do() -> None:
    read: list[int] = []
    with Prefetcher(range(100), read.append) as prefetcher:
        for fetched in prefetcher:
            fetched.take()
            break
    assert read in ([0], [0, 1])
    with Prefetcher([], lambda n: n) as prefetcher:
        assert list(prefetcher) == []
