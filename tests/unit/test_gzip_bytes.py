"""gzip files in memory, with and without the optional package."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from nnunet_partial.errors import VolumeError
from nnunet_partial.gzip_bytes import compress, unpack

CONTENT = bytes(range(256)) * 500


@pytest.fixture(params=["isal", "zlib"], autouse=True)
def packer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "isal":
        pytest.importorskip("isal")
    else:
        monkeypatch.setattr("nnunet_partial.gzip_bytes.importlib.util.find_spec", lambda name: None)


def test_what_is_packed_is_a_gzip_file() -> None:
    packed = b"".join(compress(CONTENT[:100], CONTENT[100:]))
    assert gzip.decompress(packed) == CONTENT
    assert len(packed) < len(CONTENT) / 5


@pytest.mark.parametrize("packed", [gzip.compress(CONTENT), gzip.compress(CONTENT[:9]) + gzip.compress(CONTENT[9:])])
def test_all_members_are_unpacked(packed: bytes) -> None:
    assert unpack(Path("a.nii.gz"), packed) == CONTENT


def test_what_is_not_packed_stays() -> None:
    assert unpack(Path("a.nii.gz"), CONTENT) is CONTENT
    assert unpack(Path("a.nii.gz"), b"") == b""


@pytest.mark.parametrize("damage", ["cut", "checksum", "middle"])
def test_damage_is_noticed(damage: str) -> None:
    packed = bytearray(gzip.compress(CONTENT))
    if damage == "cut":
        del packed[-20:]
    else:
        packed[-7 if damage == "checksum" else len(packed) // 2] ^= 0x10
    with pytest.raises(VolumeError, match=r"a\.nii\.gz: the compressed file is damaged or cut short"):
        unpack(Path("a.nii.gz"), bytes(packed))
