"""What the command does with signals."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nnunet_partial.atomic import atomic_path
from nnunet_partial.cli.predict import main
from nnunet_partial.inference.claims import claimed


@pytest.fixture
def outer() -> Iterator[list[int]]:
    """The signals that a handler set before the command gets."""
    caught: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: caught.append(number))
    yield caught
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], int]:
    """The command with a model that needs none, and something else in place of the prediction."""

    def run(act: Callable[[], object]) -> int:
        def predict_folder(*_: Any) -> list[str]:
            act()
            return []

        monkeypatch.setattr("nnunet_partial.inference.predictor.plan_of", lambda *_: SimpleNamespace())
        monkeypatch.setattr("nnunet_partial.inference.folder_prediction.predict_folder", predict_folder)
        return main(["-i", str(tmp_path), "-o", str(tmp_path), "-m", str(tmp_path)])

    return run


def test_sigterm_ends_in_order(command: Callable[..., int], outer: list[int], tmp_path: Path) -> None:
    def stopped_while_writing() -> None:
        with claimed(tmp_path, "a"), atomic_path(tmp_path / "a.nii.gz") as temporary:
            temporary.write_bytes(b"half")
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGTERM)  # impatient schedulers must not interrupt the tidying
            raise AssertionError("went on")

    with pytest.raises(SystemExit) as ended:
        command(stopped_while_writing)
    assert ended.value.code == 143
    assert list(tmp_path.iterdir()) == []
    assert outer == []


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, ValueError])
def test_the_handler_before_is_put_back(
    command: Callable[..., int], outer: list[int], error: type[BaseException] | None
) -> None:
    def act() -> None:
        if error is not None:
            raise error

    if error is ValueError:
        with pytest.raises(ValueError):
            command(act)
    else:
        assert command(act) == (0 if error is None else 130)
    signal.raise_signal(signal.SIGTERM)
    assert outer == [signal.SIGTERM]


def test_the_command_runs_in_a_thread(command: Callable[..., int], outer: list[int]) -> None:
    status: list[int] = []
    thread = threading.Thread(target=lambda: status.append(command(lambda: None)))
    thread.start()
    thread.join()
    assert status == [0]
