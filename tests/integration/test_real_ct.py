"""Real CT volumes through the whole way, with a training far too short to be good; `make real-ct` takes its time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration import real_ct

pytestmark = [pytest.mark.real_data, pytest.mark.slow]


@pytest.fixture(scope="module")
def data() -> Path:
    folder = real_ct.real_data_folder()
    if not (folder / "abdomen_a" / "ct.nii.gz").is_file():
        pytest.skip(f"no real CT volumes in {folder}; set NNUNET_PARTIAL_REAL_DATA")
    return folder


def test_three_partly_labelled_sources_of_real_ct(data: Path, tmp_path: Path) -> None:
    size = replace(real_ct.SIZE, features=(4, 8, 8, 8), epochs=2, iterations=4)
    scores = real_ct.run(tmp_path, data, size)
    summaries = {
        name: json.loads((tmp_path / "evaluation" / name / "summary.json").read_text())
        for name in ("hidden_abdominal", "hidden_upper", "hidden_urinary", "held_out")
    }
    assert set(scores) == set(summaries)
    for protocol, meaning in real_ct.PROTOCOLS.items():
        # what a protocol labels was shown to the network, and is not asked for
        shown = {name for covered in meaning.values() for name in covered}
        asked = set(summaries[f"hidden_{protocol}"]["classes"].values())
        assert asked == set(real_ct.FLARE_VALUES) - shown
    assert len(summaries["hidden_upper"]["metric_per_case"]) == real_ct.SLABS // len(real_ct.PROTOCOLS)
    assert all(0 <= dice <= 1 for part in scores.values() for dice in part.values())
    assert (tmp_path / "overlay.png").stat().st_size > 10_000
