"""Which case, and which place in it, the next training patch comes from."""

from nnunet_partial.sampling.case_sampling import UNIFORM, CaseSampling
from nnunet_partial.sampling.class_values import class_values
from nnunet_partial.sampling.draws import ANYWHERE, Draws, describe_never_drawn, describe_unused
from nnunet_partial.sampling.frequency_log import FrequencyLog
from nnunet_partial.sampling.hierarchical import HierarchicalSampling
from nnunet_partial.sampling.loader import PartialDataLoader, make_reproducible
from nnunet_partial.sampling.outside_values import outside_values
from nnunet_partial.sampling.voxel_counts import (
    VoxelCounts,
    class_voxels,
    count_raw_voxels,
    count_voxels,
    describe_missing,
    vanished,
)

__all__ = [
    "ANYWHERE",
    "UNIFORM",
    "CaseSampling",
    "Draws",
    "FrequencyLog",
    "HierarchicalSampling",
    "PartialDataLoader",
    "Sampling",
    "VoxelCounts",
    "class_values",
    "class_voxels",
    "count_raw_voxels",
    "count_voxels",
    "describe_missing",
    "describe_never_drawn",
    "describe_unused",
    "make_reproducible",
    "outside_values",
    "vanished",
]

Sampling = CaseSampling | HierarchicalSampling
"""A rule by which patches are drawn."""
