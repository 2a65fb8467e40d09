"""nnUNetv2_train replaced by a fake that writes the same files, for the tests of the ensemble."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nnunet_partial.ensemble.models import class_folder
from nnunet_partial.labels import partial_labels_of, with_classes, with_region_labels

DATASET = "Dataset100_Abdomen"
MODEL = "PartialLabelTrainerImplicit__nnUNetPlans__3d_fullres"
CLASSES = ["liver", "tumour", "spleen"]


class Stock:
    """Stands for `subprocess.run` with nnUNetv2_train; keeps what it was asked to do.

    Attributes:
        calls: Command lines with the environment, in order.
        fails: (command, class) that fails, with the lines of its output.
        classes_of: Which classes a model has that was told to train one.
    """

    def __init__(self, dataset_json: Path) -> None:
        self.dataset_json = dataset_json
        self.calls: list[SimpleNamespace] = []
        self.fails: dict[tuple[str, str], list[str]] = {}
        self.classes_of: Callable[[str], list[str]] = lambda name: [name]

    @classmethod
    def installed(cls, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Stock:
        """The fake in place of the command, for the merged dataset in `folder/raw`."""
        fake = cls(folder / "raw" / DATASET / "dataset.json")
        monkeypatch.setattr("nnunet_partial.ensemble.models.subprocess.run", fake.run)
        return fake

    @property
    def lines(self) -> list[str]:
        return [" ".join(call.words) for call in self.calls]

    @property
    def classes(self) -> list[str]:
        return [call.env["nnUNet_partial_classes"] for call in self.calls]

    def run(self, words: list[str], *, stdout: Any, stderr: Any, env: dict[str, str], check: bool) -> SimpleNamespace:
        assert not check
        assert stderr == subprocess.STDOUT
        name = env["nnUNet_partial_classes"]
        self.calls.append(SimpleNamespace(words=words, env=env))
        failure = self.fails.get((words[0], name))
        stdout.write("\n".join(failure or ["fine"]) + "\n")
        if not failure:
            self.train(words, env, name)
        return SimpleNamespace(returncode=int(bool(failure)))

    def train(self, words: list[str], env: dict[str, str], name: str) -> None:
        flags = dict(zip(words[4::2], words[5::2], strict=False))
        model = Path(env["nnUNet_results"]) / words[1] / f"{flags['-tr']}__{flags['-p']}__{words[2]}"
        fold = model / f"fold_{words[3]}"
        (fold / "validation").mkdir(parents=True, exist_ok=True)
        content = json.loads(self.dataset_json.read_text())
        labels = with_classes(partial_labels_of(content), self.classes_of(name))
        (model / "dataset.json").write_text(json.dumps(with_region_labels(content, labels)))
        (fold / "checkpoint_final.pth").touch()
        (fold / "checkpoint_latest.pth").unlink(missing_ok=True)
        (fold / "validation" / "summary.json").write_text("{}")


def results(folder: Path, name: str) -> Path:
    return folder / "results" / "one_model_a_class" / class_folder(name)
