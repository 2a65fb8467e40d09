"""What is to be trained, and training it in processes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from nnunet_partial.errors import PartialError, ProblemsError
from nnunet_partial.parallel import for_each_case
from nnunet_partial.training.recipe import SAMPLINGS
from tests.bench.methods.methods import METHODS
from tests.bench.methods.presets import Preset
from tests.bench.methods.real_collection import missing_files
from tests.bench.methods.results import Results, RunKey
from tests.bench.methods.run import Job, execute, settings_of

__all__ = ["execute_all", "planned"]

_USUAL_SAMPLING = "cmd_anywhere"
_SAMPLED_METHODS = ("shared", "ambiguity")
# positive weights are counted in whole volumes: they fit patches that lie anywhere
_OTHER_PAIRS = (("implicit", "uniform"), ("implicit_masked", "uniform"))
# of frames a patch is the whole, where samplings hardly differ; single kinds compare methods only
_ALL_SAMPLINGS = ("phantoms", "real")
_SAMPLINGS = ("multitalent", "uniform", "mdc", "cmd", "cmd_anywhere")


def _refuse_unknown(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise PartialError(f"{what}: expected some of {', '.join(known)}, found {', '.join(unknown)}")


def planned(
    collections: Sequence[str], methods: Sequence[str] | None, samplings: Sequence[str] | None, seeds: Sequence[int]
) -> list[RunKey]:
    """All trainings of a benchmark, seed by seed, so that an early report compares all methods.

    Args:
        collections: Names of collections; 'real' is left out, with a message, where its files are missing.
        methods: Names of methods; None for all.
        samplings: Samplings of each of them; None for the default trainer's, and on volumes more of some methods.
        seeds: Seeds.

    Raises:
        PartialError: A name is unknown.
    """
    chosen = list(METHODS) if methods is None else list(dict.fromkeys(methods))
    _refuse_unknown("--methods", chosen, list(METHODS))
    _refuse_unknown("--sampling", samplings or (), list(SAMPLINGS))
    used = list(collections)
    if "real" in used and (missing := missing_files()):
        print(f"collection 'real' is skipped: no file {missing[0]}; set NNUNET_PARTIAL_REAL_DATA", file=sys.stderr)
        used.remove("real")
    return [
        RunKey(name, *pair, seed)
        for name in used
        for seed in dict.fromkeys(seeds)
        for pair in _pairs(chosen, samplings or (None if name in _ALL_SAMPLINGS else (_USUAL_SAMPLING,)))
    ]


def _pairs(methods: Sequence[str], samplings: Sequence[str] | None) -> list[tuple[str, str]]:
    """Methods and their samplings."""
    pairs = [
        (method, sampling)
        for method in methods
        for sampling in samplings or (_SAMPLINGS if method in _SAMPLED_METHODS else (_USUAL_SAMPLING,))
    ]
    return pairs + [pair for pair in _OTHER_PAIRS if samplings is None and pair[0] in methods]


def execute_all(keys: Sequence[RunKey], presets: Mapping[str, Preset], folder: Path, device: str, jobs: int) -> None:
    """Trains what is not finished yet.

    Args:
        keys: What to train.
        presets: Collection to its sizes.
        folder: Output folder.
        device: 'cpu' or 'cuda'.
        jobs: Processes.

    Raises:
        PartialError: Finished trainings have other settings, there is no such device, or trainings failed.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise PartialError("no CUDA device was found; choose --device cpu")
    results = Results(folder)
    open_keys = [
        key for key in keys if not results.is_finished(key, settings_of(key.collection, presets[key.collection]))
    ]
    first_seed = min((key.seed for key in keys), default=0)
    work = [
        Job(key, presets[key.collection], folder, device, keeps_picture=key.seed == first_seed) for key in open_keys
    ]
    print(f"{len(keys) - len(work)} trainings are finished, {len(work)} to go", file=sys.stderr)
    _, problems = for_each_case(execute, work, processes=jobs, description="training")
    if problems:
        raise ProblemsError("benchmark of methods", problems)
