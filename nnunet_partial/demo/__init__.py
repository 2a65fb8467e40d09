"""The whole way from partly labelled datasets to scores, run through the stock nnU-Net commands."""

from nnunet_partial.demo.phantom_demo import run_phantom_demo
from nnunet_partial.demo.pipeline import NetworkSize, Pipeline

__all__ = ["NetworkSize", "Pipeline", "run_phantom_demo"]
