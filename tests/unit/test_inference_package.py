"""The short way to import prediction, and what a command line must not import."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

import nnunet_partial.inference
from nnunet_partial.cli.model_arguments import add_model
from nnunet_partial.inference import predictor


def test_names_of_the_package_are_those_of_the_module():
    from nnunet_partial.inference import Prediction, Predictor, open_predictor

    assert (Prediction, Predictor, open_predictor) == (
        predictor.Prediction,
        predictor.Predictor,
        predictor.open_predictor,
    )
    with pytest.raises(AttributeError, match=r"nnunet_partial\.inference.*'nothing'"):
        _ = nnunet_partial.inference.nothing


def test_neither_help_nor_the_package_imports_pytorch():
    code = """
import sys
from nnunet_partial.cli.predict import main
from nnunet_partial.inference import Predictor, open_predictor
try:
    main(["--help"])
except SystemExit as end:
    assert not end.code
assert "torch" not in sys.modules
assert "nnunetv2" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--trust_checkpoint" in done.stdout


@pytest.mark.parametrize("flag", ["--trust_checkpoint", "--trust-checkpoint"])
def test_both_spellings_of_trust_checkpoint(flag):
    parser = argparse.ArgumentParser()
    add_model(parser)
    assert parser.parse_args([flag]).trust_checkpoint
    assert not parser.parse_args([]).trust_checkpoint
