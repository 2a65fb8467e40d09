"""Final validation: predict the held-out cases as `nnunet_partial.inference` does, score what each case annotates."""

from __future__ import annotations

import functools
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Condition
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import distributed as dist
from torch import nn

from nnunet_partial.atomic import write_json
from nnunet_partial.compat import default_num_processes, export_prediction_from_logits
from nnunet_partial.evaluation import CaseScore, class_masks, prediction_keys, score_class, summary_json
from nnunet_partial.inference.backends.torch_backend import TorchBackend
from nnunet_partial.inference.model.nnunet_plans import read_plan
from nnunet_partial.inference.model.plan import PredictionPlan
from nnunet_partial.inference.predictor import Prediction, Predictor
from nnunet_partial.inference.preprocessing import Prepared
from nnunet_partial.labels import PartialLabels

if TYPE_CHECKING:
    from nnunet_partial.training.partial_trainer import PartialTrainer

__all__ = ["ByteBudget", "plan_of_trainer", "validate"]

_CASES_BETWEEN_BARRIERS = 20
_CASES_BYTES = 4 << 30  # of logits: two cases of 14 classes and 550 slices


class ByteBudget:
    """So many bytes for several threads, who wait for each other where they need more.

    Args:
        limit: Bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._changed = Condition()

    def take(self, size: int) -> None:
        """Waits until bytes are left. Who needs more than there are waits until nobody else has any.

        Args:
            size: Bytes.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + size <= self._limit)
            self._taken += size

    def give_back(self, size: int) -> None:
        """Gives back what was taken.

        Args:
            size: Bytes.
        """
        with self._changed:
            self._taken -= size
            self._changed.notify_all()


def plan_of_trainer(trainer: PartialTrainer) -> PredictionPlan:
    """What predicting with a trainer's network needs to know.

    Args:
        trainer: An initialised trainer.

    Raises:
        PartialError: The plans resample logits by a function that `nnunet_partial.inference` does not know.
    """
    return read_plan(
        trainer.plans_manager.plans,
        trainer.dataset_json,
        configuration=trainer.configuration_name,
        trainer=type(trainer).__name__,
        mirror_axes=trainer.inference_allowed_mirroring_axes,
        preprocessed=True,
    )


def _prepared(data: np.ndarray[Any, Any], properties: dict[str, Any], plan: PredictionPlan) -> Prepared:
    """A case that nnU-Net preprocessed.

    Args:
        data: (C, z, y, x).
        properties: nnU-Net's properties of the case.
        plan: Of the trainer.
    """
    spacing = tuple(float(properties["spacing"][axis]) for axis in plan.transpose_forward)
    low, middle, high = (slice(int(start), int(stop)) for start, stop in properties["bbox_used_for_cropping"])
    return Prepared(
        np.asarray(data, np.float32),
        tuple(int(size) for size in properties["shape_before_cropping"]),
        (low, middle, high),
        spacing,
        (*spacing[: 3 - len(plan.spacing_mm)], *plan.spacing_mm),
    )


def validate(trainer: PartialTrainer, save_probabilities: bool = False) -> None:
    """Predicts, writes and scores the validation cases of a trainer's fold.

    As nnU-Net's own final validation (same windows, same resampling, same label maps but for roundings), without
    logits at the resolution of the image, and only what a case annotates is scored. Overlapping classes are scored
    from their own masks, before one is painted over the other. Cases without labels are left out. Writes
    `validation/summary.json` in nnU-Net's form.

    Args:
        trainer: An initialised trainer with its weights loaded.
        save_probabilities: Also write nnU-Net's .npz files (all classes at full resolution).
    """
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    workers = 1 if trainer.device.type == "cpu" else default_num_processes
    predictor = _predictor(trainer, max(1, torch.get_num_threads() // workers))
    folder = Path(trainer.output_folder) / "validation"
    folder.mkdir(parents=True, exist_ok=True)
    cases, fewest = _my_cases(trainer)
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, cases)
    futures: list[Future[CaseScore]] = []
    # logits are large: workers share what memory a case or two need, and small cases keep them all busy
    budget = ByteBudget(_CASES_BYTES)
    with ThreadPoolExecutor(workers) as pool:
        for number, case in enumerate(dataset.identifiers, 1):
            data, _, _, properties = dataset.load_case(case)
            prepared = _prepared(data[:], properties, predictor.plan)
            size = prepared.data[0].nbytes * len(predictor.plan.decoding.values)
            budget.take(size)
            trainer.print_to_log_file(f"predicting {case}")
            future = pool.submit(
                _write_and_score,
                trainer,
                case,
                predictor.of_prepared(prepared),  # of no name here, which would keep it until the next one is done
                properties,
                folder=folder,
                save_probabilities=save_probabilities,
            )
            future.add_done_callback(functools.partial(_give_back, budget, size))
            futures.append(future)
            # ranks that drift apart by more than the time limit of a collective would lose each other, as in nnU-Net
            if trainer.is_ddp and number < fewest and number % _CASES_BETWEEN_BARRIERS == 0:
                dist.barrier()
        scores = [future.result() for future in futures]
    if trainer.is_ddp:
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, scores)
        scores = [score for part in everyone for score in part]
    if trainer.local_rank == 0:
        _report(trainer, sorted(scores, key=lambda s: s.case), folder)
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)


def _give_back(budget: ByteBudget, size: int, _: Future[CaseScore]) -> None:
    budget.give_back(size)


def _my_cases(trainer: PartialTrainer) -> tuple[list[str], int]:
    """The validation cases with labels that this rank predicts, and the smallest number of them that a rank has."""
    _, held_out = trainer.do_split()
    cases = [case for case in held_out if trainer.partial_labels.is_informative(case)]
    if len(cases) < len(held_out):
        trainer.print_to_log_file(f"{len(held_out) - len(cases)} validation cases have no labels and are not predicted")
    world = dist.get_world_size() if trainer.is_ddp else 1
    return sorted(cases)[trainer.local_rank :: world], len(cases) // world


def _predictor(trainer: PartialTrainer, threads: int) -> Predictor:
    plan = plan_of_trainer(trainer)
    network: nn.Module = trainer.network.module if trainer.is_ddp else trainer.network
    backend = TorchBackend(
        [network], plan, device=str(trainer.device), precision="fp16" if trainer.device.type == "cuda" else "fp32"
    )
    return Predictor(plan, backend, threads=threads)


def _write_and_score(
    trainer: PartialTrainer,
    case: str,
    prediction: Prediction,
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
    target = folder / f"{case}{ending}"
    if save_probabilities:
        export_prediction_from_logits(
            torch.from_numpy(prediction.logits),
            properties,
            trainer.configuration_manager,
            trainer.plans_manager,
            trainer.dataset_json,
            str(folder / case),
            True,
        )
    else:
        reader.write_seg(prediction.labels(), str(target), properties)
    row = labels.row_of(case)
    classes = []
    for index, mask in enumerate(trainer.method.heads.masks(prediction, labels)):
        present, known = class_masks(reference, labels.states[row], index)
        classes.append(
            score_class(
                labels.class_names[index],
                present,
                mask,
                known,
                annotated=bool(labels.annotated[row, index]),
                spacing_mm=tuple(float(s) for s in properties["spacing"]),
                nsd_tolerance_mm=None,
            )
        )
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
