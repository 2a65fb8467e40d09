"""Final validation: predict the held-out cases, export class by class, score what each case annotates."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor
from torch import distributed as dist

from nnunet_partial.atomic import write_json
from nnunet_partial.compat import (
    compute_gaussian,
    default_num_processes,
    export_prediction_from_logits,
    insert_crop_into_image,
)
from nnunet_partial.evaluation import CaseScore, class_masks, prediction_keys, score_class, summary_json
from nnunet_partial.labels import PartialLabels

if TYPE_CHECKING:
    from nnunet_partial.training.partial_trainer import PartialTrainer

__all__ = ["in_raw_image", "resampled_channels", "validate"]

_QUEUED_EXPORTS = 2


def validate(trainer: PartialTrainer, save_probabilities: bool = False) -> None:
    """Predicts, writes and scores the validation cases of a trainer's fold.

    As nnU-Net's own final validation (same windows, same resampling, same label maps), but channels are resampled
    and classes scored one at a time, so that memory does not grow with their number at full resolution, and
    only what a case annotates is scored. Overlapping classes are scored from their own masks, before one is painted
    over the other. Cases without labels are left out. Writes `validation/summary.json` in nnU-Net's form.

    Args:
        trainer: An initialised trainer with its weights loaded.
        save_probabilities: Also write nnU-Net's .npz files (all classes at full resolution).
    """
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    predictor = _predictor(trainer)
    folder = Path(trainer.output_folder) / "validation"
    folder.mkdir(parents=True, exist_ok=True)
    _, held_out = trainer.do_split()
    cases = [case for case in held_out if trainer.partial_labels.is_informative(case)]
    if len(cases) < len(held_out):
        trainer.print_to_log_file(f"{len(held_out) - len(cases)} validation cases have no labels and are not predicted")
    world = dist.get_world_size() if trainer.is_ddp else 1
    mine = sorted(cases)[trainer.local_rank :: world]
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, list(mine))
    futures: list[Future[CaseScore]] = []
    workers = 1 if trainer.device.type == "cpu" else default_num_processes
    # logits are large: no more of them wait for export than nnU-Net lets wait
    room = BoundedSemaphore(workers + _QUEUED_EXPORTS)
    with ThreadPoolExecutor(workers) as pool:
        for case in dataset.identifiers:
            room.acquire()
            trainer.print_to_log_file(f"predicting {case}")
            data, _, _, properties = dataset.load_case(case)
            logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(np.array(data[:]))).cpu()
            future = pool.submit(
                _export_and_score,
                *(trainer, case, logits, properties),
                folder=folder,
                save_probabilities=save_probabilities,
            )
            future.add_done_callback(lambda _: room.release())
            futures.append(future)
        scores = [future.result() for future in futures]
    if trainer.is_ddp:
        everyone: list[Any] = [None] * world
        dist.all_gather_object(everyone, scores)
        scores = [score for part in everyone for score in part]
    if trainer.local_rank == 0:
        _report(trainer, sorted(scores, key=lambda s: s.case), folder)
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    compute_gaussian.cache_clear()


def resampled_channels(logits: Tensor, properties: dict[str, Any], trainer: PartialTrainer) -> Iterator[Tensor]:
    """Logits of one channel after the other at the resolution of the cropped image, resampled as nnU-Net does.

    Args:
        logits: (channels, *S) at network resolution, on the CPU.
        properties: nnU-Net's properties of the case.
        trainer: For plans and configuration.
    """
    plans, configuration = trainer.plans_manager, trainer.configuration_manager
    shape = properties["shape_after_cropping_and_before_resampling"]
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    current = configuration.spacing
    if len(current) != len(shape):
        current = [spacing[0], *current]
    for channel in range(logits.shape[0]):
        one = logits[channel : channel + 1]
        yield torch.as_tensor(configuration.resampling_fn_probabilities(one, shape, current, spacing))[0]


def in_raw_image(cropped: npt.NDArray[Any], properties: dict[str, Any], trainer: PartialTrainer) -> npt.NDArray[Any]:
    """An array of the cropped image placed in the raw image, 0 elsewhere, in the axis order of nnU-Net's reader."""
    whole = np.zeros(properties["shape_before_cropping"], cropped.dtype)
    whole = insert_crop_into_image(whole, cropped, properties["bbox_used_for_cropping"])
    return np.asarray(whole).transpose(trainer.plans_manager.transpose_backward)


def _predictor(trainer: PartialTrainer) -> nnUNetPredictor:
    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=True,
        perform_everything_on_device=True,
        device=trainer.device,
        verbose=False,
        verbose_preprocessing=False,
        allow_tqdm=False,
    )
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        None,
        trainer.dataset_json,
        type(trainer).__name__,
        trainer.inference_allowed_mirroring_axes,
    )
    return predictor


def _export_and_score(
    trainer: PartialTrainer,
    case: str,
    logits: Tensor,
    properties: dict[str, Any],
    *,
    folder: Path,
    save_probabilities: bool,
) -> CaseScore:
    labels: PartialLabels = trainer.partial_labels
    reader = trainer.plans_manager.image_reader_writer_class()
    ending = trainer.dataset_json["file_ending"]
    reference_file = Path(trainer.preprocessed_dataset_folder_base) / "gt_segmentations" / f"{case}{ending}"
    reference = reader.read_seg(str(reference_file))[0][0].astype(np.int64)
    row = labels.row_of(case)
    cropped_shape = properties["shape_after_cropping_and_before_resampling"]
    painted = np.zeros(cropped_shape, np.uint8 if len(trainer.channel_names) < 255 else np.uint16)
    masks = trainer.method.heads.decode(resampled_channels(logits, properties, trainer), painted, labels)
    spacing = tuple(float(s) for s in properties["spacing"])
    classes = []
    for index, mask in enumerate(masks):
        predicted = in_raw_image(mask, properties, trainer)
        present, known = class_masks(reference, labels.states[row], index)
        classes.append(
            score_class(
                labels.class_names[index],
                present,
                predicted,
                known,
                annotated=bool(labels.annotated[row, index]),
                spacing_mm=spacing,
                nsd_tolerance_mm=None,
            )
        )
    target = folder / f"{case}{ending}"
    if save_probabilities:
        export_prediction_from_logits(
            logits,
            properties,
            trainer.configuration_manager,
            trainer.plans_manager,
            trainer.dataset_json,
            str(folder / case),
            True,
        )
    else:
        reader.write_seg(in_raw_image(painted, properties, trainer), str(target), properties)
    return CaseScore(
        case, labels.source_of(case), labels.patient_of(case), str(reference_file), str(target), tuple(classes)
    )


def _report(trainer: PartialTrainer, scores: list[CaseScore], folder: Path) -> None:
    keys = prediction_keys(trainer.dataset_json)
    summary = summary_json(scores, keys={name: keys[name] for name in trainer.partial_labels.class_names})
    write_json(folder / "summary.json", summary)
    for key, means in summary["mean"].items():
        trainer.logger.log_summary(f"final_val/class_{key}_dice", means["Dice"])
        trainer.print_to_log_file(f"Validation Dice of {summary['classes'][key]}: {means['Dice']:.4f}")
    if summary["not_annotated"]:
        trainer.print_to_log_file(f"Not annotated in any validation case: {', '.join(summary['not_annotated'])}")
    mean = summary["foreground_mean"]["Dice"]
    trainer.logger.log_summary("final_val/foreground_dice", mean)
    trainer.print_to_log_file("Validation complete", also_print_to_console=True)
    trainer.print_to_log_file("Mean Validation Dice: ", mean, also_print_to_console=True)
