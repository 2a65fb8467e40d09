"""Cost of a conversion relative to reading and writing the same volumes with the same compression."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.conversion_case import KINDS, ORIENTATIONS, VOLUME_MB, Kind, Orientation, case_functions, make_download
from tests.bench.measure import paired_seconds, peak_megabytes

pytestmark = pytest.mark.bench


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["files", "masks"])
def test_throughput(kind: Kind, orientation: Orientation, tmp_path: Path) -> None:
    make_download(tmp_path / "download", kind)
    ours, stock, ratio = paired_seconds(*case_functions(tmp_path / "download", kind, orientation), runs=3)
    print(f"\n{kind}, {orientation}: {ours:.2f} s, reading and writing {stock:.2f} s; {1 / ratio:.2f}x its throughput")
    assert 1 / ratio >= 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_memory(kind: Kind, tmp_path: Path) -> None:
    make_download(tmp_path / "download", kind)
    peak = peak_megabytes("tests.bench.conversion_case", kind, str(tmp_path / "download"))
    print(f"\n{kind}: peak {peak:.0f} MB, {peak / VOLUME_MB:.2f} volumes of {VOLUME_MB:.0f} MB")
    assert peak <= 3 * VOLUME_MB
