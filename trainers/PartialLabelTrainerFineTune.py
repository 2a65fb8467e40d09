"""Fine-tuning of a pretrained network: Ulrich et al., MICCAI 2023, doi:10.1007/978-3-031-43898-1_62."""

from dataclasses import replace

from nnunet_partial.trainers.PartialLabelTrainer import PartialLabelTrainer
from nnunet_partial.training import PartialTrainer, Schedule

__all__ = ["PartialLabelTrainerFineTune"]


class PartialLabelTrainerFineTune(PartialTrainer):
    """Starts from `nnUNet_partial_pretrained`: heads first, then a warm-up of the whole network, then nnU-Net's pace.

    10 epochs of the heads alone (AdamW, rising to 5e-4), 50 epochs in which SGD rises to 0.01, 1000 epochs of
    polynomial decay. The paper starts all heads afresh; here heads of classes whose names the pretrained network
    knows are taken over. Loss and sampling are those of `PartialLabelTrainer`; the paper's target datasets were fully
    labelled and trained with nnU-Net's own loss. Preprocess the target with the plans of the pretrained network.
    """

    recipe = replace(
        PartialLabelTrainer.recipe,
        head_prior=None,
        needs_pretrained=True,
        schedule=Schedule(head_epochs=10, warmup_epochs=50, epochs=1000),
    )
