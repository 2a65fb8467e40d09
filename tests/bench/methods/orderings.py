"""Orderings of methods that were published, and whether the benchmark finds them too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.bench.methods.comparison import MeanSpread, Verdict, paired_verdict
from tests.bench.methods.methods import SAMPLING_TITLES
from tests.bench.methods.results import RunKey

__all__ = ["ORDERINGS", "CheckedOrdering", "Ordering", "Score", "checked", "score_of"]

MEAN, FOCUS = "mean", "focus"


@dataclass(frozen=True)
class Score:
    """A number of the benchmark.

    Attributes:
        method: One of METHODS.
        sampling: One of SAMPLINGS; '' where any will do, as long as both sides have the same.
        decoding: 'threshold' or 'argmax'.
        target: 'mean' Dice of all classes, the same of the structure that each frame looks at ('focus'), or a class.
    """

    method: str
    sampling: str = ""
    decoding: str = "threshold"
    target: str = MEAN


@dataclass(frozen=True)
class Ordering:
    """One published 'this is better than that'.

    Attributes:
        claim: What was found.
        source: Paper and table.
        published: The published figures, Dice.
        better: What corresponds to the better one here.
        worse: What corresponds to the other one.
        collections: Where it is looked for.
    """

    claim: str
    source: str
    published: str
    better: Score
    worse: Score
    collections: tuple[str, ...] = ("phantoms", "real")


@dataclass(frozen=True)
class CheckedOrdering:
    """An ordering and what was found.

    Attributes:
        ordering: The ordering.
        sampling: The sampling of both sides; '' where the ordering compares samplings, or nothing was measured.
        difference: Paired differences of Dice.
        error: Standard error of their mean.
        verdict: What follows.
    """

    ordering: Ordering
    sampling: str
    difference: MeanSpread
    error: float
    verdict: Verdict


_JENKE, _CHEN = "Jenke et al. 2024", "Chen et al. 2024"
_ZHU, _ULRICH = "Zhu et al. 2023", "Ulrich et al. 2023"
_TUMOUR = "liver_tumour"


def _jenke(target: str, collections: tuple[str, ...]) -> tuple[Ordering, ...]:
    """What Jenke et al. found on frames of one structure each."""
    implicit = Score("implicit", decoding="argmax", target=target)
    masked = Score("implicit_masked", decoding="argmax", target=target)
    apart, merged = (Score("per_class", decoding=d, target=target) for d in ("threshold", "argmax"))
    found = (
        ("implicit labels > masking only", "Table 3", "0.723 > 0.706", implicit, masked),
        ("implicit labels > one model a class, after argmax", "Table 1", "0.723 > 0.679", implicit, merged),
        ("one model a class, before argmax > implicit labels", "Table 3", "0.740 > 0.723", apart, implicit),
        ("one model a class: before argmax > after", "Tables 1 and 3", "0.740 > 0.679", apart, merged),
    )
    return tuple(
        Ordering(claim, f"{_JENKE}, {table}", published, better, worse, collections)
        for claim, table, published, better, worse in found
    )


ORDERINGS: tuple[Ordering, ...] = (
    *_jenke(MEAN, ("phantoms", "real")),
    *_jenke(FOCUS, ("frames",)),
    Ordering(
        "implicit labels > one model a class, after argmax, all structures of a frame",
        f"{_JENKE}, Table 2",
        "0.543 > 0.476",
        Score("implicit", decoding="argmax"),
        Score("per_class", decoding="argmax"),
        ("frames",),
    ),
    Ordering(
        "class→modality→source > modality→source→class",
        f"{_CHEN}, Table 3",
        "0.887 > 0.879",
        Score("ambiguity", "cmd"),
        Score("ambiguity", "mdc"),
    ),
    Ordering(
        "modality→source→class > random",
        f"{_CHEN}, Table 3",
        "0.879 > 0.875",
        Score("ambiguity", "mdc"),
        Score("ambiguity", "uniform"),
    ),
    Ordering(
        "class→modality→source > random",
        f"{_CHEN}, Table 3",
        "0.887 > 0.875",
        Score("ambiguity", "cmd"),
        Score("ambiguity", "uniform"),
    ),
    Ordering(
        "with entropy > without",
        f"{_CHEN}, Table 7",
        "0.887 > 0.882",
        Score("ambiguity"),
        Score("ambiguity_no_entropy"),
    ),
    Ordering(
        "partial > normal compound loss, all classes",
        f"{_ZHU}, Table 7",
        "0.797 > 0.789",
        Score("selected"),
        Score("selected_normal"),
    ),
    Ordering(
        "partial > normal compound loss, tumour",
        f"{_ZHU}, Table 7",
        "0.159 > 0.103",
        Score("selected", target=_TUMOUR),
        Score("selected_normal", target=_TUMOUR),
    ),
    Ordering(
        "one network, one axis a source > one network a source",
        f"{_ULRICH}, section 3",
        "+0.011 (U-Net)",
        Score("multitalent"),
        Score("per_source"),
    ),
)


def score_of(result: Mapping[str, Any], decoding: str, target: str) -> float:
    """A Dice of one training; NaN where it has none.

    Args:
        result: Content of its JSON file.
        decoding: 'threshold' or 'argmax'.
        target: 'mean', 'focus' or a class.
    """
    dice: dict[str, float | None] = result["dice_in_focus" if target == FOCUS else "dice"][decoding]
    if target not in (MEAN, FOCUS):
        value = dice.get(target)
        return math.nan if value is None else value
    defined = [value for value in dice.values() if value is not None]
    return sum(defined) / len(defined) if defined else math.nan


def checked(collection: str, results: Mapping[RunKey, Mapping[str, Any]]) -> list[CheckedOrdering]:
    """A collection's orderings, compared on the seeds that both sides have; an entry a sampling that both sides have.

    Args:
        collection: Its name.
        results: Finished trainings of it.
    """

    def by_seed(score: Score, sampling: str) -> dict[int, float]:
        found = {
            key.seed: score_of(result, score.decoding, score.target)
            for key, result in results.items()
            if (key.method, key.sampling) == (score.method, score.sampling or sampling)
        }
        return {seed: value for seed, value in found.items() if not math.isnan(value)}

    entries = []
    for ordering in (entry for entry in ORDERINGS if collection in entry.collections):
        better, worse = ordering.better, ordering.worse
        shared = [s for s in SAMPLING_TITLES if by_seed(better, s).keys() & by_seed(worse, s).keys()]
        for sampling in [""] if better.sampling or not shared else shared:
            verdict = paired_verdict(by_seed(better, sampling), by_seed(worse, sampling))
            entries.append(CheckedOrdering(ordering, sampling, *verdict))
    return entries
