"""Folders that several processes predict, one after the other or at once: nothing is done twice or left half."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from nnunet_partial.atomic import atomic_path
from nnunet_partial.errors import PartialError
from nnunet_partial.inference import claims, folder_prediction
from nnunet_partial.inference.case_outputs import CaseOutputs
from nnunet_partial.inference.folder_prediction import Job, predict_folder
from nnunet_partial.inference.predictor import Predictor
from tests.documents import ROOT
from tests.unit.stub_predictor import Stub, make_job, names, plan, predicted, problems_of, raising, write_case


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return make_job(tmp_path)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cases whose images are read."""
    found: list[str] = []
    real = folder_prediction.read_image

    def recorded(files: Sequence[Path], *more: Any, **options: Any) -> Any:
        found.append(files[0].name.partition("_0000")[0])
        return real(files, *more, **options)

    monkeypatch.setattr(folder_prediction, "read_image", recorded)
    return found


def finished_elsewhere(output: Path, number: int, seconds: float = 0) -> None:
    """As another process writes an output: a new file takes the place of the old one."""
    with atomic_path(output / f"case_{number}.nii.gz") as temporary:
        temporary.write_text("by another process")
        os.utime(temporary, (time.time() + seconds,) * 2)


def test_outputs_from_before_are_made_anew_whatever_their_time(job: Job, reads: list[str]) -> None:
    job.output.mkdir()
    for number, seconds in enumerate((0, 3600, -3600, 10**6)):
        finished_elsewhere(job.output, number, seconds)
    assert len(predicted(job, Stub(plan()))) == 4
    assert reads == [f"case_{number}" for number in range(4)]
    assert all((job.output / name).read_bytes()[:2] == b"\x1f\x8b" for name in names(job.output))


@pytest.mark.parametrize("seconds", [0, 3600, -(10**6)])
@pytest.mark.parametrize("there_before", [True, False])
def test_what_another_process_finishes_meanwhile_is_left_alone(
    seconds: float, there_before: bool, job: Job, reads: list[str]
) -> None:
    job.output.mkdir()
    if there_before:
        for number in range(4):
            finished_elsewhere(job.output, number)
    stub = Stub(plan(), {0: lambda: [finished_elsewhere(job.output, number, seconds) for number in (1, 3)]})
    console = Console(file=io.StringIO())
    load = lambda: cast(Predictor, stub)  # noqa: E731
    assert predict_folder(job, stub.plan, load, console, {}) == ["case_0", "case_2"]
    assert reads in (["case_0", "case_2"], ["case_0", "case_1", "case_2"])  # the next one may have been read before
    assert (job.output / "case_3.nii.gz").read_text() == "by another process"
    assert isinstance(console.file, io.StringIO)
    assert "case_3: another process has it" in console.file.getvalue()


def test_the_output_has_to_be_whole_to_be_left_alone(job: Job) -> None:
    wanted = Job(job.images, job.output, probabilities=True, resumes=True)
    job.output.mkdir()
    outputs = CaseOutputs(["case_1"], lambda case: [wanted.outputs(case, ".nii.gz")])
    finished_elsewhere(job.output, 1)
    assert not outputs.is_done("case_1")
    assert not outputs.is_new("case_1")
    (job.output / "case_1_probabilities").mkdir()
    assert outputs.is_done("case_1")
    assert outputs.is_new("case_1")
    later = CaseOutputs(["case_1"], lambda case: [wanted.outputs(case, ".nii.gz")])
    assert later.is_done("case_1")
    finished_elsewhere(job.output, 1)
    assert not later.is_new("case_1")


def test_images_of_cases_that_others_have_are_not_read(job: Job, reads: list[str]) -> None:
    job.output.mkdir()
    with claims.claimed(job.output, "case_0"), claims.claimed(job.output, "case_2"):
        assert predicted(job, Stub(plan())) == ["case_1", "case_3"]
    assert reads == ["case_1", "case_3"]
    assert names(job.output) == ["case_1.nii.gz", "case_3.nii.gz"]


def test_cases_that_another_process_only_reserved_come_last(job: Job, reads: list[str]) -> None:
    job.output.mkdir()
    with claims.reserved(job.output, "case_0"), claims.reserved(job.output, "case_1"):
        stub = Stub(plan(), {3: lambda: finished_elsewhere(job.output, 1)})
        assert predicted(job, stub) == ["case_2", "case_3", "case_0"]
    assert reads == ["case_2", "case_3", "case_0"]
    assert (job.output / "case_1.nii.gz").read_text() == "by another process"


def test_nothing_is_claimed_or_reserved_in_the_end(job: Job) -> None:
    held: list[str] = []
    (job.images / "case_2_0000.nii.gz").write_bytes(b"x")
    stub = Stub(plan(), {1: lambda: held.extend(p.name for p in (job.output / ".claims").iterdir())})
    problems_of(job, stub)
    assert {"case_1.lock", "case_1.reading"} <= set(held) <= {"case_1.lock", "case_1.reading", "case_2.reading"}
    assert not (job.output / ".claims").exists()


@pytest.mark.parametrize(
    ("kind", "target"), [("labels", "case_1.nii.gz"), ("classes", "case_1"), ("seg.nrrd", "case_1.seg.nrrd")]
)
def test_what_a_killed_run_left_is_removed_with_its_case(kind: Any, target: str, job: Job) -> None:
    job.output.mkdir()
    half = [f".0123456789012345.{name}" for name in (target, f"{target}.one.nii", "case_1_probabilities")]
    (job.output / half[2]).mkdir()
    (job.output / half[2] / "organ.nii.gz").touch()
    of_others = [".0123456789012345.case_10.nii.gz", ".12.case_1.nii.gz", ".0123456789012345.case_1.5"]
    for name in [*half[:2], *of_others]:
        (job.output / name).touch()
    seen: list[list[str]] = []
    wanted = Job(job.images, job.output, kind, probabilities=True)
    # whatever the case comes to
    stub = Stub(plan(), {1: raising(ValueError("of the case"))})
    stub.predicted = lambda image, *_: seen.append(names(job.output)) or stub(image, (), None)  # type: ignore[attr-defined]
    with claims.claimed(job.output, "case_0"):
        problems_of(wanted, stub)
    assert set(half) & set(seen[0]) == set()
    assert set(of_others) <= set(names(job.output))
    assert set(half) & set(names(job.output)) == set()


SETTINGS = {"model": "folder", "f": ["0"], "mode": "fast", "protocol": None}


def resumed(job: Job, settings: object) -> list[str]:
    stub = Stub(plan())
    again = Job(job.images, job.output, resumes=True)
    record: dict[str, object] = {} if settings is None else {"settings": settings}
    return predict_folder(again, stub.plan, lambda: cast(Predictor, stub), Console(file=io.StringIO()), record)


@pytest.mark.parametrize(
    ("key", "value"), [("model", "other"), ("mode", "exact"), ("protocol", "btcv"), ("f", ["0", "1"]), ("new", 1)]
)
def test_predictions_made_otherwise_are_not_taken_for_finished(key: str, value: object, job: Job) -> None:
    assert len(resumed(job, SETTINGS)) == 4
    assert resumed(job, SETTINGS) == []
    (job.output / "case_2.nii.gz").unlink()
    record = (job.output / "prediction.json").read_text()
    message = rf"prediction\.json: the folder holds predictions with '{key}' .*, now it is .*--continue_prediction"
    with pytest.raises(PartialError, match=message):
        resumed(job, {**SETTINGS, key: value})
    assert (job.output / "prediction.json").read_text() == record
    assert not (job.output / "case_2.nii.gz").exists()
    # anew, they are predicted as they are wanted
    stub = Stub(plan())
    record_now: dict[str, object] = {"settings": {**SETTINGS, key: value}}
    assert (
        len(predict_folder(job, stub.plan, lambda: cast(Predictor, stub), Console(file=io.StringIO()), record_now)) == 4
    )


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"ensemble": {}}', '{"settings": null}', '{"settings": [1]}'])
def test_a_record_that_does_not_tell(content: str, job: Job) -> None:
    job.output.mkdir()
    (job.output / "prediction.json").write_text(content)
    with pytest.raises(PartialError, match="expected how the predictions in this folder were made, found none of it"):
        resumed(job, SETTINGS)
    assert len(resumed(job, None)) == 4  # who has no settings does not ask
    (job.output / "prediction.json").unlink()
    assert resumed(job, SETTINGS) == []


def test_images_are_never_replaced(job: Job) -> None:
    image = job.images / "liver.nii.gz"
    (job.images / "case_0_0000.nii.gz").rename(image)
    before = image.read_bytes()
    with pytest.raises(PartialError, match=r"liver\.nii\.gz: a prediction would replace this image"):
        predicted(Job(image, job.images / ".." / "images"), Stub(plan()))
    assert image.read_bytes() == before
    (job.images / "case").mkdir()
    (job.images / "case" / "1.dcm").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(PartialError, match="is the folder of the images"):
        predicted(Job(job.images, job.images, "classes"), Stub(plan()))
    assert (job.images / "case" / "1.dcm").exists()


def test_folders_that_are_left_out_are_told(job: Job) -> None:
    (job.images / "labels").mkdir()
    console, stub = Console(file=io.StringIO()), Stub(plan())
    predict_folder(job, stub.plan, lambda: cast(Predictor, stub), console, {})
    assert isinstance(console.file, io.StringIO)
    assert "left out: labels: found no files" in console.file.getvalue()


SHARER = """
import io, sys, time
from pathlib import Path
from rich.console import Console
from nnunet_partial.inference import folder_prediction
from nnunet_partial.inference.folder_prediction import Job, predict_folder
from tests.unit.stub_predictor import Stub, plan

images, output, own, other = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])


def meet(name):
    # neither goes on before the other one is as far
    own.with_suffix(name).touch()
    deadline = time.monotonic() + 120
    while not other.with_suffix(name).exists():
        assert time.monotonic() < deadline, name
        time.sleep(0.005)


class Sharer(Stub):
    def __call__(self, image, spacing_mm, modality):
        with own.open("a") as file:
            file.write(f"{int(image[0, 0, 0, 0])}\\n")
        if not own.with_suffix(".first").exists():
            meet(".first")
        return super().__call__(image, spacing_mm, modality)


def load():
    meet(".listed")
    return Sharer(plan())


real = folder_prediction.read_image


def read_image(files, *more, **options):
    with own.with_suffix(".reads").open("a") as file:
        file.write(f"{files[0].name}\\n")
    return real(files, *more, **options)


folder_prediction.read_image = read_image
predict_folder(Job(images, output), plan(), load, Console(file=io.StringIO()), {})
"""


def test_two_processes_share_a_folder(tmp_path: Path) -> None:
    count = 16
    for number in range(count):
        write_case(tmp_path / "images", number)
    output, logs = tmp_path / "out", [tmp_path / "a", tmp_path / "b"]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", SHARER, *map(str, (tmp_path / "images", output, own, other))],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for own, other in (logs, logs[::-1])
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=240)
        assert worker.returncode == 0, errors
    one, other = (log.read_text().split() for log in logs)
    assert one
    assert other
    assert sorted([*one, *other], key=int) == [str(number) for number in range(count)]
    assert names(output) == sorted(f"case_{number}.nii.gz" for number in range(count))
    # each reads what it predicts, and at most what the other one took over from it at the end
    for log, done in zip(logs, (one, other), strict=True):
        read = log.with_suffix(".reads").read_text().split()
        assert {f"case_{number}_0000.nii.gz" for number in done} <= set(read)
        assert len(read) <= len(done) + 1
