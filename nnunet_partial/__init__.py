"""One segmentation network from many partly labelled datasets, inside stock nnU-Net v2."""

__version__ = "0.1.0"
