"""What prediction shall reach, and whether it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.bench.inference.accuracy import REFERENCE
from tests.bench.inference.competitors import NNUNET, TOTALSEGMENTATOR
from tests.bench.inference.results import Results
from tests.bench.inference.summary import Summary

__all__ = ["Goal", "Part", "check_goals"]

_GB = 1024.0


@dataclass(frozen=True)
class Part:
    """A measured number against its limit.

    Attributes:
        what: What was measured.
        value: The number; None where it is not measured.
        limit: The largest or smallest that is allowed.
        at_least: The limit is the smallest.
        form: How a number is written.
    """

    what: str
    value: float | None
    limit: float
    at_least: bool = False
    form: str = "{:.3g}"

    @property
    def met(self) -> bool | None:
        """Whether it is within the limit; None where it is not measured."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def measured(self) -> str:
        """The number as text."""
        return "" if self.value is None else self.form.format(self.value)

    @property
    def wanted(self) -> str:
        """The limit as text."""
        return f"{'≥' if self.at_least else '≤'} {self.form.format(self.limit)}"


@dataclass(frozen=True)
class Goal:
    """One row of the table of goals.

    Attributes:
        row: Its number.
        title: What is tested.
        parts: What must hold.
    """

    row: int
    title: str
    parts: tuple[Part, ...]


def _lowest(values: Sequence[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _highest(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


_TIMES, _MB, _SHARE = "{:.3g}×", "{:.0f} MB", "{:.1e}"


def _export(results: Results) -> Goal:
    found = Summary(results.values("export"))
    faster = [found.ratio(case, NNUNET, "ours", "seconds") for case in found.cases]
    extra = [found.median(case, "ours", "extra_mb") for case in found.cases]
    different = [found.largest(case, "ours", "different") for case in found.cases]
    return Goal(
        1,
        "export, the worst of regions, argmax, separate slices and trilinear",
        (
            Part("times as fast as nnU-Net", _lowest(faster), 80, True, _TIMES),
            Part("memory above the logits", _highest(extra), 400, form=_MB),
            Part("share of voxels that differ", _highest(different), 1e-6, form=_SHARE),
        ),
    )


def _many(results: Results) -> Goal:
    found = Summary(results.values("export_many"))
    memory = [found.largest(case, "C117", "process_mb") for case in found.cases]
    slower = [found.ratio(case, "C117", "C14", "seconds") for case in found.cases]
    return Goal(
        2,
        "export of 117 classes, the largest volume",
        (
            Part("memory of the process", _highest(memory), 3 * _GB, form=_MB),
            Part("time, in those of 14 classes", _highest(slower), 3, form=_TIMES),
        ),
    )


def _input(results: Results) -> Goal:
    found = Summary(results.values("input"))
    faster = [found.ratio(case, NNUNET, "ours", "seconds") for case in found.cases]
    largest = [found.largest(case, "ours", "largest_difference") for case in found.cases]
    return Goal(
        3,
        "resampling of the input",
        (
            Part("times as fast as nnU-Net", _lowest(faster), 4, True, _TIMES),
            Part("largest difference", _highest(largest), 1e-4, form=_SHARE),
        ),
    )


def _exact(results: Results) -> Goal:
    found = Summary(results.values("end_to_end"))
    case, who = (found.cases or [""])[0], "exact.openvino.fp32"
    return Goal(
        4,
        "whole prediction, exact, OpenVINO fp32, cold, CPU",
        (
            Part("times as fast as nnU-Net", found.ratio(case, NNUNET, who, "seconds"), 6, True, _TIMES),
            Part("memory, in nnU-Net's", found.ratio(case, who, NNUNET, "mb"), 0.25, form=_TIMES),
            Part("share of voxels that differ", found.largest(case, who, "different"), 2e-4, form=_SHARE),
        ),
    )


def _fast(results: Results) -> Goal:
    found = Summary(results.values("end_to_end"))
    case = (found.cases or [""])[0]
    single, reduced = "fast.openvino.fp32", "fast.openvino.bf16"
    memory = [found.largest(case, who, "mb") for who in (single, reduced)]
    return Goal(
        5,
        "whole prediction, fast, OpenVINO, cold, CPU",
        (
            Part("fp32, times as fast as nnU-Net", found.ratio(case, NNUNET, single, "seconds"), 15, True, _TIMES),
            Part("bf16, times as fast as nnU-Net", found.ratio(case, NNUNET, reduced, "seconds"), 25, True, _TIMES),
            Part(
                "fp32, times as fast as the pipeline like TotalSegmentator's",
                found.ratio(case, TOTALSEGMENTATOR, single, "seconds"),
                5,
                True,
                _TIMES,
            ),
            Part("memory", _highest(memory), 2 * _GB, form=_MB),
        ),
    )


def _sizes(results: Results, main: str, largest: str) -> Goal:
    found = Summary(results.values("sizes"))
    who = next((w for case in found.cases for w in found.who(case) if w.startswith("fast.")), "")
    cases = {case.rpartition("_")[2]: case for case in found.cases if case.startswith("C14_")}
    memory = found.largest(cases.get(largest, ""), who, "mb")
    took, small = (found.median(cases.get(size, ""), who, "seconds") for size in (largest, main))
    files = found.median(f"files_{largest}", "ours", "seconds")
    share = None
    if took is not None and small is not None and files is not None:
        share = took / (2 * small + files)
    return Goal(
        6,
        f"{largest} slices, fast, CPU",
        (
            Part("memory", memory, 3 * _GB, form=_MB),
            Part(f"time, in twice that of {main} slices plus reading and writing", share, 1, form=_TIMES),
        ),
    )


def _accuracy(results: Results) -> Goal:
    values = {key.who: found for key, found in results.values("accuracy").items()}
    fast = [who for who in values if who.startswith("fast.")]
    mean = worst = alone = None
    if REFERENCE in values and fast:
        exact = values[REFERENCE]
        alone = exact["mean_dice"]
        mean = max(100 * (exact["mean_dice"] - values[who]["mean_dice"]) for who in fast)
        worst = max(
            100 * (exact["dice"][organ] - values[who]["dice"][organ]) for who in fast for organ in exact["dice"]
        )
    return Goal(
        7,
        "real CT, fast against exact, the worst back end",
        (
            # a network that finds nothing has nothing to lose
            Part("mean Dice of exact", alone, 0.7, True, "{:.2f}"),
            Part("mean Dice lost, points", mean, 0.2, form="{:.2f}"),
            Part("Dice lost of one class, points", worst, 1, form="{:.2f}"),
        ),
    )


def _gpu(results: Results) -> Goal:
    found = Summary(results.values("gpu"))
    cold = next((case for case in found.cases if case.endswith("_cold")), "")
    warm = next((case for case in found.cases if case.endswith("_warm")), "")
    ratio: Callable[[str, str], float | None] = lambda case, who: found.ratio(case, NNUNET, who, "seconds")  # noqa: E731
    return Goal(
        8,
        "GPU, fast, fp16",
        (
            Part("cold, times as fast as nnU-Net", ratio(cold, "fast.torch.fp16"), 8, True, _TIMES),
            Part("warm, times as fast as nnU-Net", ratio(warm, "fast.fp16"), 8, True, _TIMES),
            Part("memory allocated", found.largest(warm, "fast.fp16", "allocated_mb"), _GB, form=_MB),
        ),
    )


def check_goals(results: Results, main: str, largest: str) -> list[Goal]:
    """All goals, with what is measured of them.

    Args:
        results: The measurements.
        main: The volume on which all competitors are compared, by its slices.
        largest: The largest volume.
    """
    rows = [_export, _many, _input, _exact, _fast]
    return [*(row(results) for row in rows), _sizes(results, main, largest), _accuracy(results), _gpu(results)]
