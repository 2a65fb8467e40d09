"""The further networks are trained and validated by the trainers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnunet_partial.networks.plan_variants import plan_variant

CUBE = {"patch_size": (32, 32, 32), "batch_size": 1}
SWIN = {"patch_size": (32, 32, 64), "batch_size": 1}
FLAT = {"patch_size": (32, 32), "batch_size": 2}
TRANSFORMER = {"transformer_width": 12, "transformer_layers": 2, "transformer_heads": 3}
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("variant", "trainer", "sizes", "arguments"),
    [
        ("transunet", "PartialLabelTrainerAmbiguity", {**CUBE, "features": (4, 8, 8, 8, 8)}, TRANSFORMER),
        ("mednext-s", "PartialLabelTrainerMarginal", CUBE, {}),
        ("swin-unetr", "PartialLabelTrainer", SWIN, {"feature_size": 12}),
        pytest.param("multitalent-swinunetr", "PartialLabelTrainerMultiTalent", SWIN, {}, marks=SLOW),
        pytest.param("unet-plus-plus", "PartialLabelTrainerSelected", CUBE, {}, marks=SLOW),
        pytest.param("deeplabv3", "PartialLabelTrainerImplicit", FLAT, {}, marks=SLOW),
    ],
)
def test_a_network_trains_and_validates(
    make_trainer: Callable[..., Any],
    nnunet: Path,
    variant: str,
    trainer: str,
    sizes: dict[str, Any],
    arguments: dict[str, Any],
) -> None:
    plans = json.loads((nnunet / "nnUNetPlans.json").read_text())
    configuration = "2d" if variant == "deeplabv3" else "3d_fullres"
    prepared = plans["configurations"][configuration]
    spacing = {} if configuration == "2d" else {"spacing": prepared["spacing"]}
    changed = plan_variant(plans, variant, "tiny", configuration=configuration, **spacing, **sizes)
    changed["configurations"][configuration]["data_identifier"] = prepared["data_identifier"]
    changed["configurations"][configuration]["architecture"]["arch_kwargs"].update(arguments)
    training = make_trainer(trainer, configuration=configuration, plans=changed)
    training.run_training()
    assert math.isfinite(training.logger.get_value("train_losses", step=-1))
    # a bias before a normalisation has no gradient, nor has the head of the lowest resolution, whose weight is 0
    idle = {n for n, p in training.network.named_parameters() if p.grad is None or not p.grad.any()}
    assert not {name for name in idle if not name.endswith("bias")} - {"decoder.seg_layers.0.weight"}
    training.perform_actual_validation()
    summary = json.loads((Path(training.output_folder) / "validation" / "summary.json").read_text())
    cases = json.loads((nnunet / "splits_final.json").read_text())[0]["val"]
    assert len(summary["metric_per_case"]) == len(cases)
