"""The folder that `nnUNet_extTrainer` points at; see `trainer_shim.py`."""
