"""`nnUNetv2_partial_efficiency`: a command measured on each case of a folder."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_partial.cli import efficiency
from nnunet_partial.cli.efficiency import main
from nnunet_partial.errors import PartialError
from nnunet_partial.inference.efficiency import folder_measurement
from nnunet_partial.inference.efficiency.folder_measurement import ResultFolder, measure_folder
from nnunet_partial.inference.efficiency.measurement import Trace
from nnunet_partial.inference.efficiency.plot import plot_costs
from nnunet_partial.inference.efficiency.results import CaseCost, read_costs, read_trace, write_costs, write_trace
from tests.unit.measured_commands import FakeGpu, python

COPY = "import pathlib, shutil, sys; [shutil.copy(p, sys.argv[2]) for p in pathlib.Path(sys.argv[1]).iterdir()]"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a_0000.nii.gz", "a_0001.nii.gz", "b c_0000.nii.gz", "notes.txt", ".b_0000.nii.gz"):
        (folder / name).write_text(name)
    return folder


def copying(*more: str) -> list[str]:
    return python(COPY + "".join(more), "{input}", "{output}")


def test_each_case_is_alone_in_its_folder(images: Path, tmp_path: Path) -> None:
    code = "; assert all(p.parent.name == 'input' for p in pathlib.Path(sys.argv[1]).iterdir()); print(sys.argv[1:])"
    costs = measure_folder(images, tmp_path / "out", copying(code), gpu=FakeGpu(lambda reading: 64.0))
    assert [(cost.case, cost.exit_status, cost.problem) for cost in costs] == [("a", 0, ""), ("b c", 0, "")]
    results = ResultFolder(tmp_path / "out")
    assert sorted(path.name for path in results.predictions.iterdir()) == [
        "a_0000.nii.gz",
        "a_0001.nii.gz",
        "b c_0000.nii.gz",
    ]
    printed = [results.log(cost.case).read_text() for cost in costs]
    assert printed[0] != printed[1]
    with results.table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["a", "b c"]
    for row, cost in zip(rows, costs, strict=True):
        assert float(row["wall_s"]) == cost.wall_s > 0
        assert float(row["peak_gpu_mb"]) == float(row["gpu_before_mb"]) == 64
        trace = read_trace(results.trace(cost.case), 0.1)
        assert len(trace.ticks) == cost.samples
        assert trace.area_mb_s(trace.gpu_mb) == pytest.approx(cost.gpu_area_mb_s, abs=0.1)
        assert trace.area_mb_s(trace.host_mb) == pytest.approx(cost.host_area_mb_s, abs=0.2)
    assert not list(results.folder.glob(".*"))


def test_finished_cases_are_not_measured_again(images: Path, tmp_path: Path) -> None:
    marker = tmp_path / "works"
    fail = (
        "; case = str(list(pathlib.Path(sys.argv[1]).iterdir()))"
        f"; sys.exit('not yet' if 'b c' in case and not pathlib.Path({str(marker)!r}).exists() else 0)"
    )
    first = measure_folder(images, tmp_path / "out", copying(fail))
    assert [cost.problem for cost in first] == ["", "exit status 1; its output ends with:\nnot yet"]
    table = tmp_path / "out" / "efficiency.csv"
    assert read_costs(table) == first
    marker.touch()
    (images / "z_0000.nii.gz").write_text("z")
    second = measure_folder(images, tmp_path / "out", copying(fail))
    assert second[0] == first[0]
    assert [cost.problem for cost in second] == ["", "", ""]
    # rows of cases that are asked for no more stay
    for path in images.glob("[ab]*"):
        path.unlink()
    assert [cost.case for cost in measure_folder(images, tmp_path / "out", copying(fail))] == ["z"]
    assert read_costs(table) == second


def test_an_interrupted_case_leaves_no_row(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = folder_measurement.measure_command

    def interrupted(command: list[str], log: Path, **options: object) -> object:
        if "b c" in str(list(Path(command[-2]).iterdir())):
            raise KeyboardInterrupt
        return original(command, log, **options)

    monkeypatch.setattr(folder_measurement, "measure_command", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure_folder(images, tmp_path / "out", copying())
    assert [cost.case for cost in read_costs(tmp_path / "out" / "efficiency.csv")] == ["a"]
    assert not list((tmp_path / "out").glob(".*"))


def test_measurements_of_different_commands_are_not_mixed(images: Path, tmp_path: Path) -> None:
    measure_folder(images, tmp_path / "out", copying())
    with pytest.raises(PartialError, match=r"efficiency.json: holds measurements with command \["):
        measure_folder(images, tmp_path / "out", copying("; print()"))
    with pytest.raises(PartialError, match=r"with interval_s 0.1, now it is 0.2"):
        measure_folder(images, tmp_path / "out", copying(), interval_s=0.2)
    (tmp_path / "out" / "efficiency.json").write_text("{")
    with pytest.raises(PartialError, match=r"cannot be read as JSON"):
        measure_folder(images, tmp_path / "out", copying())


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import os; os.kill(os.getpid(), 9)", "ended by signal 9 (Killed); it printed nothing"),
        ("pass", "exit status 0, but it wrote nothing named a* to its output folder, only []; it printed nothing"),
        ("import sys; sys.exit(3)", "exit status 3; it printed nothing"),
    ],
)
def test_runs_that_fail(images: Path, tmp_path: Path, code: str, problem: str) -> None:
    (images / "b c_0000.nii.gz").unlink()
    (cost,) = measure_folder(images, tmp_path / "out", python(code, "{input}", "{output}"))
    assert cost.problem == problem
    assert not ResultFolder(tmp_path / "out").predictions.exists()


def test_wrong_arguments(images: Path, tmp_path: Path) -> None:
    with pytest.raises(PartialError, match=r"\{output\} not found"):
        measure_folder(images, tmp_path / "out", ["predict", "{input}"])
    with pytest.raises(PartialError, match=r"\{input\} and \{output\} not found"):
        measure_folder(images, tmp_path / "out", ["predict"])
    with pytest.raises(PartialError, match="interval: expected seconds above 0"):
        measure_folder(images, tmp_path / "out", copying(), interval_s=0)
    with pytest.raises(PartialError, match=r"named CASE_0000\.nrrd, found none"):
        measure_folder(images, tmp_path / "out", copying(), file_ending=".nrrd")
    assert not (tmp_path / "out").exists()


def cost(case: str, **changes: object) -> CaseCost:
    values = {
        "exit_status": 0,
        "wall_s": 1.5,
        "cpu_s": 1.0,
        "peak_host_mb": 10.0,
        "host_area_mb_s": 3.0,
        "peak_gpu_mb": None,
        "gpu_area_mb_s": None,
        "gpu_before_mb": None,
        "samples": 2,
        "problem": "",
    }
    return CaseCost(case, **{**values, **changes})


def test_tables_are_read_as_they_were_written(tmp_path: Path) -> None:
    costs = [cost("a, b"), cost("c", problem='exit status 1; "x"\n\ny,', exit_status=1, peak_gpu_mb=0.0)]
    write_costs(tmp_path / "costs.csv", costs)
    assert read_costs(tmp_path / "costs.csv") == costs
    assert read_costs(tmp_path / "none.csv") == []
    (tmp_path / "bad.csv").write_text("case,wall_s\na,1\n")
    with pytest.raises(PartialError, match="expected a table with the columns case, exit_status"):
        read_costs(tmp_path / "bad.csv")
    traces = [Trace(0.1, (0, 3), (1.5, 2.5), ()), Trace(0.1, (0, 3), (1.5, 2.5), (7.0, 8.0))]
    for trace in traces:
        write_trace(tmp_path / "trace.csv", trace)
        assert read_trace(tmp_path / "trace.csv", 0.1) == trace
    with pytest.raises(PartialError, match="remove its case"):
        read_trace(tmp_path / "costs.csv", 0.1)


@pytest.mark.parametrize("number", [2, 70])
@pytest.mark.parametrize("gpu", [(), (7.0, 8.0)])
def test_plot(tmp_path: Path, number: int, gpu: tuple[float, ...]) -> None:
    costs = [cost(f"case_{i}", peak_gpu_mb=max(gpu, default=None)) for i in range(number)]
    costs[1] = cost("case_1", problem="exit status 1", exit_status=1)
    traces = {cost.case: Trace(0.1, (0, 3), (1.5, 2.5), gpu) for cost in costs}
    plot_costs(tmp_path / "plot.png", costs, traces, "pss")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_command(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = FakeGpu(lambda reading: 100.0)
    monkeypatch.setattr("nnunet_partial.inference.efficiency.gpu_memory.open_gpu_reader", lambda index, interval: gpu)
    output = tmp_path / "out"
    assert main(["-i", str(images), "-o", str(output), "--interval", "0.05", "--", *copying()]) == 0
    printed = capsys.readouterr().out
    assert "2 of 2 cases" in printed
    assert "written to" in printed
    assert gpu.closed
    assert (output / "efficiency.png").is_file()
    setup = json.loads((output / "efficiency.json").read_text())
    assert setup["gpu_reader"] == "fake"
    assert setup["interval_s"] == 0.05
    assert setup["command"] == copying()


def test_command_fails_where_a_case_fails(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnunet_partial.inference.efficiency.gpu_memory.open_gpu_reader", lambda index, interval: None)
    fail = "; sys.exit('[broken]' if 'b c' in str(list(pathlib.Path(sys.argv[1]).iterdir())) else 0)"
    arguments = ["-i", str(images), "-o", str(tmp_path / "out"), "--no_plot", "--"]
    assert main([*arguments, *copying(fail)]) == 1
    captured = capsys.readouterr()
    assert "error: b c: exit status 1; its output ends with:\n[broken]" in captured.err
    assert "1 of 2 cases" in captured.out
    assert not (tmp_path / "out" / "efficiency.png").exists()
    assert main([*arguments, "predict"]) == 1
    assert "error: command: expected the words {input} and {output}" in capsys.readouterr().err


def test_words_after_the_dashes_belong_to_the_command() -> None:
    words = ["docker", "run", "--rm", "-v", "{input}:/in", "-i", "x", "--", "{output}"]
    assert efficiency.build_parser().parse_args(["-i", "a", "-o", "b", "--", *words]).command == words


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from nnunet_partial.cli.efficiency import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'nnunetv2', 'numpy', 'matplotlib'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "{input}" in done.stdout
