"""A merged, planned and preprocessed phantom dataset, small enough to train on in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunet_partial.demo.phantom_demo import MERGE_FILE
from nnunet_partial.demo.pipeline import NetworkSize, Pipeline
from nnunet_partial.phantoms import PROTOCOLS, write_source

DATASET_ID = 900
PHANTOM: dict[str, Any] = {"shape": (36, 32, 32), "spacing_mm": (9.0, 9.0, 9.0)}
SIZE = NetworkSize(patch_size=(32, 32, 32), features=(4, 8, 8), epochs=2, iterations=3, val_iterations=2)
_SOURCES = (
    ("liver", 901, "Liver", range(0, 5)),
    ("organs", 902, "Organs", range(100, 105)),
    ("kidneys_sided", 903, "Sided", range(200, 204)),
    ("kidneys", 904, "Kidneys", range(300, 302)),
    ("unlabelled", 905, "Scans", range(400, 402)),
)


def build(folder: Path) -> tuple[Pipeline, Path]:
    """Runs merge, verify and the stock planning and preprocessing; returns the pipeline and the merged dataset."""
    pipeline = Pipeline(folder)
    for protocol, dataset_id, name, seeds in _SOURCES:
        write_source(pipeline.raw, dataset_id, PROTOCOLS[protocol], seeds, name=name, **PHANTOM)
    merged = pipeline.merge(MERGE_FILE, DATASET_ID)
    pipeline.plan_and_preprocess(merged, DATASET_ID, SIZE, "2d")
    return pipeline, merged
