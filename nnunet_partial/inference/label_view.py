"""What is written into label maps in place of a model's own values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.model.plan import Decoding, PredictionPlan

if TYPE_CHECKING:
    from nnunet_partial.inference.label_values import LabelValues

__all__ = ["LabelView", "plan_label_values", "view_of"]


@dataclass(frozen=True)
class LabelView:
    """How channels become other label values than the model's own: those of a protocol, or of `LabelValues`.

    Attributes:
        channels: Channels that count, in the order in which they are painted; of models with heads by source those of
            the protocol's.
        decoding: What these mean: values are those that are written.
    """

    channels: tuple[int, ...]
    decoding: Decoding


def view_of(plan: PredictionPlan, protocol: str | None, label_values: LabelValues | None) -> LabelView | None:
    """How a model's channels become what is asked for; None where that is its own values.

    Args:
        plan: Of the model.
        protocol: Annotation set or source, see `protocol_view`.
        label_values: What is written for each class; by default what an exported model was given.

    Raises:
        PartialError: Both are given, or the model does not fit them.
    """
    # imported where there is one: the label model takes a while
    if protocol is not None:
        from nnunet_partial.inference.protocol_view import protocol_view

        if label_values is not None:
            raise PartialError("protocol and label values: expected one of them, as each says what is written")
        return protocol_view(plan.dataset_json, plan.decoding, protocol)
    if label_values is None:
        label_values = plan_label_values(plan)
    return None if label_values is None else label_values.view(plan.dataset_json, plan.decoding)


def plan_label_values(plan: PredictionPlan) -> LabelValues | None:
    """The label values that an exported model was given; None for the model's own.

    Args:
        plan: Of the model.
    """
    if plan.label_values is None:
        return None
    from nnunet_partial.inference.label_values import LabelValues

    return LabelValues(plan.label_values, "label values of the exported model")
