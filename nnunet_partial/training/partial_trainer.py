"""`PartialTrainer`: the one place that overrides nnU-Net's trainer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgenerators.utilities.file_and_folder_operations import load_pickle
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor
from torch import distributed as dist

from nnunet_partial.compat import dummy_context, get_allowed_n_proc_DA, infer_dataset_class
from nnunet_partial.errors import LabelError, PartialError
from nnunet_partial.labels import partial_labels_of, preprocessed_axes
from nnunet_partial.losses import positive_weights_of
from nnunet_partial.networks import segmentation_heads, supports_deep_supervision
from nnunet_partial.sampling import PartialDataLoader, make_reproducible
from nnunet_partial.training.final_validation import plan_of_trainer, validate
from nnunet_partial.training.folds import prepare_fold
from nnunet_partial.training.head_prior import set_head_prior
from nnunet_partial.training.heads import known_states
from nnunet_partial.training.online_scores import annotated_counts, describe_dice, mean_of_defined, pseudo_dice
from nnunet_partial.training.patch_sources import PatchSources
from nnunet_partial.training.recipe import Recipe
from nnunet_partial.training.schedule import EpochLearningRate, keep_running_statistics
from nnunet_partial.training.slice_axes import RotationInSlices, axis_across, keep_slices_whole, mixed_by_resampling
from nnunet_partial.training.table_loss import TableLoss, deep_supervision_weights
from nnunet_partial.training.transfer import load_pretrained

__all__ = ["PartialTrainer"]

_LAST_AXIS = 2


class PartialTrainer(nnUNetTrainer):  # type: ignore[misc]
    """nnU-Net's trainer for datasets with a `partial_labels` block.

    Subclasses set `recipe` and nothing else; environment variables may change some of its fields for one run. As with
    nnU-Net's trainer, `num_epochs`, `initial_lr` and `weight_decay` may also be set after `super().__init__`. The
    label map stays an integer map all the way to the loss, which looks up what each value means in the case it comes
    from. The trainer keeps a copy of dataset.json in which the classes are nnU-Net regions (sigmoid heads) or the
    atoms are its labels (softmax heads), so that stock nnU-Net builds and decodes the heads, and stock
    nnUNetv2_predict works on the model folder.

    Outside the nonzero mask and outside the image a label map holds -1; as in stock nnU-Net this becomes value 0
    before the loss, which means 'none of what this case annotates', or, in cases with an ignore label, that label.

    Args:
        plans: As nnU-Net passes it.
        configuration: '2d', '3d_fullres', '3d_lowres', ...; cascades are refused.
        fold: Fold number or 'all'.
        dataset_json: Content of the preprocessed dataset.json.
        device: Where to train.

    Raises:
        LabelError: The dataset has no usable `partial_labels` block, or the configuration is a cascade.
    """

    recipe: ClassVar[Recipe]
    dataset_class: Any

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - the signature nnU-Net requires
    ) -> None:
        _refuse_cascade(plans, configuration)
        method = type(self).recipe.from_environment()
        labels = method.train_labels(partial_labels_of(dataset_json))
        method.heads.check(labels)
        problems = labels.problems()
        if problems:
            raise LabelError("; ".join(problems))
        dataset_json = method.heads.dataset_json(dataset_json, labels)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.method = method
        self.partial_labels = labels
        self.channel_names = method.heads.channels(labels)
        self.loss_table = method.heads.table(labels, method.implied_negatives)
        # what validation may score: a class that a case does not annotate is unknown there, whatever its voxels imply
        self._scored_states = known_states(labels, implied_negatives=False)
        self._apply_schedule()

    def _apply_schedule(self) -> None:
        schedule = self.method.schedule
        self.schedule = schedule
        self.num_epochs = schedule.total_epochs
        self.num_iterations_per_epoch = schedule.iterations
        self.num_val_iterations_per_epoch = schedule.val_iterations
        self.initial_lr = schedule.learning_rate
        self.weight_decay = schedule.weight_decay
        self.save_every = schedule.save_every
        self.enable_deep_supervision = supports_deep_supervision(self.configuration_manager.network_arch_class_name)
        self.print_to_log_file(f"Recipe: {self.method}", add_timestamp=False)
        units = self.method.heads.units
        self.print_to_log_file(f"{units}, in channel order: {', '.join(self.channel_names)}", add_timestamp=False)

    def initialize(self) -> None:
        """Builds network, optimizer and loss; the initial weights depend on the seed only.

        Raises:
            PartialError: The plans resample logits by a function that the final validation does not know.
        """
        plan_of_trainer(self)  # what the final validation could not predict is refused now, and not after days
        torch.manual_seed(self.schedule.seed)
        self.sources = PatchSources(self)
        super().initialize()
        if self.method.head_prior is not None:
            set_head_prior(self.network, self.method.head_prior)
        if self.method.pretrained:
            transfer = load_pretrained(self.network, self.method.pretrained, self.dataset_json)
            self.print_to_log_file(str(transfer), also_print_to_console=True)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, EpochLearningRate]:
        """The optimizer of the phase that the current epoch belongs to, and what sets its learning rate."""
        # subclasses of nnU-Net's trainer set these after its __init__
        self.schedule = self.schedule.changed(self.num_epochs, self.initial_lr, self.weight_decay)
        self._phase = self.schedule.phase(self.current_epoch)
        optimizer = self.schedule.make_optimizer(self._phase, self.network, segmentation_heads(self.network))
        return optimizer, EpochLearningRate(optimizer, self.schedule)

    def on_train_start(self) -> None:
        """Refuses to start a fine-tuning without a trained network."""
        if self.method.needs_pretrained and not self.method.pretrained and self.current_epoch == 0:
            raise PartialError(
                f"{type(self).__name__} fine-tunes a trained network and none was given; set "
                "nnUNet_partial_pretrained=.../checkpoint_final.pth (nnU-Net's -pretrained_weights would not take "
                "over any head)"
            )
        super().on_train_start()

    def on_train_epoch_start(self) -> None:
        """As nnU-Net's; changes the optimizer where a phase begins; in that of the heads the body stays as it is."""
        phase = self.schedule.phase(self.current_epoch)
        if (phase == "heads") != (self._phase == "heads"):
            self.print_to_log_file(f"Epoch {self.current_epoch}: phase '{phase}' of the schedule begins")
            self.optimizer, self.lr_scheduler = self.configure_optimizers()
        super().on_train_epoch_start()
        if phase == "heads":
            keep_running_statistics(self.network)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """As nnU-Net's; the saved optimizer is that of the phase in which the checkpoint was written."""
        if not self.was_initialized:
            self.initialize()
        if self.schedule.head_epochs:
            saved = torch.load(filename_or_checkpoint, map_location="cpu", weights_only=False)
            self.current_epoch = max(0, saved["current_epoch"] - 1)
            self.optimizer, self.lr_scheduler = self.configure_optimizers()
        super().load_checkpoint(filename_or_checkpoint)

    def _build_loss(self) -> TableLoss:
        weights = None
        if self.enable_deep_supervision:
            unused_head_fails = self.is_ddp and not self._do_i_compile()
            outputs = len(self._get_deep_supervision_scales())
            weights = deep_supervision_weights(outputs, lowest=1e-6 if unused_head_fails else 0.0)
        return TableLoss(self.method.loss(**self._loss_options()).to(self.device), weights)

    def _loss_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if self.method.positive_weights:
            cases, counts = self.sources.training_counts()
            rows = [self.partial_labels.row_of(case) for case in cases]
            weights = positive_weights_of(counts, self.loss_table[rows])
            pairs = zip(self.channel_names, weights, strict=True)
            self.print_to_log_file(f"Positive weights: {', '.join(f'{name} {weight:.4g}' for name, weight in pairs)}")
            options["positive_weights"] = weights.tolist()
        if self.method.slices:
            options["slice_axis"] = self._slice_axis
        if self.method.optional:
            options["optional"] = self._channels_of(self.method.optional)
        return options | self.method.loss_weights

    def _channels_of(self, listed: str) -> list[int]:
        names = [name.strip() for name in listed.split(",")]
        unknown = sorted(set(names) - set(self.channel_names))
        if unknown:
            raise PartialError(f"nnUNet_partial_optional: {unknown} are no classes; classes are {self.channel_names}")
        return [self.channel_names.index(name) for name in names]

    @cached_property
    def _slice_axis(self) -> int | None:
        """The axis of a patch across the slices of the recipe; None without, and for a 2D patch that is one slice."""
        if not self.method.slices:
            return None
        images = [(case, self._header_of(case)) for case in self.sources.datasets[0].identifiers]
        raw = axis_across(self.method.slices, images)
        dimensions = len(self.configuration_manager.patch_size)
        axes = preprocessed_axes([raw], self.plans_manager.transpose_forward, dimensions)
        if axes and dimensions == 2:
            raise PartialError(
                f"nnUNet_partial_slices={self.method.slices}: the 2D patches of configuration "
                f"'{self.configuration_name}' lie across these slices; train 3d_fullres, or unset it"
            )
        if not axes:
            return None
        manager = self.configuration_manager
        mixed = mixed_by_resampling(images, axes[0], self.plans_manager.transpose_forward, manager.configuration)
        if mixed:
            self.print_to_log_file(
                f"Warning: preprocessing resampled {len(mixed)} of {len(images)} cases across the {self.method.slices} "
                f"slices, '{mixed[0]}' among them, which may mix labels of neighbours; plan the spacing of the images "
                "across the slices (nnUNetv2_partial_plan --spacing), and preprocess again"
            )
        return axes[0]

    def _header_of(self, case: str) -> dict[str, Any]:
        properties = load_pickle(str(Path(self.preprocessed_dataset_folder) / f"{case}.pkl"))
        return {key: value for key, value in properties.items() if key != "class_locations"}  # most of the file

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, ...]:  # noqa: N802 - nnU-Net's name
        """As nnU-Net, but sides are not mirrored, and slices with labels of their own are not tilted."""
        rotation, dummy_2d, initial_patch_size, axes = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        sides = self.partial_labels.sides
        if sides.classes:
            forbidden = preprocessed_axes(
                sides.axes or (_LAST_AXIS,),
                self.plans_manager.transpose_forward,
                len(self.configuration_manager.patch_size),
            )
            axes = tuple(axis for axis in axes if axis not in forbidden)
            self.print_to_log_file(
                f"Mirroring: axes {axes}; axes {forbidden} would swap the sides of {', '.join(sides.classes)}"
            )
        else:
            self.print_to_log_file(f"Mirroring: axes {axes}; no class has a side")
        self.inference_allowed_mirroring_axes = axes
        across = self._slice_axis
        if across is not None:
            # nnU-Net's 2D augmentation of anisotropic patches turns them about the first axis
            limits = (0.0, 0.0) if dummy_2d and across else rotation
            rotation = limits if dummy_2d else RotationInSlices(across, rotation)
            self.print_to_log_file(f"Augmentation keeps {self.method.slices} slices whole, across axis {across}")
        return rotation, dummy_2d, initial_patch_size, axes

    def do_split(self) -> tuple[list[str], list[str]]:
        """As nnU-Net, but folds that do not exist yet come from the raw dataset, or keep patients together."""
        drawn = None
        if self.fold != "all":
            base, labels = Path(self.preprocessed_dataset_folder_base), self.partial_labels
            drawn = prepare_fold(base, int(self.fold), labels, self._preprocessed_cases, self.print_to_log_file)
        train, validation = super().do_split() if drawn is None else (drawn["train"], drawn["val"])
        return list(train), list(validation)

    def _preprocessed_cases(self) -> list[str]:
        if self.dataset_class is None:  # nnU-Net finds it after the loss, which may need the training cases
            self.dataset_class = infer_dataset_class(self.preprocessed_dataset_folder)
        return list(self.dataset_class.get_identifiers(self.preprocessed_dataset_folder))

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Loaders of integer label maps, drawn by the recipe's probabilities, reproducible and resumable."""
        patch_size = self.configuration_manager.patch_size
        scales = self._get_deep_supervision_scales()
        rotation, dummy_2d, initial_patch_size, axes = self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        training = self.get_training_transforms(
            patch_size, rotation, scales, axes, dummy_2d, use_mask_for_norm=self.configuration_manager.use_mask_for_norm
        )
        keep_slices_whole(training, self._slice_axis, dummy_2d)
        transforms = (make_reproducible(training), self.get_validation_transforms(scales))
        batches = (self.num_iterations_per_epoch, self.num_val_iterations_per_epoch)
        workers = get_allowed_n_proc_DA()
        counts = (workers, max(1, workers // 2) if workers else 0)
        self.sources.report_missing()
        loaders = []
        for stream, dataset in enumerate(self.sources.datasets):
            loader = PartialDataLoader(
                dataset,
                self.batch_size,
                (initial_patch_size, patch_size)[stream],
                patch_size,
                self.label_manager,
                draws=self.sources.draws[stream],
                labels=self.partial_labels,
                counts=self.sources.counts,
                transforms=transforms[stream],
                seed=self.schedule.seed,
                stream=stream,
                rank=self.local_rank,
                first=self.current_epoch * batches[stream],
                workers=counts[stream],
                first_place=self._first_place(),
                places=self.configuration_manager.batch_size,
            )
            loaders.append(self._in_background(loader, counts[stream]))
        return loaders[0], loaders[1]

    def _first_place(self) -> int:
        """Patches of a batch that belong to the ranks before this one, as nnU-Net shares them out."""
        if not self.is_ddp:
            return 0
        each, left_over = divmod(self.configuration_manager.batch_size, dist.get_world_size())
        return int(self.local_rank * each + min(self.local_rank, left_over))

    def _in_background(self, loader: PartialDataLoader, workers: int) -> Any:
        if workers == 0:
            return SingleThreadedAugmenter(loader, None)
        # nnU-Net's own choice hands batches out in whatever order the workers finish, and cannot be resumed exactly
        return MultiThreadedAugmenter(
            loader,
            None,
            num_processes=workers,
            num_cached_per_queue=max(2, 6 // workers),
            pin_memory=self.device.type == "cuda",
            wait_time=0.002,
        )

    def _rows(self, table: npt.NDArray[Any], keys: Sequence[str]) -> Tensor:
        """Table rows of the cases of a batch, (B, V, channels)."""
        return torch.from_numpy(table[[self.partial_labels.row_of(str(key)) for key in keys]])

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One training iteration, as nnU-Net's, with the table rows of the batch's cases."""
        self.loss.table = self._rows(self.loss_table, batch["keys"])
        self.sources.log.add(batch["keys"], batch["classes"])
        result: dict[str, Any] = super().train_step(batch)
        return result

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """As nnU-Net's; also logs how often each class, modality and source was drawn."""
        super().on_train_epoch_end(train_outputs)
        self.sources.report_epoch()

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Loss and hard counts of one validation batch; counts are of annotated classes only, (3, C)."""
        data = batch["data"].to(self.device, non_blocking=True)
        target = batch["target"]
        if isinstance(target, list):
            target = [level.to(self.device, non_blocking=True) for level in target]
        else:
            target = target.to(self.device, non_blocking=True)
        self.loss.table = self._rows(self.loss_table, batch["keys"])
        with torch.autocast(self.device.type, enabled=True) if self.device.type == "cuda" else dummy_context():
            output = self.network(data)
            loss = self.loss(output, target)
        if self.enable_deep_supervision:
            output, target = output[0], target[0]
        found = self.method.heads.found(output, self.partial_labels)
        counts = annotated_counts(found, target, self._rows(self._scored_states, batch["keys"]))
        return {"loss": loss.detach().cpu().numpy(), "counts": counts}

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Logs loss and pseudo-Dice over all ranks; classes without a Dice count in no mean."""
        counts = np.sum([o["counts"] for o in val_outputs], axis=0)
        loss = float(np.mean([o["loss"] for o in val_outputs]))
        if self.is_ddp:
            everyone: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(everyone, (counts, loss))
            counts = np.sum([c for c, _ in everyone], axis=0)
            loss = float(np.mean([rank_loss for _, rank_loss in everyone]))
        dice = pseudo_dice(counts)
        history = self.logger.get_value("ema_fg_dice", step=None)
        # an epoch without any Dice must move neither the average nor the choice of the best checkpoint
        mean = mean_of_defined(dice, otherwise=history[-1] if history else 0.0)
        self.logger.log("mean_fg_dice", mean, self.current_epoch)
        self.logger.log("dice_per_class_or_region", dice, self.current_epoch)
        self.logger.log("val_losses", loss, self.current_epoch)
        annotated = self._annotated_in_validation()
        self.print_to_log_file(
            f"Pseudo dice by class: {describe_dice(self.partial_labels.class_names, dice, annotated)}"
        )

    def _annotated_in_validation(self) -> list[bool]:
        rows = [self.partial_labels.row_of(case) for case in self.sources.validation_cases]
        return [bool(column.any()) for column in self.partial_labels.annotated[rows].T]

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Predicts the validation cases of the fold and scores the classes that each annotates."""
        validate(self, save_probabilities)


def _refuse_cascade(plans: dict[str, Any], configuration: str) -> None:
    manager = PlansManager({k: v for k, v in plans.items() if k != "continue_training"})
    if configuration not in manager.available_configurations:
        raise LabelError(
            f"configuration '{configuration}' is not in the plans, which have {manager.available_configurations}; "
            "plan it, or choose one of these"
        )
    if manager.get_configuration(configuration).previous_stage_name is not None:
        raise LabelError(
            f"configuration '{configuration}' is a cascade, whose second stage needs complete label maps of the first; "
            "partly labelled data have none. Train 3d_fullres or 3d_lowres instead"
        )
