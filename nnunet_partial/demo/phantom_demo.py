"""The demo: four partly labelled sources and some unlabelled scans of phantoms become one network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from nnunet_partial.atomic import write_json
from nnunet_partial.demo.pipeline import NetworkSize, Pipeline
from nnunet_partial.labels import load_dataset_json
from nnunet_partial.labels.merge_file import MergeFile
from nnunet_partial.phantoms import PROTOCOLS, PhantomOptions, write_source, write_test_cases
from nnunet_partial.process_limits import processors
from nnunet_partial.volumes import read_label_map, read_volume

__all__ = ["DEMO_SIZE", "MERGE_FILE", "run_phantom_demo"]

DATASET_ID = 900
TRAINER = "PartialLabelTrainer"
DEMO_SIZE = NetworkSize(patch_size=(32, 40, 48), features=(12, 24, 48, 64), epochs=9, iterations=50)
PHANTOM: PhantomOptions = {"shape": (60, 48, 40), "spacing_mm": (5.5, 5.5, 5.5)}

MERGE_FILE = """\
name: PhantomAbdomen
classes:
  liver: [liver_tissue, liver_tumour]     # a class is a set of atoms; classes may overlap
  liver_tumour:
  spleen:
  pancreas:
  kidney_left:
  kidney_right:
  aorta:
sources:
  lits:                                   # organ without its tumour, and the tumour
    dataset: Dataset901_Liver
    labels: {liver: liver_tissue, cancer: liver_tumour}
  organs:                                 # the liver includes any tumour; nobody looked for tumours
    dataset: Dataset902_Organs
    labels: {liver: liver, spleen: spleen, pancreas: pancreas}
  sided:
    dataset: Dataset903_Sided
    labels: {kidney_left: kidney_left, kidney_right: kidney_right, aorta: aorta}
  kidneys:                                # one label for both kidneys: the side is unknown
    dataset: Dataset904_Kidneys
    labels: {kidney: [kidney_left, kidney_right]}
  scans:                                  # no labels at all
    dataset: Dataset905_Scans
"""

_SOURCES = (
    ("liver", 901, "Liver", range(0, 9)),
    ("organs", 902, "Organs", range(100, 109)),
    ("kidneys_sided", 903, "Sided", range(200, 209)),
    ("kidneys", 904, "Kidneys", range(300, 304)),
    ("unlabelled", 905, "Scans", range(400, 402)),
)
_HELD_OUT = range(500, 506)


def run_phantom_demo(
    folder: Path,
    *,
    device: str = "cpu",
    size: NetworkSize = DEMO_SIZE,
    processes: int | None = None,
    console: Console | None = None,
) -> dict[str, float]:
    """Makes phantoms, merges, plans, preprocesses, trains, predicts held-out phantoms and evaluates them.

    Args:
        folder: Work folder.
        device: 'cpu' or 'cuda'.
        size: Network and training length.
        processes: Worker processes; as many as there are processors by default, at most 4.
        console: Where to print.

    Returns:
        Class name to mean Dice on held-out, fully labelled phantoms.

    Raises:
        PartialError: A step failed.
    """
    console = console or Console()
    pipeline = Pipeline(folder, device, processes or min(4, processors()), console)
    console.print("Phantoms of four partly labelled sources, some unlabelled scans, and held-out test cases")
    for protocol, dataset_id, name, seeds in _SOURCES:
        write_source(pipeline.raw, dataset_id, PROTOCOLS[protocol], seeds, name=name, **PHANTOM)
    test = pipeline.folder / "test"
    write_test_cases(test, _HELD_OUT, PROTOCOLS["everything"], **PHANTOM)
    _describe_by_class(test)
    merged = pipeline.merge(MERGE_FILE, DATASET_ID)
    pipeline.plan_and_preprocess(merged, DATASET_ID, size)
    pipeline.train(DATASET_ID, size, trainer=TRAINER)
    predictions = pipeline.folder / "predictions"
    pipeline.predict(test / "imagesTs", predictions, DATASET_ID, trainer=TRAINER, more=["--disable_tta"])
    dice = pipeline.evaluate(test / "labelsTs", predictions, pipeline.folder / "evaluation")
    picture = pipeline.folder / "overlay.png"
    draw_overlay(test, predictions, f"phantom_{_HELD_OUT[0]:04d}", picture)
    _report(console, pipeline, dice, picture)
    return dice


def _describe_by_class(test: Path) -> None:
    """Names the test labels by the classes of the merge file: the liver is a region of tissue and tumour."""
    content = load_dataset_json(test)
    values = content["labels"]
    space = MergeFile.model_validate(yaml.safe_load(MERGE_FILE)).classes
    content["labels"] = {"background": 0} | {
        name: [values[atom] for atom in entry.atoms or [name]] for name, entry in space.items()
    }
    write_json(test / "labelsTs" / "dataset.json", content)


def draw_overlay(test: Path, predictions: Path, case: str, picture: Path) -> None:
    """Draws reference and prediction of one test case side by side.

    Args:
        test: Folder with imagesTs, labelsTs and dataset.json.
        predictions: Folder of nnUNetv2_predict.
        case: Case identifier.
        picture: PNG to write.
    """
    from nnunet_partial.evaluation import prediction_values, save_overlay, to_ras

    image, geometry = read_volume(test / "imagesTs" / f"{case}_0000.nii.gz")
    turned, spacing_mm = to_ras(image, geometry.affine)
    masks = []
    for folder in (test / "labelsTs", predictions):
        labels, geometry = read_label_map(folder / f"{case}.nii.gz")
        labels, _ = to_ras(labels, geometry.affine)
        values = prediction_values(load_dataset_json(folder))
        masks.append({name: np.isin(labels, sorted(wanted)) for name, wanted in values.items()})
    save_overlay(picture, turned, masks[0], masks[1], spacing_mm=spacing_mm, title=case)


def _report(console: Console, pipeline: Pipeline, dice: dict[str, float], picture: Path) -> None:
    table = Table(title="Dice on held-out phantoms")
    table.add_column("class")
    table.add_column("Dice", justify="right")
    for name, value in dice.items():
        table.add_row(name, f"{value:.3f}")
    table.add_section()
    table.add_row("mean", f"{sum(dice.values()) / len(dice):.3f}")
    console.print(table)
    model = next((pipeline.folder / "results").glob("Dataset*/*__3d_fullres"))
    for what, path in (
        ("picture", picture),
        ("scores by case, class, source and subject", pipeline.folder / "evaluation"),
        ("merge file, to adapt to your datasets", pipeline.folder / "merge.yaml"),
        ("model folder, for nnUNetv2_predict", model),
        ("progress of the training", model / "fold_0" / "progress.png"),
        ("output of every command", pipeline.folder / "logs"),
    ):
        console.print(f"{what}: {path}", markup=False, highlight=False, soft_wrap=True)
    console.print("Next: docs/how-to-different-organs.md, for datasets of your own")
