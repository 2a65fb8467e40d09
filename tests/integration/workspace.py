"""A merged, planned and preprocessed phantom dataset, small enough to train on in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from nnunet_partial.demo.phantom_demo import MERGE_FILE
from nnunet_partial.demo.pipeline import NetworkSize, Pipeline
from nnunet_partial.phantoms import PROTOCOLS, write_source

DATASET_ID = 900
PHANTOM: dict[str, Any] = {"shape": (36, 32, 32), "spacing_mm": (9.0, 9.0, 9.0)}
SIZE = NetworkSize(patch_size=(32, 32, 32), features=(4, 8, 8), epochs=2, iterations=3, val_iterations=2)
LOOKED_AT = (17, 18)
"""Axial slices that were looked at in the cases of the source 'sparse'; all others have nnU-Net's ignore label."""
_SOURCES = (
    ("liver", 901, "Liver", range(0, 5)),
    ("organs", 902, "Organs", range(100, 105)),
    ("kidneys_sided", 903, "Sided", range(200, 204)),
    ("kidneys", 904, "Kidneys", range(300, 302)),
    ("unlabelled", 905, "Scans", range(400, 402)),
    ("organs", 906, "Sparse", range(500, 502)),
)
_SPARSE = """\
  sparse:                                 # two slices a case
    dataset: Dataset906_Sparse
    labels: {liver: liver, spleen: spleen, pancreas: pancreas}
"""


def build(folder: Path) -> tuple[Pipeline, Path]:
    """Runs merge, verify and the stock planning and preprocessing; returns the pipeline and the merged dataset."""
    pipeline = Pipeline(folder)
    for protocol, dataset_id, name, seeds in _SOURCES:
        written = write_source(pipeline.raw, dataset_id, PROTOCOLS[protocol], seeds, name=name, **PHANTOM)
        if name == "Sparse":
            _ignore_other_slices(written)
    merged = pipeline.merge(MERGE_FILE + _SPARSE, DATASET_ID)
    pipeline.plan_and_preprocess(merged, DATASET_ID, SIZE, "2d")
    return pipeline, merged


def _ignore_other_slices(dataset: Path) -> None:
    description = json.loads((dataset / "dataset.json").read_text())
    ignore = len(description["labels"])
    description["labels"]["ignore"] = ignore
    (dataset / "dataset.json").write_text(json.dumps(description))
    for path in (dataset / "labelsTr").iterdir():
        image = nib.load(path)
        labels = np.asarray(image.dataobj).copy()
        labels[:, :, [z for z in range(labels.shape[2]) if z not in LOOKED_AT]] = ignore
        nib.save(nib.Nifti1Image(labels, image.affine), path)
