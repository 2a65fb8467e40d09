"""What the command does with signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nnunet_partial.cli.predict import main


@pytest.fixture
def outer() -> Iterator[Callable[..., None]]:
    """A handler that was set before the command."""

    def handler(number: int, frame: object) -> None:
        raise AssertionError("no signal was sent")

    before = signal.signal(signal.SIGTERM, handler)
    yield handler
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], int]:
    """The command with a model that needs none, and something else in place of the prediction."""

    def run(act: Callable[[], object]) -> int:
        def predict_folder(*_: Any) -> list[str]:
            act()
            return []

        plan = SimpleNamespace(label_values=None, decoding=SimpleNamespace(rivals=None))
        monkeypatch.setattr("nnunet_partial.inference.predictor.plan_of", lambda *_: plan)
        monkeypatch.setattr("nnunet_partial.inference.folder_prediction.predict_folder", predict_folder)
        return main(["-i", str(tmp_path), "-o", str(tmp_path / "out"), "-m", str(tmp_path)])

    return run


STOPPED = """
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

from nnunet_partial.atomic import atomic_path
from nnunet_partial.cli.predict import main
from nnunet_partial.inference import folder_prediction, predictor
from nnunet_partial.inference.claims import claimed

folder = Path(sys.argv[1])


def stopped_while_writing(*_):
    with claimed(folder, "a"), atomic_path(folder / "a.nii.gz") as temporary:
        temporary.write_bytes(b"half")
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)  # impatient schedulers must not interrupt the tidying
        raise AssertionError("went on")


predictor.plan_of = lambda *_: SimpleNamespace(label_values=None, decoding=SimpleNamespace(rivals=None))
folder_prediction.predict_folder = stopped_while_writing
main(["-i", str(folder), "-o", str(folder / "out"), "-m", str(folder)])
"""


def test_sigterm_ends_in_order(tmp_path: Path) -> None:
    """In a process of its own, as the signal would end that of the tests if anything went wrong."""
    ended = subprocess.run([sys.executable, "-c", STOPPED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert ended.returncode == 143, ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, ValueError])
def test_the_handler_before_is_put_back(
    command: Callable[..., int], outer: Callable[..., None], error: type[BaseException] | None
) -> None:
    def act() -> None:
        assert signal.getsignal(signal.SIGTERM) is not outer
        if error is not None:
            raise error

    if error is ValueError:
        with pytest.raises(ValueError):
            command(act)
    else:
        assert command(act) == (0 if error is None else 130)
    assert signal.getsignal(signal.SIGTERM) is outer


def test_the_command_runs_in_a_thread(command: Callable[..., int], outer: Callable[..., None]) -> None:
    status: list[int] = []
    thread = threading.Thread(target=lambda: status.append(command(lambda: None)))
    thread.start()
    thread.join()
    assert status == [0]
    assert signal.getsignal(signal.SIGTERM) is outer
