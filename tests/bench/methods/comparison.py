"""Means, spreads and paired comparisons over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

__all__ = ["MeanSpread", "Verdict", "mean_spread", "paired_verdict"]

Verdict = Literal["reproduced", "not reproduced", "within noise", "too few seeds"]
_SMALLEST_NUMBER = 2
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class MeanSpread:
    """Mean and sample standard deviation (n - 1) of a few values; the latter is NaN for a single one.

    Attributes:
        mean: Mean; NaN for no values.
        sd: Standard deviation.
        n: Number of values.
    """

    mean: float
    sd: float
    n: int

    def text(self, digits: int = 3) -> str:
        """'mean ± sd'; the mean alone for a single value, nothing for none."""
        if self.n == 0:
            return ""
        return f"{self.mean:.{digits}f} ± {self.sd:.{digits}f}" if self.n > 1 else f"{self.mean:.{digits}f}"


def mean_spread(values: Sequence[float | None]) -> MeanSpread:
    """Mean and spread of the values that are defined.

    Args:
        values: None and NaN are left out.
    """
    defined = [v for v in values if v is not None and not math.isnan(v)]
    mean = float(np.mean(defined)) if defined else math.nan
    sd = float(np.std(defined, ddof=1)) if len(defined) > 1 else math.nan
    return MeanSpread(mean, sd, len(defined))


def paired_verdict(better: Mapping[int, float], worse: Mapping[int, float]) -> tuple[MeanSpread, float, Verdict]:
    """Whether one method is better than another, from the seeds that both have.

    The difference of each seed is taken first, since a seed fixes split, initial weights and draws of both. The
    ordering is reproduced where the 95 % confidence interval of the mean difference (Student's, of standard error
    sd / √n) lies above zero, not reproduced where it lies below, and within noise where it holds zero.

    Args:
        better: Seed to score of the method that is expected to be better.
        worse: Seed to score of the other one.

    Returns:
        The differences, the standard error of their mean, and the verdict.
    """
    seeds = sorted(better.keys() & worse.keys())
    difference = mean_spread([better[s] - worse[s] for s in seeds])
    if difference.n < _SMALLEST_NUMBER:
        return difference, math.nan, "too few seeds"
    error = difference.sd / math.sqrt(difference.n)
    margin = error * float(stats.t.ppf((1 + _CONFIDENCE) / 2, difference.n - 1))
    if difference.mean > margin:
        return difference, error, "reproduced"
    if difference.mean < -margin:
        return difference, error, "not reproduced"
    return difference, error, "within noise"
