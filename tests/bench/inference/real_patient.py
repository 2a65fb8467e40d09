"""A network trained on one patient's CT, and the real scans that it predicts.

One patient's CT has labels of twelve organs. The network sees nothing else, and knows this patient by heart.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from nnunet_partial.atomic import write_json
from nnunet_partial.errors import PartialError
from tests.bench.inference.bench import Bench
from tests.bench.inference.competitors import exported_formats
from tests.bench.inference.models import TRAINER, export_folder, write_model
from tests.bench.inference.plans import CONFIGURATION, PLANS, make_dataset_json, make_plans
from tests.bench.inference.training import Patients, fit, intensity_statistics
from tests.integration.real_ct import real_data_folder

__all__ = ["DATASET", "LABELLED", "ORGANS", "RealModel", "missing_data", "prepare_real_model"]

LABELLED = "abdomen_a"
ORGANS: dict[str, int] = {
    "liver": 1,
    "kidney_right": 2,
    "spleen": 3,
    "pancreas": 4,
    "aorta": 5,
    "inferior_vena_cava": 6,
    "adrenal_gland_right": 7,
    "adrenal_gland_left": 8,
    "gallbladder": 9,
    "stomach": 11,
    "duodenum": 12,
    "kidney_left": 13,
}
"""Organs and their values in the label map of the labelled patient (FLARE22 ids)."""
DATASET = "Dataset900_RealCT"
"""Name of the dataset that the model belongs to."""

_READER = "NibabelIOWithReorient"  # the scans lie in several orientations


@dataclass(frozen=True)
class RealModel:
    """Files of the model.

    Attributes:
        folder: Where all of them lie.
    """

    folder: Path

    @property
    def exported(self) -> Path:
        """What nnUNetv2_partial_export wrote."""
        return self.folder / "exported"

    @property
    def images(self) -> Path:
        """Scans to predict."""
        return self.folder / "test"

    @property
    def truth(self) -> Path:
        """Labels of the labelled scan, values 1 to 12 in the order of `ORGANS`."""
        return self.folder / "truth.nii.gz"

    @property
    def predictions(self) -> Path:
        """A folder for each who predicted."""
        return self.folder / "predictions"


def missing_data() -> str:
    """What is missing of the real volumes; empty where they are there."""
    path = real_data_folder() / LABELLED / "labels_flare13_reader1.nii.gz"
    return "" if path.is_file() else f"no file {path}; set NNUNET_PARTIAL_REAL_DATA"


def consecutive(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Label values as nnU-Net wants them, without gaps, in the order of `ORGANS`.

    Args:
        values: As `ORGANS` has them; others become 0.
    """
    labels = np.zeros(values.shape, np.uint8)
    for number, value in enumerate(ORGANS.values(), start=1):
        labels[values == value] = number
    return labels


def _write_scans(model: RealModel) -> None:
    """Writes the images to predict, and the labels of the labelled one."""
    data = real_data_folder()
    model.images.mkdir(parents=True)
    drawn = nib.load(data / LABELLED / "labels_flare13_reader1.nii.gz")
    nib.save(nib.Nifti1Image(consecutive(np.asarray(drawn.dataobj)), drawn.affine), model.truth)
    shutil.copyfile(data / LABELLED / "ct.nii.gz", model.images / f"{LABELLED}_0000.nii.gz")
    for path in sorted((data / "crlm").glob("*_ct.nii.gz")):
        shutil.copyfile(path, model.images / path.name.replace("_ct.nii.gz", "_0000.nii.gz"))


def _labelled_scan(model: RealModel) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Image and labels as nnU-Net reads them, (Z, Y, X)."""
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient

    image, _ = NibabelIOWithReorient().read_images([str(model.images / f"{LABELLED}_0000.nii.gz")])
    labels, _ = NibabelIOWithReorient().read_seg(str(model.truth))
    return image[0].astype(np.float32), labels[0].astype(np.uint8)


def prepare_real_model(bench: Bench, iterations: int | None) -> RealModel:
    """Trains the network and exports it; what is there already stays.

    Args:
        bench: The benchmark.
        iterations: Of each phase of the training at most; None for the preset's.

    Raises:
        PartialError: The network that is there was trained otherwise, or the export failed.
    """
    size = bench.preset.accuracy
    if iterations is not None:
        size = replace(size, phases=tuple(replace(p, iterations=min(p.iterations, iterations)) for p in size.phases))
    settings = replace(bench.preset, accuracy=size).settings()["accuracy"]
    model = RealModel(bench.folder / "accuracy")
    done = model.folder / "trained.json"
    if done.is_file():
        if (found := json.loads(done.read_text(encoding="utf-8"))) != settings:
            raise PartialError(
                f"{done}: the network was trained with {found}, now it is {settings}; delete {model.folder} and "
                f"{bench.folder / 'runs' / 'accuracy'}, or choose another output folder"
            )
        return model
    shutil.rmtree(model.folder, ignore_errors=True)  # what an interrupted training left
    _write_scans(model)
    print("training the network on a real scan", file=sys.stderr)
    scans = [_labelled_scan(model)]
    plans = make_plans(size.network, intensity_statistics(scans))
    plans["image_reader_writer"] = _READER
    network = fit(plans, Patients.of(scans, len(ORGANS)), size.phases, bench.threads).cpu()
    dataset_json = {**make_dataset_json(list(ORGANS), "regions"), "overwrite_image_reader_writer": _READER}
    target = bench.folder / "models" / "results" / DATASET / f"{TRAINER}__{PLANS}__{CONFIGURATION}"
    write_model(target, plans, dataset_json, network)
    export_folder(bench, target, model.exported, exported_formats(), "real_ct")
    write_json(done, settings)
    return model
