"""Peak memory of one loss, forward and backward, above the logits and targets it is given (Linux).

python -m tests.bench.loss_memory {ours,stock} CLASSES ANNOTATED
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.bench.loss_case import loss_case


def _status(field: str) -> int:
    """A field of /proc/self/status, in kB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    """Prints the growth in MB."""
    which, classes, annotated = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    run = loss_case(classes, annotated)[which]
    # forget the peak of building the inputs
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    run()
    print((_status("VmHWM") - before) / 1024)


if __name__ == "__main__":
    main()
