"""Real CT volumes through the whole way, with a training too short to be good but long enough to learn the liver."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration import real_ct

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def data() -> Path:
    folder = real_ct.real_data_folder()
    if not (folder / "abdomen_a" / "ct.nii.gz").is_file():
        pytest.skip(f"no real CT volumes in {folder}; set NNUNET_PARTIAL_REAL_DATA")
    return folder


def test_three_partly_labelled_sources_of_real_ct(data: Path, tmp_path: Path) -> None:
    size = replace(real_ct.SIZE, features=(4, 8, 16), epochs=3, iterations=25)
    scores = real_ct.run(tmp_path, data, size)
    assert set(scores) == {"hidden_abdominal", "hidden_upper", "hidden_urinary", "held_out"}
    # what a protocol labels is not scored on its slabs
    assert not {"liver", "aorta"} & set(scores["hidden_abdominal"])
    assert all(0 <= dice <= 1 for part in scores.values() for dice in part.values())
    assert scores["hidden_urinary"]["liver"] > 0.3
    assert (tmp_path / "overlay.png").stat().st_size > 10_000
