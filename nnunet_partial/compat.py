"""The only importer of nnU-Net internals that are no public classes. Written against nnunetv2 2.8."""

from nnunetv2.configuration import default_num_processes
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from nnunetv2.utilities.helpers import dummy_context

__all__ = [
    "DeepSupervisionWrapper",
    "default_num_processes",
    "determine_do_sep_z_and_axis",
    "dummy_context",
    "export_prediction_from_logits",
    "get_allowed_n_proc_DA",
    "infer_dataset_class",
]
