"""Whole gzip files in memory: unpacked with their checksum compared, and packed; by isal where it is installed."""

from __future__ import annotations

import gzip
import importlib.util
import zlib
from pathlib import Path
from typing import Any

from nnunet_partial.errors import VolumeError

__all__ = ["compress", "unpack"]

_LEVEL = 1  # label maps shrink by a factor of some hundreds at any level
_FRAME = 31
"""zlib's code for the frame of a gzip file around the largest window."""
_MAGIC = b"\x1f\x8b"


def compress(*parts: bytes | bytearray | memoryview) -> list[bytes]:
    """Packs parts, one after the other, as one gzip file.

    Args:
        parts: What the file is to hold.

    Returns:
        The packed file in pieces, in order.
    """
    if importlib.util.find_spec("isal") is None:
        packer: Any = zlib.compressobj(_LEVEL, wbits=_FRAME)
    else:
        from isal import isal_zlib

        packer = isal_zlib.compressobj(_LEVEL, wbits=_FRAME)
    return [*(packer.compress(part) for part in parts), packer.flush()]


def unpack(path: Path, content: bytes) -> bytes:
    """The content of a file, unpacked where it is a gzip file, whatever its name says.

    Args:
        path: The file, for messages.
        content: What it holds.

    Raises:
        VolumeError: It is damaged or cut short.
    """
    if not content.startswith(_MAGIC):
        return content
    try:
        return _decompressed(content)
    except Exception as error:  # isal and zlib have errors of their own
        raise VolumeError(
            f"{path}: the compressed file is damaged or cut short ({error}); copy or download it again"
        ) from error


def _decompressed(content: bytes) -> bytes:
    if importlib.util.find_spec("isal") is None:
        return gzip.decompress(content)
    from isal import igzip

    return bytes(igzip.decompress(content))  # type: ignore[no-untyped-call]
