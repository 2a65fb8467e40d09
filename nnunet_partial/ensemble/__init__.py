"""One model a class: the ensemble that Jenke et al. (IJCARS 2024) compare one model for all classes with."""

from nnunet_partial.ensemble.combination import combine_one_model_a_class
from nnunet_partial.ensemble.models import Ensemble, find_ensemble, train_ensemble
from nnunet_partial.ensemble.prediction import predict_ensemble

__all__ = [
    "Ensemble",
    "combine_one_model_a_class",
    "find_ensemble",
    "predict_ensemble",
    "train_ensemble",
]
