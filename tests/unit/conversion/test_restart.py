"""Conversions that stop and go on, that are up to date, and targets that cannot be written or would be replaced."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.conversion import case_conversion, engine
from nnunet_partial.conversion.engine import convert_dataset
from nnunet_partial.errors import LabelError, PartialError, VolumeError
from tests.conversion_fakes.scene import write_nifti
from tests.unit.conversion.conftest import Toy, cases_with, toy

Content = Callable[[Path], dict[str, bytes]]


def times(folder: Path) -> dict[str, int]:
    return {f"{p.parent.name}/{p.name}": p.stat().st_mtime_ns for p in folder.glob("*Tr/*.nii.gz")}


def kill_at(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, call: int) -> None:
    """Ends the process, as far as Python can tell, in the n-th call of a function."""
    real, calls = getattr(module, name), []

    def function(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, function)


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        (case_conversion, "read_image", 2),
        (case_conversion, "write_label_map", 2),
        (case_conversion, "write_json", 1),
        (case_conversion, "write_json", 3),
        (engine, "settle_values", 1),
        (engine, "write_dataset_files", 1),
    ],
)
def test_a_killed_conversion_goes_on(
    module: Any, name: str, call: int, download: Toy, monkeypatch: pytest.MonkeyPatch, content: Content
) -> None:
    whole = download.convert(orientation="RAS")
    expected = content(whole.folder)
    whole.folder.rename(download.raw / "expected")
    with monkeypatch.context() as patch:
        kill_at(patch, module, name, call)
        with pytest.raises(KeyboardInterrupt):
            download.convert(orientation="RAS")
    assert not download.target.exists()
    before = times(download.building)
    finished = {record.stem for record in (download.building / "records").glob("*.json")}
    result = download.convert(orientation="RAS")
    assert content(result.folder) == expected
    after = times(result.folder)
    kept = {name: when for name, when in before.items() if name.split("/")[1][0] in finished}
    assert {name: after[name] for name in kept} == kept


def test_a_conversion_killed_while_overlaps_are_numbered_goes_on(
    download: Toy, monkeypatch: pytest.MonkeyPatch, content: Content
) -> None:
    converter = toy(labels={1: "liver", 2: "spleen", 3: "ignore"})
    whole = download.convert(converter)
    expected = content(whole.folder)
    whole.folder.rename(download.raw / "expected")
    with monkeypatch.context() as patch:
        kill_at(patch, engine, "write_label_map", 2)
        with pytest.raises(KeyboardInterrupt):
            download.convert(converter)
    assert len(list((download.building / "labelsTr").iterdir())) == 1
    assert content(download.convert(converter).folder) == expected


def test_what_an_earlier_attempt_left_is_removed(download: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, engine, "settle_values", 1)
        with pytest.raises(KeyboardInterrupt):
            download.convert()
    (download.building / "imagesTr" / ".123.a_0000.nii.gz").write_bytes(b"half")
    result = download.convert(exclude=("b",))
    assert {p.name for p in (result.folder / "imagesTr").iterdir()} == {"a_0000.nii.gz", "c_0000.nii.gz"}
    assert {p.name for p in result.folder.iterdir()} == {"imagesTr", "labelsTr", "dataset.json", "conversion.json"}


def test_a_changed_file_is_converted_again(download: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, engine, "settle_values", 1)
        with pytest.raises(KeyboardInterrupt):
            download.convert()
    before = times(download.building)
    scene = download.scenes["b"].without("liver")
    write_nifti(download.label("b"), scene.values({"spleen": 2}), scene.affine, "LPS")
    (download.building / "labelsTr" / "c.nii.gz").unlink()
    result = download.convert()
    after = times(result.folder)
    assert after["labelsTr/a.nii.gz"] == before["labelsTr/a.nii.gz"]
    assert after["labelsTr/b.nii.gz"] != before["labelsTr/b.nii.gz"]
    written = nib.as_closest_canonical(nib.load(result.folder / "labelsTr" / "b.nii.gz"))
    np.testing.assert_array_equal(np.asarray(written.dataobj), scene.values({"spleen": 2}))


def test_going_back_to_earlier_options_mixes_nothing(download: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt with other options replaced an image and died; its old record must not vouch for the new image."""
    with monkeypatch.context() as patch:
        kill_at(patch, engine, "settle_values", 1)
        with pytest.raises(KeyboardInterrupt):
            download.convert()
    with monkeypatch.context() as patch:
        kill_at(patch, case_conversion, "write_label_map", 1)
        with pytest.raises(KeyboardInterrupt):
            download.convert(orientation="RAS")
    folder = download.convert().folder
    for case in "abc":
        assert (folder / "imagesTr" / f"{case}_0000.nii.gz").read_bytes() == download.image(case).read_bytes()


def test_up_to_date(download: Toy) -> None:
    first = download.convert()
    assert first.written
    before = times(first.folder)
    again = download.convert()
    assert not again.written
    assert dict(again.images) == {"copied": 3}
    assert times(again.folder) == before


@pytest.mark.parametrize(
    "lost", ["imagesTr/b_0001.nii.gz", "labelsTr/c.nii.gz", "dataset.json", "imagesTs/a_0000.nii.gz", "labelsTs"]
)
def test_a_dataset_of_which_files_are_missing_is_made_again(lost: str, download: Toy, content: Content) -> None:
    both = {case: (download.image(case), download.image(case)) for case in "abc"}
    changes = {"a": {"image": both["a"], "split": "test"}, "b": {"image": both["b"]}, "c": {"image": both["c"]}}
    converter = toy(cases=cases_with(**changes), channels=("CT", "PET"))
    folder = download.convert(converter).folder
    expected = content(folder)
    path = folder / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    result = download.convert(converter)
    assert result.written
    assert content(folder) == expected
    assert [p.name for p in download.raw.iterdir()] == ["Dataset007_Toy"]
    assert not download.convert(converter).written


def test_links_that_lead_nowhere_are_made_again(download: Toy) -> None:
    folder = download.convert(link=True).folder
    link = folder / "imagesTr" / "a_0000.nii.gz"
    assert not download.convert(link=True).written
    link.unlink()
    link.symlink_to(download.download / "gone.nii.gz")
    assert download.convert(link=True).written
    assert link.resolve() == download.image("a").resolve()


def test_overwrite_converts_what_is_up_to_date_again(download: Toy, content: Content) -> None:
    folder = download.convert().folder
    expected, before = content(folder), times(folder)
    (folder / "labelsTr" / "b.nii.gz").write_bytes(b"damaged")
    assert not download.convert().written
    result = download.convert(overwrite=True)
    assert result.written
    assert content(folder) == expected
    assert all(when != before[name] for name, when in times(folder).items())


@dataclass(frozen=True)
class KillOnce:
    """A check that kills the worker process it runs in, once, when another case is finished."""

    building: Path
    label: str = "liver"

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.label,)

    def measure(self, *_: Any) -> float:
        flag = self.building.with_name("killed")
        try:
            flag.touch(exist_ok=False)
        except FileExistsError:
            return 1.0
        for _ in range(6000):  # a minute at most, should no other case ever be finished
            if list((self.building / "records").glob("*.json")):
                break
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
        return 1.0

    def complaint(self, found: float) -> None:
        return None


def test_a_conversion_whose_worker_is_killed_goes_on(download: Toy, content: Content) -> None:
    check: Any = KillOnce(download.building)
    converter = toy(checks=(check,))
    with pytest.raises(PartialError, match="converting: a worker process was killed"):
        download.convert(converter, processes=2)
    assert not download.target.exists()
    finished = {record.stem: record.read_bytes() for record in (download.building / "records").glob("*.json")}
    assert 1 <= len(finished) < 3
    before = times(download.building)
    folder = download.convert(converter, processes=2).folder
    after = times(folder)
    kept = {name: when for name, when in before.items() if name.split("/")[1][0] in finished}
    assert len(kept) == 2 * len(finished)
    assert {name: after[name] for name in kept} == kept
    found = content(folder)
    folder.rename(download.raw / "found")
    assert content(download.convert(converter).folder) == found
    assert {name for name in found if "Tr/" in name} == {
        *(f"imagesTr/{case}_0000.nii.gz" for case in "abc"),
        *(f"labelsTr/{case}.nii.gz" for case in "abc"),
    }


# targets


def test_another_conversion_in_the_folder_is_refused(download: Toy, content: Content) -> None:
    folder = download.convert().folder
    before = content(folder)
    with pytest.raises(LabelError, match=r"Dataset007_Toy exists and was converted differently .* --overwrite"):
        download.convert(orientation="RAS")
    assert content(folder) == before
    assert download.convert(orientation="RAS", overwrite=True).written
    assert content(folder) != before
    assert [p.name for p in download.raw.iterdir()] == ["Dataset007_Toy"]


def test_a_folder_that_no_conversion_made_is_never_replaced(download: Toy) -> None:
    (download.target / "imagesTr").mkdir(parents=True)
    (download.target / "dataset.json").write_text("{}")
    with pytest.raises(LabelError, match="was not made by a conversion, so it is not replaced"):
        download.convert(overwrite=True)
    assert (download.target / "dataset.json").read_text() == "{}"


def test_a_number_that_is_taken(download: Toy) -> None:
    (download.raw / "Dataset007_Other").mkdir(parents=True)
    with pytest.raises(LabelError, match=r"dataset id 7 is taken by Dataset007_Other .* choose another number with -d"):
        download.convert()
    result = convert_dataset(toy(), download.download, 8, name="Mine", raw_folder=download.raw)
    assert result.folder.name == "Dataset008_Mine"
    with pytest.raises(LabelError, match="dataset id: expected 1 to 999, found 1000"):
        convert_dataset(toy(), download.download, 1000, raw_folder=download.raw)


def test_an_unfinished_conversion_of_another_dataset(download: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, engine, "settle_values", 1)
        with pytest.raises(KeyboardInterrupt):
            download.convert()
    with pytest.raises(LabelError, match="holds an unfinished conversion of Toy"):
        convert_dataset(toy(name="Other"), download.download, name="Toy", raw_folder=download.raw)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_target_that_cannot_be_written_stops_everything(
    code: int, download: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: Any) -> None:
        path.write_bytes(b"half a file")
        raise OSError(code, "nothing can be written")

    with monkeypatch.context() as patch:
        patch.setattr(case_conversion.shutil, "copyfile", lambda source, path: full(path))
        with pytest.raises(VolumeError, match=r"imagesTr/a_0000.nii.gz: cannot be written \(nothing can be written\)"):
            download.convert()
    assert not [p for p in download.building.rglob("*") if p.is_file() and p.name != "conversion.json"]
    assert download.convert().written


def test_a_full_disk_while_label_maps_are_written(download: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("nnunet_partial.volumes.nib.save", full)
        message = r"labelsTr/a.nii.gz: cannot be written \(No space left on device\); what is finished is kept"
        with pytest.raises(VolumeError, match=message):
            download.convert()
    assert not list((download.building / "labelsTr").iterdir())
    assert download.convert().written


def test_workers_can_hand_on_that_nothing_can_be_written() -> None:
    error = case_conversion.OutputError("/raw: cannot be written")
    assert str(pickle.loads(pickle.dumps(error))) == "/raw: cannot be written"


def test_a_raw_folder_that_is_a_file(download: Toy) -> None:
    download.raw.write_text("")
    with pytest.raises(VolumeError, match=r"Dataset007_Toy.incomplete: cannot be written \(Not a directory\)"):
        download.convert()
