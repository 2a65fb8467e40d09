"""The benchmark of prediction: its results, rounds, statistics, goals and report, against known numbers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnunet_partial.errors import PartialError
from tests.bench.inference import accuracy, competitors, parts
from tests.bench.inference.__main__ import main
from tests.bench.inference.accuracy import REFERENCE
from tests.bench.inference.bench import Bench
from tests.bench.inference.goals import Part, check_goals
from tests.bench.inference.machine import describe_machine, machine_lines
from tests.bench.inference.parts import PARTS, ROWS, carry_out, chosen_parts
from tests.bench.inference.presets import PRESETS, Grid
from tests.bench.inference.real_patient import ORGANS, consecutive
from tests.bench.inference.report import write_report
from tests.bench.inference.results import Key, Results
from tests.bench.inference.rounds import Task, run_rounds
from tests.bench.inference.summary import Summary
from tests.bench.inference.tables import markdown

TINY = PRESETS["tiny"]
PARTS_OF_SIZES = ("volumes", "main", "network", "training")
SETTINGS = {name: TINY.settings()[name] for name in PARTS_OF_SIZES} | {"preset": "tiny", "threads": 2}
MACHINE = describe_machine()


def save(results, part, case, who, run=0, problem="", **values):
    results.save(Key(part, case, who, run), SETTINGS, MACHINE, values, problem)


def bench(folder, **changes):
    every = {"runs": 1, "threads": 1, "sizes": tuple(TINY.volumes), "classes": (2, 14)}
    return Bench(folder, TINY, **{**every, **changes})


def test_results_are_finished_unless_missing_failed_or_of_other_settings(tmp_path):
    results, key = Results(tmp_path), Key("input", "24", "ours", 0)
    assert not results.is_finished(key, SETTINGS)
    save(results, "input", "24", "ours", seconds=1.0)
    assert results.is_finished(key, SETTINGS)
    assert not results.is_finished(replace(key, run=1), SETTINGS)
    with pytest.raises(PartialError, match="threads"):
        results.is_finished(key, {**SETTINGS, "threads": 4})
    save(results, "input", "24", "nnunet", problem="it fell")
    assert not results.is_finished(replace(key, who="nnunet"), SETTINGS)
    assert list(results.values("input")) == [key]
    assert {k.who for k in results.load("input")} == {"ours", "nnunet"}

    results.save(replace(key, run=2), {**SETTINGS, "threads": 4}, MACHINE, {})
    with pytest.raises(PartialError, match="different settings"):
        results.load("input")
    results.path(replace(key, run=2)).write_text("{")
    with pytest.raises(PartialError, match="JSON"):
        results.load("input")
    results.path(replace(key, run=2)).write_text("[]")
    with pytest.raises(PartialError, match="expected an object"):
        results.load("input")


def test_settings_survive_json():
    # tuples would come back as lists, and every measurement would seem to be of other settings
    for part in PARTS:
        settings = bench(Path()).settings(part)
        assert json.loads(json.dumps(settings)) == settings


def test_settings_of_a_part_are_those_that_matter_to_it():
    longer = replace(TINY, accuracy=replace(TINY.accuracy, phases=()))
    deeper = replace(TINY, training=replace(TINY.training, phases=()))

    def changed(other):
        return {part for part in PARTS if bench(Path()).settings(part) != other.settings(part)}

    assert changed(replace(bench(Path()), preset=longer)) == {"accuracy"}
    assert changed(replace(bench(Path()), preset=deeper)) == {"end_to_end", "sizes", "gpu"}
    assert changed(bench(Path(), decoding="argmax")) == {"end_to_end", "sizes", "gpu"}
    assert changed(bench(Path(), threads=2)) == set(PARTS)


def test_rounds_take_turns_and_go_on_where_they_stopped(tmp_path):
    results, order = Results(tmp_path), []

    def measure(who, fails=False):
        def once():
            order.append(who)
            if fails:
                raise PartialError("it fell")
            return {"seconds": float(len(order))}

        return once

    tasks = [Task("input", "24", "a", measure("a")), Task("input", "24", "b", measure("b", fails=True))]
    tasks.append(Task("input", "24", "c", measure("c")))
    problems = run_rounds(results, tasks, 2, SETTINGS)
    # what failed is left out of later rounds, the others take turns
    assert order == ["a", "b", "c", "a", "c"]
    assert len(problems) == 1 and "it fell" in problems[0]
    assert {(k.who, k.run) for k in results.values("input")} == {("a", 0), ("c", 0), ("a", 1), ("c", 1)}

    order.clear()
    tasks[1] = Task("input", "24", "b", measure("b"))
    assert run_rounds(results, tasks, 3, SETTINGS) == []
    assert order == ["b", "b", "a", "b", "c"]
    assert len(results.values("input")) == 9


def test_competitors_are_chosen_by_name():
    tasks = [Task("input", "a", who, dict) for who in ("ours", "nnunet")]
    assert bench(Path()).chosen(tasks) == tasks
    assert bench(Path(), competitors=("nnunet", "other")).chosen(tasks) == tasks[1:]
    assert bench(Path(), competitors=("other",)).chosen([]) == []
    with pytest.raises(PartialError, match="--competitors: expected some of ours, nnunet, found other"):
        bench(Path(), competitors=("other",)).chosen(tasks)


def test_medians_and_ratios_of_the_same_round():
    numbers = {"ours": [1.0, 2.0, 4.0], "nnunet": [10.0, 40.0, 20.0]}
    values = {
        Key("input", "24", who, run): {"seconds": found[run], "nothing": None}
        for who, found in numbers.items()
        for run in range(3)
    }
    values[Key("input", "24", "ours", 3)] = {"seconds": 100.0}  # a round without nnU-Net
    found = Summary(values)
    assert found.cases == ["24"] and found.who("24") == ["ours", "nnunet"]
    assert found.rounds("24", "ours") == 4
    assert found.median("24", "ours", "seconds") == 3.0
    assert found.largest("24", "ours", "seconds") == 100.0
    # 10/1, 40/2, 20/4: the median is 10, where the ratio of medians would be 6.7
    assert found.ratio("24", "nnunet", "ours", "seconds") == 10.0
    assert found.ratio("24", "ours", "nnunet", "seconds") == pytest.approx(0.1)
    assert found.ratio("24", "nobody", "ours", "seconds") is None
    assert found.median("24", "ours", "nothing") is None
    assert found.largest("24", "nobody", "seconds") is None


@pytest.mark.parametrize(
    ("part", "met", "wanted"),
    [
        (Part("x", 5.0, 4), False, "≤ 4"),
        (Part("x", 4.0, 4), True, "≤ 4"),
        (Part("x", 4.0, 4, at_least=True), True, "≥ 4"),
        (Part("x", 3.9, 4, at_least=True), False, "≥ 4"),
        (Part("x", None, 4), None, "≤ 4"),
    ],
)
def test_a_goal_is_met_at_its_limit(part, met, wanted):
    assert part.met is met
    assert part.wanted == wanted


def filled(folder):
    """Results of every part, with numbers from which goals can be counted."""
    results = Results(folder)
    for case, theirs in (("regions_separate_z", 100.0), ("argmax_trilinear", 60.0)):
        save(results, "export", case, "nnunet", seconds=theirs, extra_mb=7000.0)
        save(results, "export", case, "ours", seconds=1.0, extra_mb=theirs, different=theirs / 1e9)
    save(results, "export_many", "regions", "C14", seconds=1.0, process_mb=500.0)
    save(results, "export_many", "regions", "C117", seconds=2.5, process_mb=2000.0)
    save(results, "input", "24", "nnunet", seconds=8.0, extra_mb=900.0)
    save(results, "input", "24", "ours", seconds=1.0, extra_mb=90.0, largest_difference=0.5)
    costs = {"nnunet": (160.0, 8000.0), competitors.TOTALSEGMENTATOR: (45.0, 3000.0)}
    costs |= {"exact.openvino.fp32": (20.0, 1600.0), "fast.openvino.fp32": (10.0, 1500.0)}
    costs["fast.openvino.bf16"] = (5.0, 2100.0)
    for who, (seconds, mb) in costs.items():
        more = {} if who == "nnunet" else {"different": 1e-4, "mean_dice": 0.99999}
        save(results, "end_to_end", "C14_regions_24", who, seconds=seconds, mb=mb, measure="pss", **more)
    for size, seconds in (("24", 5.0), ("48", 12.0)):
        save(results, "sizes", f"C14_regions_{size}", "fast.openvino", seconds=seconds, mb=100 * seconds, labels=13)
        save(results, "sizes", f"files_{size}", "ours", seconds=seconds / 2, extra_mb=50.0)
    results.write_notes("sizes", ["nnU-Net, C117_regions_48: would take about 90 GB, 20 GB are free"])
    for who, lost in ((REFERENCE, 0.0), ("fast.openvino.bf16", 0.001), ("fast.torch.fp32", 0.0)):
        dice = dict.fromkeys(ORGANS, 0.9)
        dice["pancreas"] -= 12 * lost
        agreement = {"scan": {"mean_dice": 0.98, "different": 1e-3}}
        values = {"seconds": 9.0, "dice": dice, "mean_dice": 0.9 - lost}
        save(results, "accuracy", "real_ct", who, **values, **({"agreement": agreement} if who != REFERENCE else {}))
    results.write_notes("gpu", ["Skipped: PyTorch finds no CUDA device."])
    return results


def test_goals_of_known_results(tmp_path):
    goals = {goal.row: goal for goal in check_goals(filled(tmp_path), "24", "48")}
    numbers = {row: [part.value for part in goal.parts] for row, goal in goals.items()}
    assert list(goals) == list(range(1, 9))
    assert numbers[1] == [60.0, 100.0, pytest.approx(1e-7)]  # the worst of the two cases
    assert numbers[2] == [2000.0, 2.5]
    assert numbers[3] == [8.0, 0.5]
    assert numbers[4] == [8.0, 0.2, 1e-4]
    assert numbers[5] == [16.0, 32.0, 4.5, 2100.0]
    assert numbers[6] == [1200.0, pytest.approx(12 / (2 * 5 + 6))]
    assert numbers[7] == [0.9, pytest.approx(0.1), pytest.approx(1.2)]
    assert numbers[8] == [None, None, None]
    met = {row: [part.met for part in goal.parts] for row, goal in goals.items()}
    assert met[1] == [False, True, True]
    assert met[3] == [True, False]
    assert met[5] == [True, True, False, False]
    assert met[7] == [True, True, False]
    assert met[8] == [None] * 3


def test_report_of_known_results(tmp_path):
    results = filled(tmp_path)
    save(results, "end_to_end", "C14_regions_24", "exact.torch.fp32", problem="exit status 137;\nkilled")
    write_report(results)
    report = (tmp_path / "report.md").read_text()
    assert "| nnUNetv2_predict | 160 | 1× | 8000 | 1× |" in report
    assert "| fast, OpenVINO, fp32 | 10 | 16× | 1500 | 0.188× | 1.0e-04 | 0.99999 | 1 |" in report
    assert "| regions, separate z | 1 | 100 | 100× | 100 | 7000 | 1.0e-07 | 1 |" in report
    # nnU-Net on the main volume comes from whole predictions
    assert "| 14 | 24 | 13 | 5 | 500 | 160 | 8000 |" in report
    assert "| 14 | 48 | 13 | 12 | 1200 |  |  |" in report
    assert "* nnU-Net, C117_regions_48: would take about 90 GB" in report
    assert "* Skipped: PyTorch finds no CUDA device." in report
    assert "* Failed: exact.torch.fp32 on C14_regions_24: exit status 137; killed" in report
    assert "| fast.openvino.bf16 | 0.8990 | +0.10 |" in report
    assert "memory (PSS)" in report
    # one machine is described once
    assert report.count("Python ") == 1
    for picture in re.findall(r"\]\((.*?\.png)\)", report):
        assert (tmp_path / picture).stat().st_size > 1000
    assert "inference.png" in report


def test_report_of_nothing_and_of_one_part(tmp_path):
    assert main(["-o", str(tmp_path), "--report-only"]) == 0
    assert "Nothing is measured yet" in (tmp_path / "report.md").read_text()
    save(Results(tmp_path), "input", "24", "nnunet", seconds=8.0, extra_mb=900.0)
    assert main(["-o", str(tmp_path), "--report-only"]) == 0
    report = (tmp_path / "report.md").read_text()
    assert "| 24 slices |  | 8 |  |  | 900 |  | 0 |" in report
    assert "png" not in report


def test_report_refuses_measurements_without_sizes(tmp_path):
    Results(tmp_path).save(Key("input", "24", "ours", 0), {"preset": "tiny", "threads": 1}, MACHINE, {"seconds": 1.0})
    with pytest.raises(PartialError, match="no sizes"):
        write_report(Results(tmp_path))


def test_machines_of_several_parts_are_told_apart(tmp_path):
    results = Results(tmp_path)
    save(results, "input", "24", "ours", seconds=1.0)
    other = {**MACHINE, "cpu": "another", "gpu": "a GPU"}
    results.save(Key("export", "regions_trilinear", "ours", 0), SETTINGS, other, {"seconds": 1.0})
    write_report(results)
    report = (tmp_path / "report.md").read_text()
    assert "* export of labels: " in report and "another" in report and "GPU: a GPU." in report
    assert "* resampling of the input: " in report
    assert len(machine_lines([MACHINE, MACHINE, other])) == 2


def test_markdown():
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"


def test_parts_and_rows():
    assert chosen_parts(None) == list(PARTS)
    assert chosen_parts(["5", "1", "end_to_end"]) == ["export", "end_to_end"]
    assert set(ROWS.values()) == set(PARTS)
    assert sorted(ROWS) == [str(number) for number in range(1, 9)]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--sizes", "7"], "--sizes"),
        (["--runs", "0"], "--runs"),
        (["--threads", "0"], "--threads"),
        (["--classes", "1"], "--classes"),
        (["--iterations", "0"], "--iterations"),
    ],
)
def test_wrong_arguments_end_with_one_message(tmp_path, capsys, arguments, named):
    assert main(["-o", str(tmp_path / "out"), "--preset", "tiny", *arguments]) == 1
    assert named in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_parts_without_data_or_device_are_skipped_with_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("NNUNET_PARTIAL_REAL_DATA", str(tmp_path))
    monkeypatch.setattr("tests.bench.inference.gpu.find_gpu", lambda: None)
    assert carry_out(bench(tmp_path / "out"), ["accuracy", "gpu"]) == []
    results = Results(tmp_path / "out")
    assert "NNUNET_PARTIAL_REAL_DATA" in results.notes("accuracy")[0]
    assert "CUDA" in results.notes("gpu")[0]


def test_a_part_from_the_command_line(tmp_path, monkeypatch, capsys):
    grids = {size: Grid((12, 24, 24), (5.0, 4.0, 4.0)) for size in TINY.volumes}
    monkeypatch.setitem(PRESETS, "tiny", replace(TINY, volumes=grids))
    arguments = ["-o", str(tmp_path), "--preset", "tiny", "--only", "2", "--threads", "1"]
    assert main([*arguments, "--runs", "1"]) == 0
    files = sorted(path.name for path in (tmp_path / "runs" / "export_many").iterdir())
    assert len(files) == 4
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs" / "export_many").iterdir()}
    first = (tmp_path / "report.md").read_text()
    assert "| regions | 117 |" in first
    assert main([*arguments, "--runs", "1"]) == 0
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    capsys.readouterr()
    monkeypatch.setitem(PRESETS, "tiny", replace(TINY, volumes={**grids, "24": Grid((13, 24, 24), (5.0, 4.0, 4.0))}))
    assert main([*arguments, "--runs", "1"]) == 1
    assert "other settings (volumes)" in capsys.readouterr().err


def test_a_failure_ends_with_exit_status_1_after_the_report(tmp_path, monkeypatch, capsys):
    def fails(bench, iterations):
        raised = Task("input", "24", "ours", lambda: (_ for _ in ()).throw(PartialError("it fell")))
        return run_rounds(bench.results, [raised], 1, bench.settings("input"))

    monkeypatch.setitem(parts._PARTS, "input", fails)
    assert main(["-o", str(tmp_path), "--preset", "tiny", "--only", "input"]) == 1
    assert "it fell" in capsys.readouterr().err
    assert "Failed: ours on 24: it fell" in (tmp_path / "report.md").read_text()


def test_dice_of_organs_of_the_reference_only():
    reference = consecutive(np.array([[0, 1, 1, 3], [13, 10, 0, 0]]))
    assert reference.tolist() == [[0, 1, 1, 3], [12, 0, 0, 0]]
    found = np.array([[0, 1, 0, 3], [12, 12, 5, 0]])
    scores = accuracy.organ_scores(reference, found)
    assert scores == {"liver": pytest.approx(2 / 3), "spleen": 1.0, "kidney_left": pytest.approx(2 / 3)}
