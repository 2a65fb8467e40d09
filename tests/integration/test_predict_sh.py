"""The contract of the FLARE challenges: inputs/X_0000.nii.gz -> outputs/X.nii.gz by `sh predict.sh`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.cli import efficiency, predict
from nnunet_partial.inference.model.exported_model import export_model
from tests.documents import ROOT
from tests.unit import tiny_models

SCRIPT = ROOT / "docker" / "predict.sh"
BUILD = ROOT / "tests" / "docker" / "build_in_chroot.sh"
FLARE = ["/bin/bash", "-c", "sh predict.sh"]

STUB = """#!{python}
import pathlib, sys, time
words = sys.argv[1:]
options = dict(zip(words[::2], words[1::2]))
pathlib.Path({folder!r}, "words").write_text("\\n".join(words))
output = pathlib.Path(options["-o"])
for name in ("dataset.json", "prediction.json"):
    (output / name).write_text("{{}}")
for image in pathlib.Path(options["-i"]).glob("*_0000.nii.gz"):
    case = image.name[: -len("_0000.nii.gz")]
    if case not in {unpredicted!r}:
        (output / (case + ".nii.gz")).write_text("labels of " + image.read_text())
time.sleep({seconds})
sys.exit({status})
"""
REAL = """#!{python}
import sys
from nnunet_partial.cli.predict import main
sys.exit(main())
"""


@dataclass
class Container:
    """What the script sees in a container: a work folder with the script, and commands on the PATH."""

    root: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> Path:
        return self.root / "workspace" / "inputs"

    @property
    def outputs(self) -> Path:
        return self.root / "workspace" / "outputs"

    @property
    def model(self) -> Path:
        return self.root / "model"

    def install(self, name: str, text: str) -> None:
        path = self.root / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def stub(self, *, unpredicted: tuple[str, ...] = (), status: int = 0, seconds: float = 0) -> None:
        """Puts something in the place of the command that copies inputs to outputs."""
        text = STUB.format(
            python=f"{sys.executable} -S",
            folder=str(self.root),
            unpredicted=unpredicted,
            status=status,
            seconds=seconds,
        )
        self.install("nnUNetv2_partial_predict", text)

    def environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("NNUNET_PARTIAL_")}
        return {
            **inherited,
            "PATH": os.pathsep.join([str(self.root / "bin"), os.environ["PATH"]]),
            "NNUNET_PARTIAL_INPUTS": str(self.inputs),
            "NNUNET_PARTIAL_OUTPUTS": str(self.outputs),
            "NNUNET_PARTIAL_MODEL": str(self.model),
            **self.variables,
        }

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs the command of the challenges, or another one."""
        return subprocess.run(
            command or FLARE,
            cwd=self.root / "workspace",
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def written(self) -> list[str]:
        """All that lies in outputs, hidden files too."""
        return sorted(path.name for path in self.outputs.iterdir())


@pytest.fixture
def container(tmp_path: Path) -> Container:
    made = Container(tmp_path / "a container")
    for folder in (made.inputs, made.outputs, made.root / "bin"):
        folder.mkdir(parents=True)
    shutil.copy(SCRIPT, made.root / "workspace")
    made.stub()
    return made


def test_names_of_the_contract(container: Container) -> None:
    cases = ["FLARE23Ts_0001", "a scan", "x_0000", "y.1", "-z"]
    for case in cases:
        (container.inputs / f"{case}_0000.nii.gz").write_text(case)
    (container.inputs / "x_0000_0001.nii.gz").write_text("another channel")
    (container.inputs / "notes.txt").write_text("")
    done = container.run()
    assert done.returncode == 0, done.stderr
    assert container.written() == sorted(f"{case}.nii.gz" for case in cases)
    assert all((container.outputs / f"{case}.nii.gz").read_text() == f"labels of {case}" for case in cases)


def test_one_case_as_the_challenges_run_it(container: Container) -> None:
    (container.inputs / "a_0000.nii.gz").write_text("a")
    (container.outputs / "a.nii.gz").write_text("of an earlier run")
    (container.outputs / "b.nii.gz").write_text("of an earlier case")
    assert container.run().returncode == 0
    assert {name: (container.outputs / name).read_text() for name in container.written()} == {
        "a.nii.gz": "labels of a",
        "b.nii.gz": "of an earlier case",
    }


def test_words_that_the_command_is_given(container: Container) -> None:
    (container.inputs / "a_0000.nii.gz").write_text("a")
    container.variables["NNUNET_PARTIAL_DEVICE"] = "cpu"
    assert container.run("sh", "predict.sh", "--threads", "2").returncode == 0
    words = (container.root / "words").read_text().splitlines()
    output = words.pop(words.index("-o") + 1)
    assert Path(output).parent == container.outputs
    assert words == [
        *("-i", str(container.inputs), "-o", "-m", str(container.model)),
        *("--mode", "fast", "-device", "cpu", "--threads", "2"),
    ]
    # which the command understands
    given = predict.build_parser().parse_args([*words[:3], output, *words[3:]])
    assert (given.i, given.m, given.mode, given.device) == (container.inputs, container.model, "fast", "cpu")


def test_a_case_that_fails_is_told_and_the_others_are_kept(container: Container) -> None:
    for case in ("a", "b"):
        (container.inputs / f"{case}_0000.nii.gz").write_text(case)
    container.stub(unpredicted=("a",), status=3)
    done = container.run()
    assert done.returncode == 3
    assert done.stderr == "predict.sh: a: no prediction\n"
    assert container.written() == ["b.nii.gz"]
    # whatever the command says of itself
    container.stub(unpredicted=("a",))
    assert container.run().returncode == 1


def test_folders_that_are_not_mounted(container: Container) -> None:
    done = container.run()
    assert done.returncode == 1
    assert f"{container.inputs}: expected images named CASE_0000.nii.gz, found none" in done.stderr
    (container.inputs / "a_0000.nii.gz").write_text("a")
    container.outputs.rmdir()
    done = container.run()
    assert done.returncode == 1
    assert f"{container.outputs}: no such folder" in done.stderr
    container.inputs.rename(container.root / "elsewhere")
    assert f"{container.inputs}: expected images" in container.run().stderr
    assert not (container.root / "words").exists()


def test_outputs_of_another_user(container: Container) -> None:
    (container.inputs / "a_0000.nii.gz").write_text("a")
    # root may write anywhere
    container.install("mktemp", "#!/bin/sh\necho denied >&2\nexit 1\n")
    done = container.run()
    assert done.returncode == 1
    assert f"{container.outputs}: user {os.getuid()} cannot write there" in done.stderr
    assert not (container.root / "words").exists()


def test_folders_of_the_contract(container: Container) -> None:
    variables = [name for name in container.environment() if name.startswith("NNUNET_PARTIAL_")]
    done = container.run("env", *(word for name in variables for word in ("-u", name)), *FLARE)
    # nothing is mounted here
    assert done.returncode == 1
    assert "predict.sh: /workspace/inputs: expected images" in done.stderr


def test_a_container_that_is_stopped_leaves_nothing(container: Container) -> None:
    (container.inputs / "a_0000.nii.gz").write_text("a")
    container.stub(seconds=60)
    process = subprocess.Popen(
        FLARE, cwd=container.root / "workspace", env=container.environment(), start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(container.outputs.glob(".predict.*/a.nii.gz")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert container.written() == []


def test_its_cost_is_measured(
    container: Container, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for case in ("a", "b"):
        (container.inputs / f"{case}_0000.nii.gz").write_text(case)
    container.stub(unpredicted=("b",))
    for name, value in container.environment().items():
        monkeypatch.setenv(name, value)
    folders = ["env", "NNUNET_PARTIAL_INPUTS={input}", "NNUNET_PARTIAL_OUTPUTS={output}"]
    arguments = ["-i", str(container.inputs), "-o", str(tmp_path / "cost"), "--no_plot", "--"]
    assert efficiency.main([*arguments, *folders, "sh", str(SCRIPT)]) == 1
    assert "1 of 2 cases" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "cost" / "predictions").iterdir()] == ["a.nii.gz"]


def write_images(folder: Path) -> dict[str, np.ndarray]:
    """Two noisy images with affines of their own."""
    affines = {"a scan": np.diag([-1.5, -1.5, 3, 1]), "b": np.diag([1.25, 1.5, 2.5, 1])}
    rng = np.random.default_rng(0)
    for case, affine in affines.items():
        image = rng.integers(-1000, 1000, (20, 18, 12)).astype(np.int16)
        nib.save(nib.Nifti1Image(image, affine), folder / f"{case}_0000.nii.gz")
    return affines


@pytest.fixture
def real(container: Container, tmp_path: Path) -> Container:
    """A container with the command itself and a tiny exported model."""
    pytest.importorskip("openvino")
    export_model(tiny_models.write_model(tmp_path / "trained"), container.model, formats=["openvino"])
    container.install("nnUNetv2_partial_predict", REAL.format(python=sys.executable))
    return container


def test_real_predictions(real: Container, tmp_path: Path) -> None:
    affines = write_images(real.inputs)
    done = real.run()
    assert done.returncode == 0, done.stderr
    assert real.written() == ["a scan.nii.gz", "b.nii.gz"]
    direct = tmp_path / "direct"
    assert predict.main(["-i", str(real.inputs), "-o", str(direct), "-m", str(real.model), "--mode", "fast"]) == 0
    for case, affine in affines.items():
        found, expected = (nib.load(folder / f"{case}.nii.gz") for folder in (real.outputs, direct))
        np.testing.assert_allclose(found.affine, affine)
        np.testing.assert_array_equal(found.dataobj, expected.dataobj)
        assert len(np.unique(found.dataobj)) > 1


def test_a_real_image_that_is_broken(real: Container) -> None:
    write_images(real.inputs)
    (real.inputs / "broken_0000.nii.gz").write_bytes(b"no image")
    done = real.run()
    assert done.returncode == 1
    assert real.written() == ["a scan.nii.gz", "b.nii.gz"]
    assert "broken" in done.stderr


@pytest.fixture
def build_tools() -> None:
    missing = [name for name in ("buildah", "debootstrap", "unshare") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"building the image without Docker needs root and the Debian packages of {missing or 'buildah'}")


@pytest.mark.slow
def test_the_image_is_built_and_predicts_without_a_network(
    real: Container, build_tools: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    write_images(real.inputs)
    built = real.root / "built"
    built.mkdir()
    # any user, who need not be known to the image
    os.chown(built, 1234, 1234)
    work = tmp_path_factory.mktemp("image")
    command = ["sh", str(BUILD), *map(str, (work, real.model, real.inputs, built))]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=3600, check=False
    )
    # gigabytes
    shutil.rmtree(work)
    assert done.returncode == 0, done.stdout[-6000:]
    assert real.run().returncode == 0
    assert sorted(path.name for path in built.iterdir()) == real.written()
    for name in real.written():
        found, expected = (nib.load(folder / name) for folder in (built, real.outputs))
        assert (built / name).stat().st_uid == 1234
        np.testing.assert_allclose(found.affine, expected.affine)
        # another version of OpenVINO may round otherwise
        assert np.mean(np.asarray(found.dataobj) == np.asarray(expected.dataobj)) > 0.99
