"""Built-in data: procedural abdominal CT phantoms and partly labelled nnU-Net datasets made of them."""

from __future__ import annotations

from nnunet_partial.phantoms.sources import (
    PROTOCOLS,
    PhantomOptions,
    Protocol,
    case_id,
    write_source,
    write_test_cases,
)
from nnunet_partial.phantoms.trunk import ATOMS, NOMINAL_HU, Phantom, make_phantom

__all__ = [
    "ATOMS",
    "NOMINAL_HU",
    "PROTOCOLS",
    "Phantom",
    "PhantomOptions",
    "Protocol",
    "case_id",
    "make_phantom",
    "write_source",
    "write_test_cases",
]
