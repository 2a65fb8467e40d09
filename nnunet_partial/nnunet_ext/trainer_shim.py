"""What nnU-Net finds when it looks for our trainers.

nnU-Net imports every module of the folder in `nnUNet_extTrainer`, looks for an attribute with the trainer's name, and
then forgets the modules again. Classes defined in them could not be pickled and would differ from lookup to lookup, so
this folder holds nothing but re-exports from the installed package.
"""

from nnunet_partial.trainers import *  # noqa: F403 - all trainers, by name
