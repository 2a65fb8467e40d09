"""A trained model: what prediction must know of it, its network and weights; of nnU-Net and exported."""
