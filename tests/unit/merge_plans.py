"""What the tests of merge plans look at."""

from __future__ import annotations

from nnunet_partial.labels import PartialLabels
from nnunet_partial.labels.merge_plan import MergePlan


def shown(labels: PartialLabels, set_name: str, plan: MergePlan) -> dict[str, str]:
    """Name of a label value to one sign a class, in channel order: + present, - absent, ? unknown."""
    row = list(labels.sets).index(set_name)
    return {
        plan.value_names[value]: "".join("-+?"[state] for state in labels.states[row, value])
        for value in sorted(labels.sets[set_name].possible)
    }


def annotated(labels: PartialLabels, set_name: str) -> list[str]:
    row = labels.annotated[list(labels.sets).index(set_name)]
    return [name for name, known in zip(labels.class_names, row, strict=True) if known]
