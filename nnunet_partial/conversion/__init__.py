"""Converting public datasets, as downloaded, into raw nnU-Net datasets that say what was annotated.

A converter module is a `Converter`, which is a table, and its generator of cases. What it needs is exported here and
imports neither NumPy nor any image library; `nnunet_partial.conversion.engine` does the work.
"""

from nnunet_partial.conversion.case import OCCURRING, Case, Dicom, LabelMap, LeftOut, Masks, Slices
from nnunet_partial.conversion.checks import ALL_FLIPS, Above, Intensity, LeftRight, Uniform
from nnunet_partial.conversion.converter import Annotated, Converter
from nnunet_partial.conversion.layout import Found, either, find, ids, read_table, spacing_of

__all__ = [
    "ALL_FLIPS",
    "OCCURRING",
    "Above",
    "Annotated",
    "Case",
    "Converter",
    "Dicom",
    "Found",
    "Intensity",
    "LabelMap",
    "LeftOut",
    "LeftRight",
    "Masks",
    "Slices",
    "Uniform",
    "either",
    "find",
    "ids",
    "read_table",
    "spacing_of",
]
