"""Networks that nnU-Net's plans cannot name by themselves, and plans that name them.

A network is named in a plans file by its import path, e.g. `nnunet_partial.networks.transunet.TransUNet3D`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnunet_partial.networks.heads import segmentation_heads, supports_deep_supervision

__all__ = ["segmentation_heads", "supports_deep_supervision"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        # on first use only: plan variants are made without PyTorch, which takes seconds to import
        if name in __all__:
            from nnunet_partial.networks import heads

            return getattr(heads, name)
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
