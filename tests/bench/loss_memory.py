"""Peak memory of one loss, forward and backward, above the logits and targets it is given.

python -m tests.bench.loss_memory {ours,stock} CLASSES ANNOTATED
"""

from __future__ import annotations

import resource
import sys

from tests.bench.loss_case import loss_case


def peak_kilobytes() -> int:
    """Largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Prints the growth in MB."""
    which, classes, annotated = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    run = loss_case(classes, annotated)[which]
    before = peak_kilobytes()
    run()
    print((peak_kilobytes() - before) / 1024)


if __name__ == "__main__":
    main()
