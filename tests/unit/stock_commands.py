"""nnU-Net's commands replaced by fakes that write the same files, for the tests of the ensemble."""

from __future__ import annotations

import json
import pickle
import subprocess
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nnunet_partial.ensemble.models import class_folder
from nnunet_partial.labels import partial_labels_of, with_classes, with_region_labels

DATASET = "Dataset100_Abdomen"
MODEL = "PartialLabelTrainerImplicit__nnUNetPlans__3d_fullres"
SHAPE = (6, 7, 8)  # (z, y, x)
CLASSES = ["liver", "tumour", "spleen"]
PROPERTIES = {
    "sitk_stuff": {"spacing": (2.0, 2.0, 3.0), "origin": (1.0, 2.0, 3.0), "direction": tuple(np.eye(3).ravel())},
    "spacing": [3.0, 2.0, 2.0],
}


def probabilities_of(name: str, case: str) -> np.ndarray:
    seed = zlib.crc32(f"{name}/{case}".encode())
    return (np.random.default_rng(seed).integers(0, 11, (1, *SHAPE)) / 10).astype(np.float32)


class Stock:
    """Stands for `subprocess.run` with nnU-Net's commands; keeps what it was asked to do.

    Attributes:
        calls: Command lines with the environment, in order.
        predicted: (class, case) of every prediction made.
        fails: (command, class) that fails, with the lines of its output.
        channels: Output channels of the models.
        classes_of: Which classes a model has that was told to train one.
    """

    def __init__(self, dataset_json: Path) -> None:
        self.dataset_json = dataset_json
        self.calls: list[SimpleNamespace] = []
        self.predicted: list[tuple[str, str]] = []
        self.fails: dict[tuple[str, str], list[str]] = {}
        self.channels = 1
        self.reader = "SimpleITKIO"
        self.classes_of: Callable[[str], list[str]] = lambda name: [name]

    @classmethod
    def installed(cls, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Stock:
        """The fake in place of the commands, for the merged dataset in `folder/raw`."""
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
            {"nnUNetv2_train": self.train, "nnUNetv2_predict": self.predict}[words[0]](words, env, name)
        return SimpleNamespace(returncode=int(bool(failure)))

    def train(self, words: list[str], env: dict[str, str], name: str) -> None:
        flags = dict(zip(words[4::2], words[5::2], strict=False))
        model = Path(env["nnUNet_results"]) / words[1] / f"{flags['-tr']}__{flags['-p']}__{words[2]}"
        fold = model / f"fold_{words[3]}"
        (fold / "validation").mkdir(parents=True, exist_ok=True)
        content = json.loads(self.dataset_json.read_text())
        labels = with_classes(partial_labels_of(content), self.classes_of(name))
        (model / "dataset.json").write_text(json.dumps(with_region_labels(content, labels)))
        (model / "plans.json").write_text(json.dumps({"image_reader_writer": self.reader}))
        (fold / "checkpoint_final.pth").touch()
        (fold / "checkpoint_latest.pth").unlink(missing_ok=True)
        (fold / "validation" / "summary.json").write_text("{}")

    def predict(self, words: list[str], env: dict[str, str], name: str) -> None:
        flags = dict(pairwise(words))
        assert {"--save_probabilities", "--continue_prediction"} <= set(words)
        output = Path(flags["-o"])
        output.mkdir(parents=True, exist_ok=True)
        ending = json.loads(self.dataset_json.read_text())["file_ending"]
        for image in sorted(Path(flags["-i"]).glob(f"*_0000{ending}")):
            case = image.name[: -len(f"_0000{ending}")]
            if (output / f"{case}{ending}").is_file() and (output / f"{case}.npz").is_file():
                continue
            p = np.concatenate([probabilities_of(name, case)] * self.channels)
            np.savez_compressed(output / f"{case}.npz", probabilities=p)
            (output / f"{case}.pkl").write_bytes(pickle.dumps(PROPERTIES))
            (output / f"{case}{ending}").touch()
            self.predicted.append((name, case))


def results(folder: Path, name: str) -> Path:
    return folder / "results" / "one_model_a_class" / class_folder(name)
