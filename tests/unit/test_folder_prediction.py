"""Folders of cases of which some fail: the others are done, every failure is told once, and nothing is left behind."""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from nnunet_partial.errors import PartialError, ProblemsError
from nnunet_partial.inference import claims
from nnunet_partial.inference.folder_prediction import Job, predict_folder
from nnunet_partial.inference.predictor import Predictor
from tests.unit.stub_predictor import Stub, make_job, names, plan, predicted, problems_of, raising, write_case


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return make_job(tmp_path)


def test_incomplete_cases_and_stray_files_do_not_stop_the_others(tmp_path: Path) -> None:
    images = tmp_path / "images"
    for number in range(3):
        write_case(images, number, channels=2)
    (images / "case_1_0001.nii.gz").unlink()
    (images / "liver.nii.gz").write_bytes(b"x")
    (images / "bad_0000.nii.gz").write_bytes(b"x")
    job = Job(images, tmp_path / "out")
    with pytest.raises(ProblemsError, match="3 of 5 cases could not be predicted") as caught:
        predicted(job, Stub(plan(2)))
    bad, incomplete, stray = caught.value.problems
    assert bad.startswith(f"bad: {images / 'bad_0000.nii.gz'}: ")
    assert incomplete == "case_1: the model takes 2 channels; missing 0001"
    assert stray.startswith("liver.nii.gz: expected a name like CASE_0000.nii.gz")
    assert names(job.output) == ["case_0.nii.gz", "case_2.nii.gz"]


def test_the_folder_of_the_images_takes_no_predictions(tmp_path: Path) -> None:
    write_case(tmp_path / "images", 1)
    (tmp_path / "link").symlink_to("images")
    with pytest.raises(PartialError, match="is the folder of the images"):
        predicted(Job(tmp_path / "images", tmp_path / "link"), Stub(plan(1)))
    assert names(tmp_path / "images") == ["case_1_0000.nii.gz"]


def test_no_model_is_loaded_where_all_cases_are_incomplete(tmp_path: Path) -> None:
    write_case(tmp_path / "images", 1)
    job = Job(tmp_path / "images", tmp_path / "out")

    def load() -> Predictor:
        raise AssertionError("loaded")

    with pytest.raises(ProblemsError, match="1 of 1 cases"):
        predict_folder(job, plan(2), load, Console(file=io.StringIO()), {})


def test_parts_share_cases_and_problems(tmp_path: Path) -> None:
    images, found, written = tmp_path / "images", [], []
    for number in range(5):
        write_case(images, number, channels=2)
    for number in (5, 6, 7):
        write_case(images, number, channels=1)
    for part in range(3):
        output = tmp_path / f"out{part}"
        found.append(problems_of(Job(images, output, parts=3, part=part), Stub(plan(2))))
        written.append(names(output))
    assert [[problem.partition(":")[0] for problem in part] for part in found] == [["case_5"], ["case_6"], ["case_7"]]
    assert written == [["case_0.nii.gz", "case_3.nii.gz"], ["case_1.nii.gz", "case_4.nii.gz"], ["case_2.nii.gz"]]
    only = Job(images, tmp_path / "out", parts=20, part=19)
    assert predicted(only, Stub(plan(2))) == []


class Foreign(Exception):
    """Of a library whose errors have a root of their own."""


@pytest.mark.parametrize(
    ("error", "message", "traced"),
    [
        (RuntimeError("CUDA out of memory"), "RuntimeError: CUDA out of memory", True),
        (ValueError("array is too big"), "ValueError: array is too big", True),
        (Foreign("allocation failed"), "Foreign: allocation failed", True),
        (OverflowError(), "OverflowError", True),
        (MemoryError(), "MemoryError", False),
        (PartialError("network: found NaN"), "network: found NaN", False),
        (OSError(errno.ENOSPC, "No space left on device"), "[Errno 28] No space left on device", False),
    ],
)
def test_whatever_a_case_raises_is_its_problem(
    job: Job, error: Exception, message: str, traced: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert problems_of(job, Stub(plan(), {1: raising(error), 3: raising(error)})) == [
        f"case_1: {message}",
        f"case_3: {message}",
    ]
    assert names(job.output) == ["case_0.nii.gz", "case_2.nii.gz"]
    assert ("in act" in capsys.readouterr().err) == traced


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_end_from_outside_leaves_nothing_behind(job: Job, error: type[BaseException]) -> None:
    with pytest.raises(error):
        predicted(job, Stub(plan(), {2: raising(error())}))
    assert names(job.output) == ["case_0.nii.gz", "case_1.nii.gz"]


def test_a_case_that_cannot_be_claimed_does_not_stop_the_others(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def denied_for_case_1(path: Path, *more: Any) -> int:
        if path.name == "case_1.lock":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, *more)

    monkeypatch.setattr(claims.os, "open", denied_for_case_1)
    (problem,) = problems_of(job, Stub(plan()))
    assert re.match(r"case_1: .*case_1\.lock: the case cannot be claimed \(Permission denied\)", problem)
    assert names(job.output) == ["case_0.nii.gz", "case_2.nii.gz", "case_3.nii.gz"]


def test_without_locks_all_cases_are_predicted(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(claims.fcntl, "flock", no_locks)
    monkeypatch.setattr(claims, "_lockless", set())
    job.output.mkdir()
    other = job.output / ".0000000000000001.case_1.nii.gz"  # another process's, for all that is known
    other.touch()
    with pytest.warns(UserWarning, match="no locks") as caught:
        assert len(predicted(job, Stub(plan()))) == 4
    assert len(caught) == 1
    assert names(job.output) == [other.name, *(f"case_{number}.nii.gz" for number in range(4))]


@pytest.mark.parametrize("kind", ["labels", "classes", "seg.nrrd"])
def test_a_full_disk_is_a_problem_of_the_cases_it_stops(job: Job, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    full: list[int] = []

    def compress(*parts: Any) -> list[bytes]:
        if full.pop():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return [bytes(part) for part in parts]

    class Whole(Stub):
        def masks(self, image: np.ndarray, spacing_mm: Sequence[float], modality: str | None) -> Any:
            return iter([("organ", self(image, spacing_mm, modality) > 0)])

    def fill(now: int) -> Callable[[], None]:
        return lambda: full.append(now)

    for module in ("label_writer", "segmentation_nrrd"):
        monkeypatch.setattr(f"nnunet_partial.inference.writing.{module}.compress", compress)
    stub = Whole(plan(), {0: fill(0), 1: fill(1), 2: fill(0), 3: fill(0)})
    (problem,) = problems_of(Job(job.images, job.output, kind), stub)
    assert problem.startswith("case_1: ")
    assert problem.endswith("cannot be written (No space left on device)")
    ending = {"labels": ".nii.gz", "classes": "", "seg.nrrd": ".seg.nrrd"}[kind]
    assert names(job.output) == [f"case_{number}{ending}" for number in (0, 2, 3)]
