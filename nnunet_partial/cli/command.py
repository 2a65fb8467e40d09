"""What all commands share: how errors reach the user, and `--version`."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.text import Text

from nnunet_partial import __version__
from nnunet_partial.errors import PartialError
from nnunet_partial.parallel import default_processes

__all__ = ["add_processes", "add_version", "ended_in_order", "output_console", "run_command"]

_INTERRUPTED = 130  # what a shell reports for a process ended by Ctrl+C
_FILE_COLUMNS = 200


def add_version(parser: argparse.ArgumentParser) -> None:
    """Adds `--version`, which prints the version of nnunet_partial and exits."""
    parser.add_argument("--version", action="version", version=f"nnunet_partial {__version__}")


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Adds nnU-Net's `-np`, the number of worker processes."""
    parser.add_argument(
        "-np", type=int, default=default_processes(), metavar="N", help="worker processes (default: %(default)s)"
    )


def output_console() -> Console:
    """Standard output as tables want it: as wide as the terminal, and wide where it goes to a file."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_FILE_COLUMNS)


def run_command(function: Callable[[], int]) -> int:
    """Runs the body of a command and turns errors that a user can act on into a message.

    Args:
        function: The body; returns the exit status.

    Returns:
        What the body returned; 1 after a `PartialError`, whose message goes to standard error; 130 after Ctrl+C.
        Any other exception is a defect of ours and keeps its traceback.
    """
    try:
        return function()
    except PartialError as error:
        # as plain text: file names hold brackets, which rich would take for markup
        Console(stderr=True, highlight=False).print(Text(f"error: {error}"), soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Makes SIGTERM, which schedulers send at a job's time limit, leave no unfinished files and no claims behind.

    Raises:
        SystemExit: With the status that a shell reports for that signal, 143.
    """

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not interrupt the tidying
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # Python allows handlers there only
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        # None: a handler that was not set by Python, and cannot be set by it either
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
