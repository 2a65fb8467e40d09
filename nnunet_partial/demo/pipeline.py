"""Merge, plan, preprocess, train, predict and evaluate in one work folder, each step as a user would type it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from nnunet_partial.atomic import write_text
from nnunet_partial.errors import PartialError
from nnunet_partial.networks.plan_files import write_plan_variant

__all__ = ["NetworkSize", "Pipeline"]

_PLANS = "nnUNetPlans"
_SMALL_PLANS = "nnUNetPlans_small"
_LOG_TAIL = 25


@dataclass(frozen=True)
class NetworkSize:
    """Size of the network and length of its training, small enough for a CPU.

    Attributes:
        patch_size: Voxels, (z, y, x).
        features: Channels of each stage.
        batch_size: Patches a batch.
        epochs: Epochs.
        iterations: Iterations an epoch.
        val_iterations: Validation iterations an epoch.
        learning_rate: Initial learning rate of AdamW, which needs fewer iterations than nnU-Net's SGD.
    """

    patch_size: tuple[int, ...]
    features: tuple[int, ...]
    batch_size: int = 2
    epochs: int = 10
    iterations: int = 50
    val_iterations: int = 2
    learning_rate: float = 5e-3


@dataclass
class Pipeline:
    """A work folder with nnU-Net's three folders in it, and the commands run there.

    Args:
        folder: Work folder; everything is written below it.
        device: 'cpu' or 'cuda'.
        processes: Worker processes of planning, preprocessing and prediction.
    """

    folder: Path
    device: str = "cpu"
    processes: int = 2
    console: Console = field(default_factory=Console)

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()
        for name in ("raw", "preprocessed", "results", "logs"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def raw(self) -> Path:
        """$nnUNet_raw of the work folder."""
        return self.folder / "raw"

    def environment(self) -> dict[str, str]:
        """Environment of the commands: nnU-Net's folders, our trainers, and what a small CPU run needs."""
        shim = Path(__file__).parents[1] / "nnunet_ext"
        changes = {
            "nnUNet_raw": str(self.raw),
            "nnUNet_preprocessed": str(self.folder / "preprocessed"),
            "nnUNet_results": str(self.folder / "results"),
            "nnUNet_extTrainer": str(shim),
            "nnUNet_n_proc_DA": "1",
            # threads of training and of augmentation share the processors; spinning ones would starve the others
            "OMP_WAIT_POLICY": "PASSIVE",
            "nnUNet_def_n_proc": str(self.processes),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        }
        if self.device == "cpu":
            changes["nnUNet_compile"] = "f"
        return {**os.environ, **changes}

    def run(self, *command: str | Path, settings: Mapping[str, str] | None = None) -> None:
        """Runs one command, its output in a log file; prints the command and how long it took.

        Args:
            *command: The command line.
            settings: Further environment variables; printed with the command.

        Raises:
            PartialError: It failed; the end of its log is in the message.
        """
        words = [str(word) for word in command]
        shown = " ".join([f"{k}={v}" for k, v in (settings or {}).items()] + [shlex.quote(w) for w in words])
        self.console.print(f"$ {shown.replace(str(self.folder), '.')}", markup=False, highlight=False, soft_wrap=True)
        number = len(list((self.folder / "logs").glob("*.log"))) + 1
        log = self.folder / "logs" / f"{number:02d}_{words[0]}.log"
        start = time.monotonic()
        with log.open("w", encoding="utf-8") as file:
            finished = subprocess.run(
                words,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**self.environment(), **(settings or {})},
                cwd=self.folder,
                check=False,
            )
        if finished.returncode != 0:
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL:])
            raise PartialError(f"'{shown}' failed with exit code {finished.returncode}; the end of {log}:\n{tail}")
        self.console.print(f"  done in {time.monotonic() - start:.0f} s", style="dim")

    def merge(self, merge_file: str, dataset_id: int) -> Path:
        """Writes and merges a merge file, verifies the result; returns the merged raw dataset."""
        path = self.folder / "merge.yaml"
        write_text(path, merge_file)
        self.run("nnUNetv2_partial_merge", path, "-d", str(dataset_id))
        self.run("nnUNetv2_partial_verify", "-d", str(dataset_id))
        return next(self.raw.glob(f"Dataset{dataset_id:03d}_*"))

    def plan_and_preprocess(self, dataset: Path, dataset_id: int, size: NetworkSize, *more: str) -> None:
        """Plans and preprocesses 3d_fullres and `more` configurations, then writes plans with a small network."""
        processes = str(self.processes)
        self.run(
            *("nnUNetv2_plan_and_preprocess", "-d", str(dataset_id), "-c", "3d_fullres", *more),
            *("--verify_dataset_integrity", "-npfp", processes, "-np", processes),
        )
        write_plan_variant(
            self.folder / "preprocessed" / dataset.name,
            "small",
            _SMALL_PLANS,
            plans_name=_PLANS,
            overwrite=True,
            patch_size=size.patch_size,
            batch_size=size.batch_size,
            features=size.features,
        )

    def train(
        self, dataset_id: int, size: NetworkSize, *, trainer: str, fold: str = "0", more: Sequence[str] = ()
    ) -> None:
        """Trains one fold with nnUNetv2_train."""
        settings = {
            "nnUNet_partial_epochs": str(size.epochs),
            "nnUNet_partial_iterations": str(size.iterations),
            "nnUNet_partial_val_iterations": str(size.val_iterations),
            "nnUNet_partial_optimizer": "adamw",
            "nnUNet_partial_learning_rate": str(size.learning_rate),
        }
        self.run(
            *("nnUNetv2_train", str(dataset_id), "3d_fullres", fold, "-tr", trainer, "-p", _SMALL_PLANS),
            *("-device", self.device, *more),
            settings=settings,
        )

    def predict(
        self, images: Path, output: Path, dataset_id: int, *, trainer: str, fold: str = "0", more: Sequence[str] = ()
    ) -> None:
        """Predicts a folder of images with stock nnUNetv2_predict."""
        self.run(
            *("nnUNetv2_predict", "-i", images, "-o", output, "-d", str(dataset_id), "-c", "3d_fullres", "-f", fold),
            *("-tr", trainer, "-p", _SMALL_PLANS, "-device", self.device, "-npp", "1", "-nps", "1", *more),
        )

    def evaluate(self, references: Path, predictions: Path, output: Path, *more: str) -> dict[str, float]:
        """Evaluates predictions; returns class name to mean Dice."""
        self.run("nnUNetv2_partial_evaluate", "-ref", references, "-pred", predictions, "-o", output, *more)
        summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
        return {summary["classes"][key]: means["Dice"] for key, means in summary["mean"].items()}
