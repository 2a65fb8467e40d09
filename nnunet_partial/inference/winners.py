"""Which channel wins a voxel, and which channels can win anywhere between voxels.

Winners are numbers of channels counted from 1; 0 is no channel.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nnunet_partial.inference.model.plan import Decoding

__all__ = ["Argmax", "LastRegion", "Logits", "Rule", "Winners", "rule_of"]

Logits = NDArray[np.floating[Any]]
Winners = NDArray[np.unsignedinteger[Any]]


class Rule(Protocol):
    """How channels compete for a voxel."""

    def winners(self, logits: Logits, dtype: type[np.unsignedinteger[Any]]) -> Winners:
        """The winner of each voxel.

        Args:
            logits: (C, ...).
            dtype: Of the result.

        Returns:
            (...).
        """

    def candidates(self, lows: Logits, highs: Logits) -> NDArray[np.bool_]:
        """The channels that may win somewhere between neighbouring voxels; whatever wins there is one of them.

        Args:
            lows: (C, n), lowest logit of the neighbours.
            highs: (C, n), highest logit of the neighbours.

        Returns:
            (C, n).
        """


class Argmax:
    """The channel with the highest logit; of equal ones the first."""

    def winners(self, logits: Logits, dtype: type[np.unsignedinteger[Any]]) -> Winners:
        """See `Rule`."""
        if logits.ndim == 2:
            return np.asarray(self.winners(logits[:, None], dtype)[0])
        best = logits[0].astype(np.float32)
        winner = np.ones(best.shape, dtype)
        floor = best.min(-1)
        for channel in range(1, len(logits)):
            values = logits[channel].astype(np.float32, copy=False)
            # most channels win nothing in most rows
            rows = np.nonzero(values.max(-1) > floor)
            if rows[0].size == 0:
                continue
            values, so_far, won = values[rows], best[rows], winner[rows]
            np.putmask(won, values > so_far, channel + 1)
            np.maximum(so_far, values, out=so_far)
            best[rows], winner[rows], floor[rows] = so_far, won, so_far.min(-1)
        return winner

    def candidates(self, lows: Logits, highs: Logits) -> NDArray[np.bool_]:
        """See `Rule`: an average of a channel is at most its highest value, that of the winner at least its lowest."""
        return np.asarray(highs >= lows.max(0))


class LastRegion:
    """The last channel whose logit is above 0, that is its probability above one half."""

    def winners(self, logits: Logits, dtype: type[np.unsignedinteger[Any]]) -> Winners:
        """See `Rule`."""
        winner = np.zeros(logits.shape[1:], dtype)
        for channel, values in enumerate(logits, start=1):
            present = values > 0
            if present.any():
                np.putmask(winner, present, channel)
        return winner

    def candidates(self, lows: Logits, highs: Logits) -> NDArray[np.bool_]:
        """See `Rule`: a channel that is above 0 everywhere hides all before it."""
        number = np.arange(1, len(lows) + 1)[:, None]
        certain = ((lows > 0) * number).max(0)
        return np.asarray((highs > 0) & (number >= certain))


def rule_of(decoding: Decoding) -> Rule:
    """The rule of a model.

    Args:
        decoding: What its channels mean.
    """
    return LastRegion() if decoding.regions else Argmax()
