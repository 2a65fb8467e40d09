"""Fast prediction with any nnU-Net v2 model: reading, windows, streamed resampling, writing."""
