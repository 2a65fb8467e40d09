"""Claims on cases: one process at a time, nothing left behind, and processes that come and go at any moment."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_partial.errors import PartialError
from nnunet_partial.inference import claims
from nnunet_partial.inference.claims import claimed, has_locks, reserved

# claims cases time and again; a second holder of one shows as a marker that exists already
HAMMER = """
import os, sys
from pathlib import Path
from nnunet_partial.inference.claims import claimed
output, own, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
held = 0
for number in range(rounds):
    for case in ("shared", f"own_{own}_{number}"):
        with claimed(output, case) as is_mine:
            if is_mine:
                marker = output / f"{case}.held"
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
                held += case == "shared"
                marker.unlink()
            else:
                assert case == "shared"
print(held)
"""


def locked_elsewhere(path: Path) -> bool:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_case_is_one_holders_and_nothing_is_left(tmp_path: Path) -> None:
    with claimed(tmp_path, "a") as first, claimed(tmp_path, "b") as other, claimed(tmp_path, "a") as second:
        assert (first, other, second) == (True, True, False)
        assert locked_elsewhere(tmp_path / ".claims" / "a.lock")
    assert list(tmp_path.iterdir()) == []
    with claimed(tmp_path, "a") as again:
        assert again


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_claim_ends_with_the_block_however_that_ends(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), claimed(tmp_path, "a"):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_a_process_that_was_killed_is_worth_nothing(tmp_path: Path) -> None:
    (tmp_path / ".claims").mkdir()
    (tmp_path / ".claims" / "a.lock").touch()
    with claimed(tmp_path, "a") as is_mine:
        assert is_mine
    assert list(tmp_path.iterdir()) == []


def once_before(function: Callable[..., object], act: Callable[[], object]) -> Callable[..., object]:
    """The function, before whose first call something else happens."""
    left = [act]

    def called(*args: object, **more: object) -> object:
        if left:
            left.pop()()
        return function(*args, **more)

    return called


def test_the_folder_vanishes_before_the_file_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ".claims"
    monkeypatch.setattr(claims.os, "open", once_before(os.open, folder.rmdir))
    with claimed(tmp_path, "a") as is_mine:
        assert is_mine
        assert (folder / "a.lock").exists()


def test_the_file_vanishes_before_it_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".claims" / "a.lock"
    monkeypatch.setattr(claims.fcntl, "flock", once_before(fcntl.flock, path.unlink))
    with claimed(tmp_path, "a") as is_mine:
        assert is_mine
        assert locked_elsewhere(path)


def test_a_lock_on_a_file_that_was_replaced_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, flock = tmp_path / ".claims" / "a.lock", fcntl.flock
    third = []

    def replace() -> None:  # the holder before ends, and somebody else has the case at once
        path.unlink()
        third.append(path.open("w"))
        flock(third[0], fcntl.LOCK_EX | fcntl.LOCK_NB)

    monkeypatch.setattr(claims.fcntl, "flock", once_before(flock, replace))
    with claimed(tmp_path, "a") as is_mine:
        assert not is_mine
    assert path.exists()
    third[0].close()


def descriptors() -> int:
    """Number of open files; 0 where the system does not tell."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("function", ["os.open", "fcntl.flock"])
def test_errors_of_the_system_say_what_is_needed(
    function: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(f"nnunet_partial.inference.claims.{function}", fail)
    before = descriptors()
    with pytest.raises(PartialError, match=rf"a\.lock: the case cannot be claimed \({os.strerror(code)}\)"):
        claimed(tmp_path, "a").__enter__()
    assert descriptors() == before


@pytest.fixture
def lockless(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes locks fail as on a file system without them."""

    def set_up(code: int) -> None:
        def fail(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(claims.fcntl, "flock", fail)

    monkeypatch.setattr(claims, "_lockless", set())
    return set_up


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_once_and_no_case_is_refused(
    code: int, tmp_path: Path, lockless: Callable[[int], None], recwarn: pytest.WarningsRecorder
) -> None:
    lockless(code)
    before = descriptors()
    for case in ("a", "b"):
        with reserved(tmp_path, case) as is_reserved, claimed(tmp_path, case) as is_mine:
            assert is_reserved
            assert is_mine
            assert list(tmp_path.iterdir()) == []
    (warning,) = recwarn
    assert f"{tmp_path}: its file system has no locks ({os.strerror(code)})" in str(warning.message)
    assert "-num_parts" in str(warning.message)
    assert not has_locks(tmp_path)
    assert has_locks(tmp_path / "other")
    assert descriptors() == before


@pytest.mark.parametrize("error", [ValueError, OSError(errno.ENOLCK, "of the block")])
@pytest.mark.parametrize("locks", [True, False])
def test_errors_of_the_block_are_its_own(
    locks: bool, error: object, tmp_path: Path, lockless: Callable[[int], None], recwarn: pytest.WarningsRecorder
) -> None:
    if not locks:
        lockless(errno.ENOLCK)
    for hold in (claimed, reserved):
        with pytest.raises((ValueError, OSError), match=r"of the block|^$"), hold(tmp_path, "a"):
            raise error  # type: ignore[misc]
    assert len(recwarn) == (0 if locks else 1)
    assert list(tmp_path.iterdir()) == []


def test_a_reservation_is_one_processs_and_keeps_nobody_from_a_claim(tmp_path: Path) -> None:
    with reserved(tmp_path, "a") as first, reserved(tmp_path, "a") as second, claimed(tmp_path, "a") as claim:
        assert (first, second, claim) == (True, False, True)
        with reserved(tmp_path, "b") as other:
            assert other
    with claimed(tmp_path, "a"), reserved(tmp_path, "a") as too_late:
        assert not too_late
    assert list(tmp_path.iterdir()) == []


def test_places_where_nothing_can_be_claimed(tmp_path: Path) -> None:
    with pytest.raises(PartialError, match="No such file or directory"), claimed(tmp_path / "missing", "a"):
        pass
    (tmp_path / ".claims").write_text("a file")
    with pytest.raises(PartialError, match="Not a directory"), claimed(tmp_path, "a"):
        pass
    (tmp_path / ".claims").unlink()
    (tmp_path / ".claims").symlink_to("nowhere")
    with pytest.raises(PartialError, match="it vanished 1000 times"), claimed(tmp_path, "a"):
        pass


def test_processes_that_claim_the_same_and_different_cases(tmp_path: Path) -> None:
    rounds = 600
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", HAMMER, str(tmp_path), str(number), str(rounds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    held = 0
    for worker in workers:
        output, errors = worker.communicate(timeout=120)
        assert (worker.returncode, errors) == (0, "")
        held += int(output)
    assert 0 < held <= 2 * rounds
    assert list(tmp_path.iterdir()) == []
