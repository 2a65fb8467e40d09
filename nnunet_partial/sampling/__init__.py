"""Which case, and which place in it, the next training patch comes from."""

from nnunet_partial.sampling.case_sampling import CaseSampling
from nnunet_partial.sampling.loader import AnnotatedDataset, PartialDataLoader, make_reproducible

__all__ = ["AnnotatedDataset", "CaseSampling", "PartialDataLoader", "make_reproducible"]
