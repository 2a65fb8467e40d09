"""Fast prediction with any nnU-Net v2 model: reading, windows, streamed resampling, writing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunet_partial.inference.predictor import Prediction, Predictor, open_predictor

__all__ = ["Prediction", "Predictor", "open_predictor"]


def __getattr__(name: str) -> Any:
    # only when asked for, so that the modules of this package do not import each other in circles
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nnunet_partial.inference import predictor

    return getattr(predictor, name)
