"""Peak memory of one training iteration above that of the trainer and its batch (Linux).

python -m tests.bench.iteration_memory TRAINER
"""

from __future__ import annotations

import sys

import torch

from tests.bench.iteration_case import make_trainer
from tests.bench.measure import peak_growth_megabytes


def main() -> None:
    """Prints the growth in MB, in the second iteration, when gradients and momentum exist."""
    torch.set_num_threads(1)
    trainer = make_trainer(sys.argv[1])
    batch = next(trainer.get_dataloaders()[0])
    trainer.train_step(batch)
    print(peak_growth_megabytes(lambda: trainer.train_step(batch)))


if __name__ == "__main__":
    main()
