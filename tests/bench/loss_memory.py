"""Peak memory of one loss, forward and backward, above the logits and targets it is given (Linux).

python -m tests.bench.loss_memory {ours,stock} CLASSES ANNOTATED
"""

from __future__ import annotations

import sys

from tests.bench.loss_case import loss_case
from tests.bench.measure import peak_growth_megabytes


def main() -> None:
    """Prints the growth in MB."""
    which, classes, annotated = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    print(peak_growth_megabytes(loss_case(classes, annotated)[which]))


if __name__ == "__main__":
    main()
