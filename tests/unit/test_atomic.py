"""Files that are either whole or not there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_partial.atomic import (
    atomic_folder,
    atomic_path,
    leftovers,
    remove_leftover,
    write_json,
    write_text,
)

WRITER = """
import os, sys
from pathlib import Path
from nnunet_partial.atomic import write_json
os.getpid = lambda: 7  # as in two containers
folder = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(300):
    write_json(folder / "x.json", [int(sys.argv[2])] * 500)
"""


def test_the_temporary_name_is_hidden_and_keeps_name_and_ending(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "new" / "case_1.nii.gz") as temporary:
        # what removes leftovers of a killed run looks for this pattern
        assert re.fullmatch(r"\.\d+\.case_1\.nii\.gz", temporary.name)
        assert temporary.parent == tmp_path / "new"
        temporary.write_bytes(b"whole")
        assert not (tmp_path / "new" / "case_1.nii.gz").exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["case_1.nii.gz"]


def test_two_writers_of_one_target_have_different_files(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x") as one, atomic_path(tmp_path / "x") as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "x").read_text() == "one"
    with atomic_folder(tmp_path / "d") as one, atomic_folder(tmp_path / "d") as other:
        (one / "one").touch()
        (other / "other").touch()
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["one"]
    assert {path.name for path in tmp_path.iterdir()} == {"x", "d"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    write_text(tmp_path / "x", "before")
    with pytest.raises(error), atomic_path(tmp_path / "x") as temporary:
        temporary.write_text("half")
        raise error
    with pytest.raises(error), atomic_folder(tmp_path / "d") as folder:
        (folder / "half").touch()
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "before"


def test_leftovers_of_killed_writers(tmp_path: Path) -> None:
    assert leftovers(tmp_path / "missing") == {}
    kept = {"x", ".x", ".123.x", ".hidden", ".0000000000000000.", "d", "y"}
    for name in kept - {"d"}:
        (tmp_path / name).touch()
    with atomic_path(tmp_path / "x") as file, atomic_folder(tmp_path / "d") as folder, atomic_path(tmp_path / "y") as y:
        y.touch()
        file.touch()
        assert leftovers(tmp_path) == {"x": [file], "d": [folder], "y": [y]}
    assert leftovers(tmp_path) == {}
    # as a process leaves them that is killed
    folder.mkdir()
    (folder / "inside").mkdir()
    file.touch()
    for paths in leftovers(tmp_path).values():
        for path in paths:
            remove_leftover(path)
            remove_leftover(path)  # gone, for somebody else was first
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_folder_replaces_the_one_before(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with atomic_folder(tmp_path / "d") as folder:
            (folder / name).touch()
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_processes_of_one_number_do_not_clash(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:  # at the same time
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert (writer.returncode, errors) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert json.loads((tmp_path / "x.json").read_text()) in ([0] * 500, [1] * 500)


def test_json_is_as_given(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": 1, "a": "ä"})
    assert (tmp_path / "x.json").read_text("utf-8") == '{\n  "b": 1,\n  "a": "ä"\n}\n'
